"""Requests in the order of their arrival, as far as they are known: what every verdict on dependent samples is made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pytest_llmperf.load.records import Floats


@dataclass(frozen=True)
class Observations:
    """Columns of shape (n,), one row a request that was scheduled until ``now_s``, the warm-up's included, in arrival order.

    ``latencies`` has the metrics of ``measure.latencies.PER_REQUEST``: +inf for a request that failed, nan where an answered
    request has no such latency or one in flight has none yet.
    """

    now_s: float
    """Until when the load was watched, in seconds since the run's start; for a finished run the end of its last request."""
    scheduled_s: Floats
    counted: NDArray[np.bool_]
    """Within the measured window, and not cancelled when the load ended."""
    ended: NDArray[np.bool_]
    failed: NDArray[np.bool_]
    in_flight: Floats
    """How many other requests were at the target when this one arrived."""
    latencies: Mapping[str, Floats]

    def __len__(self) -> int:
        return len(self.scheduled_s)
