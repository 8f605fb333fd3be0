"""Whether the hardware and the cells that an SLA's overrides name exist."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_llmperf.errors import ConfigError, Where, nearest
from pytest_llmperf.experiment.matrix import expand

if TYPE_CHECKING:
    from pytest_llmperf.experiment.catalog import Catalog
    from pytest_llmperf.experiment.sla import Sla


def check_overrides(sla: Sla, catalog: Catalog, place: Callable[[str, str], Where | None]) -> None:
    """Hold every override's name against the catalog; a cell must be in one of its matrices, or it could never run.

    ``place`` says where ``(scope, name)`` was written. Raises ``ConfigError`` with the nearest name.
    """
    for override in sla.overrides:
        where = place(override.scope, override.name)
        if override.scope == "hardware":
            catalog.hardware_named(override.name, where)
        else:
            _check_cell(override.name, catalog, where)


def _check_cell(name: str, catalog: Catalog, where: Where | None) -> None:
    ids = _cell_ids(catalog)
    if name not in ids:
        close = nearest(name, ids)
        raise ConfigError(
            f"unknown cell {name!r}: no matrix of the catalog has it",
            where=where,
            hint=f"Did you mean {close!r}?" if close else "A cell's id is like 'gke_h100_standalone_llama-3.1-8b'.",
        )


def _cell_ids(catalog: Catalog) -> set[str]:
    ids: set[str] = set()
    for matrix in catalog.matrices.values():
        try:
            ids.update(cell.id for cell in expand(matrix, catalog))
        except ConfigError:
            # A matrix that yields no cells is told of when it is asked for; an SLA is no reason to.
            continue
    return ids
