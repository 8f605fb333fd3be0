"""How a catalog lies in a directory: one file a kind (``platforms.yaml``), or one file a record (``hardware/h100.yaml``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from pytest_llmperf.errors import ConfigError, Where
from pytest_llmperf.experiment.yaml_source import KeyPath, Plain, YamlDocument, read_yaml, shown

KINDS = {
    "platforms": "platform",
    "hardware": "hardware",
    "models": "model",
    "methods": "method",
    "variants": "variant",
    "workloads": "workload",
    "profiles": "load profile",
    "slas": "SLA",
    "matrix": "matrix",
}
"""The name of a kind's file or folder, and the kind as errors name it. Prices are a list: they have no names."""

PRICES = "prices"
_SUFFIXES = (".yaml", ".yml")


def price_name(hardware: object, platform: object) -> str:
    """What errors call a price, which has no name of its own: ``h100 on eks``."""
    return f"{hardware} on {platform}"


@dataclass(frozen=True)
class Entry:
    """One record as it was written: its kind and name, and the data at ``path`` of the document."""

    kind: str
    name: str
    document: YamlDocument
    path: KeyPath
    data: Plain
    given: Mapping[str, object] = field(default_factory=dict)

    def where(self, *path: str | int) -> Where:
        """The place of the record, or of a key in it."""
        return self.document.where((*self.path, *path))


def entries_of(directory: Path) -> Iterator[Entry]:
    """Every record of a catalog directory. Raises ``ConfigError``, also for two records of one kind and name."""
    seen: dict[tuple[str, str], Entry] = {}
    for path in sorted(directory.iterdir()):
        for entry in _entries_at(path):
            before = seen.setdefault((entry.kind, entry.name), entry)
            if before is not entry:
                first = before.where()
                raise ConfigError(
                    f"{entry.kind} {entry.name!r} is defined twice (first in {first.file}:{first.line})", where=entry.where()
                )
            yield entry


def _entries_at(path: Path) -> Iterator[Entry]:
    stem = path.stem if path.suffix in _SUFFIXES else path.name
    is_yaml_file = path.is_file() and path.suffix in _SUFFIXES
    if path.is_dir() and stem in KINDS:
        for file in sorted(path.iterdir()):
            if file.suffix in _SUFFIXES:
                document = read_yaml(file)
                yield Entry(KINDS[stem], file.stem, document, (), document.data, {"name": file.stem})
    elif is_yaml_file and stem in KINDS:
        yield from _mapping_entries(KINDS[stem], read_yaml(path))
    elif is_yaml_file and stem == PRICES:
        yield from _price_entries(read_yaml(path))
    elif path.is_dir() or is_yaml_file:
        _check_no_typo(path, stem)


def _mapping_entries(kind: str, document: YamlDocument) -> Iterator[Entry]:
    if not isinstance(document.data, dict):
        raise ConfigError("must be a mapping of names to records", where=document.where(()))
    for name, data in document.data.items():
        yield Entry(kind, name, document, (name,), data, {"name": name})


def _price_entries(document: YamlDocument) -> Iterator[Entry]:
    if not isinstance(document.data, list):
        raise ConfigError("must be a list of prices", where=document.where(()))
    for index, data in enumerate(document.data):
        name = price_name(data.get("hardware"), data.get("platform")) if isinstance(data, dict) else str(index)
        yield Entry("price", name, document, (index,), data)


def _check_no_typo(path: Path, stem: str) -> None:
    """Other files may lie beside a catalog (data, a project's own fixtures), but a mistyped one must not be passed over."""
    if path.is_dir() and not any(file.suffix in _SUFFIXES for file in path.iterdir()):
        return
    # The matrix file is the one kind not named in the plural, so its plural is the likeliest slip.
    likely = {**{name: name for name in (*KINDS, PRICES)}, "matrices": "matrix"}
    close = get_close_matches(stem.lower(), likely, n=1, cutoff=0.7)
    if close:
        raise ConfigError(f"a catalog has no {stem!r}; did you mean {likely[close[0]]!r}?", where=Where(file=shown(path)))
