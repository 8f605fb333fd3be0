"""Which series belong to a run: a page or a Prometheus may know of other models, processes and accelerators too."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from pytest_llmperf.measure.server_metrics import ENGINE_NAMES, QUANTITIES, Owner

if TYPE_CHECKING:
    from pytest_llmperf.measure.exposition import Series

_BY_OWNER = {owner: {name for one in QUANTITIES if one.owner is owner for name in one.names} for owner in Owner}
_NO_CONTAINER = {None, "", "POD"}
"""What cAdvisor calls the sum of a pod's containers, and the one that only holds the pod's network."""


def belonging(series: Sequence[Series], model: str) -> tuple[Series, ...]:
    """Those of the engine that serves ``model``, of its process and pod, and of its pod's accelerators where labels name pods."""
    engine = _of_model([one for one in series if one.name in ENGINE_NAMES], model)
    places = {_place(one) for one in engine}
    pods = {_pod(one) for one in engine} - {None}
    gpus = [one for one in series if one.name in _BY_OWNER[Owner.GPU]]
    return (
        *engine,
        *(one for one in series if one.name in _BY_OWNER[Owner.PROCESS] and _place(one) in places),
        *(one for one in _containers(series) if _pod(one) in pods),
        *(_accelerators(gpus, pods) if pods else gpus),
    )


def tells_of_accelerators(series: Iterable[Series]) -> bool:
    """Whether any of these is an accelerator's."""
    return any(one.name in _BY_OWNER[Owner.GPU] for one in series)


def engines_in(series: Iterable[Series]) -> int:
    """From how many places (processes that are scraped) the engines' series come."""
    return len({_place(one) for one in series if one.name in ENGINE_NAMES})


def _of_model(series: Sequence[Series], model: str) -> list[Series]:
    # An adapter (LoRA) or a second name of the model is asked for by a name that no label has: then all are meant.
    if not any(one.labels.get("model_name") == model for one in series):
        return list(series)
    return [one for one in series if one.labels.get("model_name", model) == model]


def _accelerators(series: Sequence[Series], pods: set[tuple[str, str] | None]) -> list[Series]:
    """Those of these pods; where none is, those of which no label says whose they are. Another pod's are never the cell's."""
    return [one for one in series if _pod(one) in pods] or [one for one in series if _pod(one) is None]


def _containers(series: Sequence[Series]) -> list[Series]:
    return [one for one in series if one.name in _BY_OWNER[Owner.CONTAINER] and one.labels.get("container") not in _NO_CONTAINER]


def _place(series: Series) -> tuple[str | None, ...]:
    """Where a series was scraped."""
    return tuple(series.labels.get(label) for label in ("source", "job", "instance"))


def _pod(series: Series) -> tuple[str, str] | None:
    """Whose pod a series is about: an exporter's own pod stands in ``pod`` only where the other is in ``exported_pod``."""
    for prefix in ("exported_", ""):
        if pod := series.labels.get(f"{prefix}pod"):
            return series.labels.get(f"{prefix}namespace", ""), pod
    return None
