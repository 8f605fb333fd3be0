"""Rendered objects as files, for whoever wants to read or apply them: a folder for each cell, a file for each object."""

from __future__ import annotations

from pathlib import Path

from pytest_llmperf.deploy.kubernetes.api.kinds import Manifest
from pytest_llmperf.deploy.kubernetes.rendering.manifests import dump, hidden
from pytest_llmperf.deploy.kubernetes.rendering.render import Rendered
from pytest_llmperf.deploy.kubernetes.rendering.sources import RELEASE_NAMESPACE
from pytest_llmperf.errors import ConfigError, Where
from pytest_llmperf.experiment.yaml_source import shown

_FIRST_LINE = "# Rendered by pytest-llmperf for "
_MASKED = "# *** stands for a secret, which is not written to files: put it in, or make the object by hand.\n"
_UNPLACED = f"# {RELEASE_NAMESPACE} stands for the namespace that this is applied to: put it in.\n"


def write_rendered(folder: Path, rendered: Rendered) -> list[Path]:
    """Write ``FOLDER/<cell>/NN-kind-name.yaml``, in the order of applying and without secrets; the files.

    What an earlier call has written for the cell goes: ``kubectl apply -f FOLDER/<cell>`` takes all that lies there. Raises
    ``ConfigError`` where nothing can be written.
    """
    of_cell = folder / rendered.cell.id
    try:
        of_cell.mkdir(parents=True, exist_ok=True)
        _remove_earlier(of_cell)
        return [_write(of_cell, number, one, rendered.cell.id) for number, one in enumerate(rendered.objects, start=1)]
    except OSError as error:
        raise ConfigError(f"cannot be written to: {error.strerror}", where=Where(file=shown(of_cell))) from None


def has_secrets(manifest: Manifest) -> bool:
    """Whether its file lacks something that ``kubectl apply`` would need."""
    return hidden(manifest) != manifest


def _write(folder: Path, number: int, manifest: Manifest, cell_id: str) -> Path:
    path = folder / f"{number:02d}-{manifest['kind'].lower()}-{manifest['metadata']['name']}.yaml"
    text = dump([manifest])
    notes = (_MASKED if has_secrets(manifest) else "") + (_UNPLACED if RELEASE_NAMESPACE in text else "")
    path.write_text(f"{_FIRST_LINE}{cell_id}\n{notes}{text}", encoding="utf-8")
    return path


def _remove_earlier(folder: Path) -> None:
    for path in folder.glob("*.yaml"):
        with path.open(encoding="utf-8") as file:
            is_ours = file.readline().startswith(_FIRST_LINE)
        if is_ours:
            path.unlink()
