"""What a verdict does to its test, be it of one run or of an experiment of several."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from pytest_llmperf.judge.policy import Policy

if TYPE_CHECKING:
    from pytest_llmperf.judge.verdict import Outcome
    from pytest_llmperf.plugin.options import InconclusiveIs, InvalidIs


class LlmperfWarning(UserWarning):
    """Something was let pass that is not shown to hold; pytest lists it below the tests."""


class ExperimentMissError(AssertionError):
    """An experiment did not show what was asserted; the message is its table. An assertion, so that the test *fails*."""


@dataclass(frozen=True)
class Rules:
    """How verdicts are reached, and what becomes of a test whose verdict is neither PASS nor FAIL."""

    policy: Policy = Policy.MEASURED
    inconclusive: InconclusiveIs = "fail"
    invalid: InvalidIs = "fail"


def asserted(outcome: Outcome, rules: Rules, table: str, reason: str, miss: AssertionError | None = None) -> bool:
    """True for PASS; else skips the test or raises ``miss`` (default: an ``ExperimentMissError`` with the table).

    What INCONCLUSIVE and INVALID do is for ``--llmperf-inconclusive`` and ``--llmperf-invalid`` to say.
    """
    __tracebackhide__ = True
    treatments = {"PASS": "pass", "INCONCLUSIVE": rules.inconclusive, "INVALID": rules.invalid}
    match treatments.get(outcome.value, "fail"):
        case "skip":
            pytest.skip(f"{outcome}: {reason}")
        case "fail":
            raise miss or ExperimentMissError(f"{outcome}: {reason}\n{table}")
    if outcome.value != "PASS":
        warnings.warn(LlmperfWarning(table), stacklevel=3)
    return True
