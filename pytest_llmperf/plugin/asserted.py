"""What a verdict does to its test, be it of one run or of an experiment of several."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from pytest_llmperf.judge.policy import Policy
from pytest_llmperf.plugin.options import settings_of

if TYPE_CHECKING:
    from pytest_llmperf.judge.verdict import Outcome
    from pytest_llmperf.plugin.options import InconclusiveIs, InvalidIs
    from pytest_llmperf.plugin.recorder import Recorder
    from pytest_llmperf.report.document import RunDocument


class LlmperfWarning(UserWarning):
    """Something was let pass that is not shown to hold; pytest lists it below the tests."""


def warn_only(message: str) -> None:
    """Warn from inside a hook, where an exception would end the session: also where warnings are errors (``-W error``)."""
    try:
        warnings.warn(LlmperfWarning(message), stacklevel=3)
    except LlmperfWarning:
        with warnings.catch_warnings():
            warnings.simplefilter("always", LlmperfWarning)
            warnings.warn(LlmperfWarning(message), stacklevel=3)


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


JUDGED = pytest.StashKey[set[str]]()
"""On a test: the ids of its runs that an experiment has judged by itself, and not by an SLA."""


def judged_by_experiment(item: pytest.Item, run_id: str) -> None:
    """Say that the experiment which made a run also sees to it where the run is INVALID: nothing else needs to judge it."""
    item.stash.setdefault(JUDGED, set()).add(run_id)


def invalid_and_unjudged(runs: Iterable[RunDocument], judged: Collection[str]) -> list[str]:
    """A line for each INVALID run that no SLA was held against, and that is not among the ``judged`` ids."""
    return [
        f"{run.label or run.profile}: {'; '.join(run.client.distrust)}"
        for run in runs
        if run.verdict == "INVALID" and run.sla is None and run.run_id not in judged
    ]


def check_unjudged(item: pytest.Item, recorder: Recorder) -> None:
    """After the body of a test that passed: skip or fail it where a run of it is INVALID and nothing has judged that run.

    What a test computes from such a run shows nothing. Which of the two it is, ``--llmperf-invalid`` says, as for a verdict.
    """
    __tracebackhide__ = True
    judged = item.stash.setdefault(JUDGED, set())
    invalid = invalid_and_unjudged(recorder.runs.values(), judged)
    if not invalid:
        return
    reason = "INVALID, and nothing judged it: " + "\n".join(invalid)
    if settings_of(item.config).invalid == "skip":
        pytest.skip(reason)
    hint = "run.meets(sla) and run.judge(sla) judge a run; --llmperf-invalid=skip skips the test instead."
    pytest.fail(f"{reason}\n  {hint}", pytrace=False)
