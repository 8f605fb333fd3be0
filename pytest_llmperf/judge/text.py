"""How a measured value and what is required of it read. Unlike a limit a value may be unknown or without bound."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pytest_llmperf.metrics import METRICS, format_value

if TYPE_CHECKING:
    from pytest_llmperf.experiment.sla import Threshold
    from pytest_llmperf.metrics import Metric


def shown(metric: Metric, value: float) -> str:
    """A value in base units as people read it; ``inf`` where it has no bound, ``-`` where it is unknown (nan)."""
    return "inf" if math.isinf(value) else format_value(metric, value)


def shown_interval(metric: Metric, low: float, high: float) -> str:
    """``438ms..1.25s``; ``-`` where no interval is known, ``inf`` where even its low end is on a failure."""
    if math.isnan(low) or math.isnan(high):
        return "-"
    return "inf" if math.isinf(low) else f"{shown(metric, low)}..{shown(metric, high)}"


def request_terms(threshold: Threshold) -> str:
    """``TTFT <= 1s, TPOT <= 50ms``: what a good request keeps, where goodput's own line says so; else empty."""
    return ", ".join(f"{METRICS[name].title} <= {format_value(METRICS[name], limit)}" for name, limit in threshold.within)


def required_in_full(threshold: Threshold) -> str:
    """``<= 500ms``; for goodput with limits of its own ``>= 95% of requests with TTFT <= 1s``."""
    terms = request_terms(threshold)
    return f"{threshold.required} of requests with {terms}" if terms else threshold.required
