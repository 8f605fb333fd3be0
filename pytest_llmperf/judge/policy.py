"""How strictly a verdict is reached, which grade it asks for, and what settles one before a load is over."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_llmperf.judge.verdict import Outcome


class Policy(StrEnum):
    """Which evidence a verdict needs."""

    MEASURED = "measured"
    """The measured value against the limit, on no fewer samples than the quantile needs."""
    CERTAIN = "certain"
    """The sequential test that takes the requests' dependence into account: PASS and FAIL at a stated error."""


@dataclass(frozen=True)
class Settled:
    """A verdict that further load would not change, reached while the load ran."""

    outcome: Outcome
    reason: str
    """One sentence: ``TTFT p99 <= 1s: 41 of 120 requests are beyond the limit, 20x more than may be``."""
    at_s: float
    """When, in seconds since the run's start."""
