"""How a measured value reads. Unlike a limit it may be unknown or without bound."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pytest_llmperf.metrics import format_value

if TYPE_CHECKING:
    from pytest_llmperf.metrics import Metric


def shown(metric: Metric, value: float) -> str:
    """A value in base units as people read it; ``inf`` where it has no bound, ``-`` where it is unknown (nan)."""
    return "inf" if math.isinf(value) else format_value(metric, value)


def shown_interval(metric: Metric, low: float, high: float) -> str:
    """``438ms..1.25s``; ``-`` where no interval is known, ``inf`` where even its low end is on a failure."""
    if math.isnan(low) or math.isnan(high):
        return "-"
    return "inf" if math.isinf(low) else f"{shown(metric, low)}..{shown(metric, high)}"
