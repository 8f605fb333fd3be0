"""The catalog: every record an experiment can name, read from directories of YAML; a later directory overrides by name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from pytest_llmperf.errors import ConfigError, Where, unknown
from pytest_llmperf.experiment.catalog_files import Entry, entries_of, price_name
from pytest_llmperf.experiment.matrix import Matrix, check_names
from pytest_llmperf.experiment.overrides import check_overrides
from pytest_llmperf.experiment.records import Hardware, Method, Model, NamedProfile, Platform, Price, Variant, Workload
from pytest_llmperf.experiment.sla import Sla, SlaKeyError, parse_sla
from pytest_llmperf.experiment.validation import build, check_given
from pytest_llmperf.experiment.yaml_source import shown

Record = TypeVar("Record")

# What a record's place decides, or what is computed: keys that its YAML may not hold.
_DERIVED: Mapping[str, tuple[str, ...]] = {"hardware": ("count",)}


@dataclass(frozen=True)
class Catalog:
    """Records by name (prices by hardware and platform). ``entries`` are the places they were read from, for errors."""

    platforms: Mapping[str, Platform] = field(default_factory=dict)
    hardware: Mapping[str, Hardware] = field(default_factory=dict)
    models: Mapping[str, Model] = field(default_factory=dict)
    methods: Mapping[str, Method] = field(default_factory=dict)
    variants: Mapping[str, Variant] = field(default_factory=dict)
    workloads: Mapping[str, Workload] = field(default_factory=dict)
    profiles: Mapping[str, NamedProfile] = field(default_factory=dict)
    slas: Mapping[str, Sla] = field(default_factory=dict)
    prices: Mapping[tuple[str, str], Price] = field(default_factory=dict)
    matrices: Mapping[str, Matrix] = field(default_factory=dict)
    entries: Mapping[tuple[str, str], Entry] = field(default_factory=dict, repr=False, compare=False)

    def platform_named(self, name: str, where: Where | None = None) -> Platform:
        """Raises ``ConfigError`` with the nearest name; ``where`` is who asked. So do the other ``*_named``."""
        return _named("platform", self.platforms, name, where)

    def hardware_named(self, name: str, where: Where | None = None) -> Hardware:
        """``h100`` or, with a count the hardware comes in, ``h100x4``. Raises ``ConfigError``."""
        if name in self.hardware:
            return self.hardware[name]
        match = re.fullmatch(r"(.+)x([1-9]\d*)", name)
        if match is None:
            raise unknown("hardware", name, self.hardware, where)
        base, count = self.hardware.get(match[1]), int(match[2])
        if base is None:
            counted = [replace(each, count=count).id for each in self.hardware.values() if count in each.counts]
            raise unknown("hardware", name, counted or self.hardware, where)
        if count not in base.counts:
            counted = [replace(base, count=each).id for each in base.counts]
            raise ConfigError(
                f"unknown hardware {name!r}: {base.name} does not come in that number",
                where=where,
                hint=f"Known: {', '.join(counted)}.",
            )
        return replace(base, count=count)

    def method_named(self, name: str, where: Where | None = None) -> Method:
        """How an engine is deployed, by name."""
        return _named("method", self.methods, name, where)

    def model_named(self, name: str, where: Where | None = None) -> Model:
        """A model, by name."""
        return _named("model", self.models, name, where)

    def variant_named(self, name: str, where: Where | None = None) -> Variant:
        """A variant, by name."""
        return _named("variant", self.variants, name, where)

    def workload_named(self, name: str, where: Where | None = None) -> Workload:
        """A workload, by name."""
        return _named("workload", self.workloads, name, where)

    def profile_named(self, name: str, where: Where | None = None) -> NamedProfile:
        """A load profile, by name."""
        return _named("load profile", self.profiles, name, where)

    def sla_named(self, name: str, where: Where | None = None) -> Sla:
        """An SLA, by name."""
        return _named("SLA", self.slas, name, where)

    def matrix_named(self, name: str, where: Where | None = None) -> Matrix:
        """A matrix, by name."""
        return _named("matrix", self.matrices, name, where)

    def profile_for(self, workload: Workload) -> NamedProfile:
        """The load at which a workload's SLA is held. Raises ``ConfigError`` when the workload names none."""
        if workload.profile is None:
            raise ConfigError(
                f"workload {workload.name!r} names no load profile",
                where=self.where("workload", workload.name),
                hint=f"Add 'profile:' to it. Known: {', '.join(sorted(self.profiles))}.",
            )
        return self.profile_named(workload.profile, self.where("workload", workload.name, "profile"))

    def sla_for(self, workload: Workload) -> Sla:
        """The SLA that fits a workload. Raises ``ConfigError`` when the workload names none."""
        if workload.sla is None:
            raise ConfigError(
                f"workload {workload.name!r} names no SLA",
                where=self.where("workload", workload.name),
                hint=f"Add 'sla:' to it. Known: {', '.join(sorted(self.slas))}.",
            )
        return self.sla_named(workload.sla, self.where("workload", workload.name, "sla"))

    def price_of(self, hardware: Hardware, platform: Platform) -> Price | None:
        """What one accelerator costs there; None where the catalog has no price."""
        return self.prices.get((hardware.name, platform.name))

    def where(self, kind: str, name: str, *path: str | int) -> Where | None:
        """The place of a record, or of a key in it (``kind`` as errors name it: ``matrix``); None when it came from no file."""
        entry = self.entries.get((kind, name))
        return entry.where(*path) if entry else None


