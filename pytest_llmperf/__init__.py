"""pytest-llmperf: performance experiments on LLM deployments as pytest suites. What suites import; nothing else is public."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_llmperf.deploy.base import Deployment
    from pytest_llmperf.experiment.profile import TraceReplay, concurrency, constant, poisson, trace
    from pytest_llmperf.experiment.records import Cell, NamedProfile, Workload
    from pytest_llmperf.experiment.sla import Sla
    from pytest_llmperf.plugin.load import Load, LoadRun

__all__ = [
    "Cell",
    "Deployment",
    "Load",
    "LoadRun",
    "NamedProfile",
    "Sla",
    "TraceReplay",
    "Workload",
    "concurrency",
    "constant",
    "poisson",
    "trace",
]

_HOMES = {
    "Cell": "experiment.records",
    "Deployment": "deploy.base",
    "Load": "plugin.load",
    "LoadRun": "plugin.load",
    "NamedProfile": "experiment.records",
    "Sla": "experiment.sla",
    "TraceReplay": "experiment.profile",
    "Workload": "experiment.records",
    "concurrency": "experiment.profile",
    "constant": "experiment.profile",
    "poisson": "experiment.profile",
    "trace": "experiment.profile",
}


def __getattr__(name: str) -> object:
    # Imported on first use: load workers and simulators are processes of this package too, and must start fast.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
