"""One line of an SLA: the limit of a metric, its grades, and, for goodput, what a single request must keep."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from pytest_llmperf.metrics import ROUNDING, MetricKey, format_value

Comparator = Literal["<=", ">="]
Gate = Literal["target", "acceptable"]
"""The grade that a graded limit must reach for its check to pass."""
Grade = Literal["target", "acceptable", "poor", "unacceptable"]


@dataclass(frozen=True)
class Grades:
    """Limits that get laxer, in the metric's base unit; None where a grade is not told apart from the next worse one."""

    target: float
    acceptable: float | None = None
    poor: float | None = None

    def limit(self, gate: Gate) -> float:
        """The limit to keep for ``gate``: the target where nothing is said to be acceptable beyond it."""
        return self.acceptable if gate == "acceptable" and self.acceptable is not None else self.target


@dataclass(frozen=True)
class Threshold:
    """A metric's statistic and the ``limit`` (in the metric's base unit) it must keep.

    ``grades`` holds all limits of a graded line; ``limit`` is then the one that the gate asks for. ``within`` belongs to
    goodput: the per-request limits (metric name, seconds) of a good request; empty where the SLA's other lines give them.
    """

    key: MetricKey
    comparator: Comparator
    limit: float
    grades: Grades | None = None
    within: tuple[tuple[str, float], ...] = ()

    def met_by(self, value: float) -> bool:
        """Whether ``value`` (base unit) keeps the limit, to within rounding; NaN never does."""
        return self._keeps(value, self.limit)

    def at(self, gate: Gate) -> Threshold:
        """The same line with the limit that ``gate`` asks for; an ungraded line is the same at every gate."""
        return self if self.grades is None else replace(self, limit=self.grades.limit(gate))

    def grade(self, value: float) -> Grade | None:
        """The best grade whose limit ``value`` (base unit) keeps; None for a line without grades, and for NaN."""
        if self.grades is None or math.isnan(value):
            return None
        return next((grade for grade, limit in self.limits.items() if self._keeps(value, limit)), "unacceptable")

    @property
    def required(self) -> str:
        """``<= 500ms``: what a table shows."""
        return f"{self.comparator} {format_value(self.key.metric, self.limit)}"

    @property
    def limits(self) -> dict[Grade, float]:
        """The limits by their grades, the strictest first, whatever the gate; an ungraded line's one limit is its target."""
        if self.grades is None:
            return {"target": self.limit}
        found: dict[Grade, float | None] = {
            "target": self.grades.target,
            "acceptable": self.grades.acceptable,
            "poor": self.grades.poor,
        }
        return {grade: limit for grade, limit in found.items() if limit is not None}

    @property
    def request_level(self) -> float | None:
        """The quantile up to which this line binds single requests (1.0 for max); None where it binds none."""
        if not self.key.metric.per_request:
            return None
        return 1.0 if self.key.statistic == "max" else self.key.quantile

    def _keeps(self, value: float, limit: float) -> bool:
        beyond = value > limit if self.comparator == "<=" else value < limit
        return not math.isnan(value) and (not beyond or math.isclose(value, limit, rel_tol=ROUNDING))