def builtin_directory() -> Path:
    """The catalog that is shipped. Raises ``ConfigError`` when the installation has none."""
    return _shipped("fixtures")


def catalog_directories(rootdir: Path, chosen: Path | None, where: Where) -> list[Path]:
    """The built-in catalog, then the ``chosen`` one or else the ``fixtures/`` that ``rootdir`` has.

    Raises ``ConfigError`` at ``where`` when the chosen one is no directory.
    """
    builtin = builtin_directory()
    if chosen is not None and not chosen.is_dir():
        raise ConfigError(f"the catalog directory {str(chosen)!r} does not exist", where=where)
    own = chosen or rootdir / "fixtures"
    return [builtin, own] if own.is_dir() and own.resolve() != builtin.resolve() else [builtin]


def manifests_directory() -> Path:
    """The Kubernetes manifests that are shipped. Raises ``ConfigError`` when the installation has none."""
    return _shipped("manifests")


def load_catalog(directories: Sequence[Path]) -> Catalog:
    """Read and check the directories; a record of a later one takes the place of an earlier one's of the same name.

    Raises one ``ConfigError`` for the first thing that is wrong, also for a name that is referred to and does not exist.
    """
    entries: dict[tuple[str, str], Entry] = {}
    for directory in directories:
        if not directory.is_dir():
            raise ConfigError("the catalog directory does not exist", where=Where(file=shown(directory)))
        entries.update(((entry.kind, entry.name), entry) for entry in entries_of(directory))
    prices = _records(entries, "price", Price)
    catalog = Catalog(
        platforms=_records(entries, "platform", Platform),
        hardware=_records(entries, "hardware", Hardware),
        models=_records(entries, "model", Model),
        methods=_records(entries, "method", Method),
        variants=_records(entries, "variant", Variant),
        workloads=_records(entries, "workload", Workload),
        profiles=_records(entries, "load profile", NamedProfile),
        slas={entry.name: _sla(entry) for entry in entries.values() if entry.kind == "SLA"},
        prices={(price.hardware, price.platform): price for price in prices.values()},
        matrices=_records(entries, "matrix", Matrix),
        entries=entries,
    )
    _check_references(catalog)
    return catalog


def _records(entries: Mapping[tuple[str, str], Entry], kind: str, record_type: type[Record]) -> dict[str, Record]:
    derived = _DERIVED.get(kind, ())
    return {
        entry.name: build(record_type, entry.document, entry.path, entry.data, entry.given, derived)
        for entry in entries.values()
        if entry.kind == kind
    }


def _sla(entry: Entry) -> Sla:
    if not isinstance(entry.data, Mapping):
        raise ConfigError("must be a mapping of metrics to limits", where=entry.where())
    check_given(entry.document, entry.path, entry.data, entry.given)
    try:
        return parse_sla(entry.name, {key: limit for key, limit in entry.data.items() if key not in entry.given})
    except SlaKeyError as error:
        raise ConfigError(str(error), where=entry.where(*error.path)) from None


def _check_references(catalog: Catalog) -> None:
    for hardware in catalog.hardware.values():
        for platform in hardware.node_labels:
            catalog.platform_named(platform, catalog.where("hardware", hardware.name, "node_labels", platform))
    for workload in catalog.workloads.values():
        if workload.sla is not None:
            catalog.sla_for(workload)
        if workload.profile is not None:
            catalog.profile_for(workload)
    for profile in catalog.profiles.values():
        for hardware_id in profile.hardware:
            catalog.hardware_named(hardware_id, catalog.where("load profile", profile.name, "hardware", hardware_id))
    for price in catalog.prices.values():
        name = price_name(price.hardware, price.platform)
        _named("hardware", catalog.hardware, price.hardware, catalog.where("price", name, "hardware"))
        catalog.platform_named(price.platform, catalog.where("price", name, "platform"))
    for matrix in catalog.matrices.values():
        check_names(matrix, catalog)
    for sla in catalog.slas.values():
        check_overrides(sla, catalog, partial(catalog.where, "SLA", sla.name))


def _named(kind: str, records: Mapping[str, Record], name: str, where: Where | None) -> Record:
    if name not in records:
        raise unknown(kind, name, records, where)
    return records[name]


def _shipped(name: str) -> Path:
    package = Path(__file__).resolve().parents[1]
    # In a wheel the files are package data; in a checkout they lie at the top, where people look for them.
    candidates = (package / "data" / name, package.parent / name)
    found = next((path for path in candidates if path.is_dir()), None)
    if found is None:
        raise ConfigError(f"the installation is incomplete: it has no {name!r}", where=Where(file=str(candidates[0])))
    return found
