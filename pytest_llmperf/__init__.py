"""pytest-llmperf: performance experiments on LLM deployments as pytest suites. What suites import; nothing else is public."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_llmperf.deploy.base import Deployment
    from pytest_llmperf.experiment.profile import TraceReplay, bursts, concurrency, constant, gamma, poisson, trace
    from pytest_llmperf.experiment.records import Cell, NamedProfile, Workload
    from pytest_llmperf.experiment.sla import Sla
    from pytest_llmperf.experiment.stages import hold, ramp, spikes, stages, stairs
    from pytest_llmperf.plugin.baseline import BaselineOfTest
    from pytest_llmperf.plugin.capacity import CapacityResult, FindCapacity, Sweep, SweepResult
    from pytest_llmperf.plugin.drift import drift
    from pytest_llmperf.plugin.load import Load, LoadRun
    from pytest_llmperf.plugin.variants import CompareVariants, VariantsResult

__all__ = [
    "BaselineOfTest",
    "CapacityResult",
    "Cell",
    "CompareVariants",
    "Deployment",
    "FindCapacity",
    "Load",
    "LoadRun",
    "NamedProfile",
    "Sla",
    "Sweep",
    "SweepResult",
    "TraceReplay",
    "VariantsResult",
    "Workload",
    "bursts",
    "concurrency",
    "constant",
    "drift",
    "gamma",
    "hold",
    "poisson",
    "ramp",
    "spikes",
    "stages",
    "stairs",
    "trace",
]

_HOMES = {
    "BaselineOfTest": "plugin.baseline",
    "CapacityResult": "plugin.capacity",
    "Cell": "experiment.records",
    "CompareVariants": "plugin.variants",
    "Deployment": "deploy.base",
    "FindCapacity": "plugin.capacity",
    "Load": "plugin.load",
    "LoadRun": "plugin.load",
    "NamedProfile": "experiment.records",
    "Sla": "experiment.sla",
    "Sweep": "plugin.capacity",
    "SweepResult": "plugin.capacity",
    "TraceReplay": "experiment.profile",
    "VariantsResult": "plugin.variants",
    "Workload": "experiment.records",
    "bursts": "experiment.profile",
    "concurrency": "experiment.profile",
    "constant": "experiment.profile",
    "drift": "plugin.drift",
    "gamma": "experiment.profile",
    "hold": "experiment.stages",
    "poisson": "experiment.profile",
    "ramp": "experiment.stages",
    "spikes": "experiment.stages",
    "stages": "experiment.stages",
    "stairs": "experiment.stages",
    "trace": "experiment.profile",
}


def __getattr__(name: str) -> object:
    # Imported on first use: load workers and simulators are processes of this package too, and must start fast.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
