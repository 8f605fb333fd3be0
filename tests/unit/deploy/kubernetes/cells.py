"""Cells of the shipped catalog, by their ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from pytest_llmperf.deploy.kubernetes.api.kinds import Manifest
from pytest_llmperf.deploy.kubernetes.rendering.render import Rendered, render
from pytest_llmperf.deploy.kubernetes.settings import RenderSettings
from pytest_llmperf.experiment.catalog import builtin_directory, load_catalog
from pytest_llmperf.experiment.records import Cell, Variant

CATALOG = load_catalog([builtin_directory()])
PLAIN = RenderSettings()


def cell(cell_id: str, **variant: object) -> Cell:
    """``gke_h100_standalone_llama-3.1-8b``, or with an ``fp8`` behind it; ``variant`` is what a variant of its own says."""
    platform, hardware, method, model, *named = cell_id.split("_")
    found = Cell(
        CATALOG.platform_named(platform),
        CATALOG.hardware_named(hardware),
        CATALOG.method_named(method),
        CATALOG.model_named(model),
        CATALOG.variant_named(named[0] if named else "default"),
    )
    return replace(found, variant=replace(Variant(name="odd"), **variant)) if variant else found  # type: ignore[arg-type]


H100 = cell("gke_h100_standalone_llama-3.1-8b")


def rendered(
    of: Cell = H100, settings: RenderSettings = PLAIN, environ: Mapping[str, str] | None = None, suffix: str = ""
) -> Rendered:
    """A cell's objects, with nothing in the environment."""
    return render(of, settings, environ or {}, suffix)


def one_of(objects: Iterable[Manifest], kind: str) -> Manifest:
    """The only object of a kind."""
    (found,) = (one for one in objects if one["kind"] == kind)
    return found


def written(folder: Path, **files: str) -> RenderSettings:
    """A folder of YAML files as what is deployed: ``written(tmp_path, engine="kind: …")``."""
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return RenderSettings(manifests=folder)
