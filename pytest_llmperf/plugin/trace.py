"""Which trace a replay suite replays, and for how long."""

from __future__ import annotations

from typing import Literal

from pytest_llmperf.experiment.catalog import builtin_directory
from pytest_llmperf.experiment.profile import TraceReplay, trace
from pytest_llmperf.plugin.options import Settings

DEFAULT_TRACE = "traces/synthetic-chat.csv"
DEFAULT_DURATION_S = 20.0


def trace_profile(settings: Settings) -> tuple[TraceReplay, str | None]:
    """The profile and the duration to give to ``load``: all of a trace that was named, unless a duration was too."""
    path = settings.trace or builtin_directory() / DEFAULT_TRACE
    kind: Literal["azure", "mooncake"] = "mooncake" if path.suffix == ".jsonl" else "azure"
    seconds = settings.trace_duration_s or (DEFAULT_DURATION_S if settings.trace is None else None)
    return trace(path, kind=kind, time_scale=settings.trace_scale), f"{seconds:g}s" if seconds is not None else None
