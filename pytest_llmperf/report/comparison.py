"""Runs beside a baseline's: which of its runs ask the same question, and how every metric stands next to them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pytest_llmperf.judge.change_interval import BETWEEN_RUNS, ENOUGH_RUNS
from pytest_llmperf.judge.fingerprint import differences
from pytest_llmperf.judge.regression import Change, ChangeVerdict, Sample, compare, worst
from pytest_llmperf.judge.tolerance import DEFAULT_TOLERANCES, Tolerance, shown_tolerance
from pytest_llmperf.metrics import MetricKey, metric_key
from pytest_llmperf.report.results_v1 import ChangePart, ComparisonPart, RunDocument
from pytest_llmperf.units import format_fraction

STANDARD_KEYS: tuple[MetricKey, ...] = (
    *(metric_key(name, statistic) for name in ("ttft", "tpot", "e2e") for statistic in ("p50", "p95", "p99")),
    metric_key("output_tokens_per_s"),
    metric_key("request_rate"),
    metric_key("error_rate"),
)
"""What is compared of every run, gated or not."""

_NO_FINGERPRINT = "the document says nothing of the conditions: it was written before baselines were kept"


@dataclass(frozen=True)
class Match:
    """The baseline's runs that a run may be compared with; without any, why not.

    ``verdict`` is then NEW (the baseline has no run of that test) or INCOMPARABLE (``differing``: the fields of the nearest one
    that are not equal, as ``was -> is``; or ``note`` says what else speaks against it).
    """

    runs: tuple[RunDocument, ...] = ()
    verdict: ChangeVerdict | None = None
    differing: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class RunKey:
    """What runs have in common that are repetitions of each other."""

    test: str
    cell_id: str
    ordinal: int
    fingerprint: frozenset[tuple[str, str]]


def test_key(run: RunDocument | str) -> str:
    """``suites/test_sla.py::test_interactive_chat``: the test of a run or a node id, without parameters and repetitions.

    A run with a label has it at the end (``… 8/s``): it is one of several parts of an experiment.
    """
    if isinstance(run, str):
        return run.partition("[")[0]
    return f"{test_key(run.node_id)} {run.label}".rstrip()


test_key.__test__ = False  # type: ignore[attr-defined]  # pytest takes what is imported and called test_… for a test


def run_key(document: RunDocument) -> RunKey:
    """The key that a run shares with its own repetitions (``--llmperf-repeat``) and with no other runs of the session."""
    return RunKey(test_key(document), document.cell.id, document.ordinal, frozenset(document.fingerprint.items()))


def matching(documents: Iterable[RunDocument], of: RunDocument) -> Match:
    """The baseline's runs of the same test with the same fingerprint.

    Where there are several cells with that fingerprint (two variants that differ in their environment), those of the run's own
    cell, else of the cell that was measured last; where the test makes several such runs, those with the same place among them.
    Interrupted and INVALID runs are no baseline.
    """
    same_test = [document for document in documents if test_key(document) == test_key(of)]
    if not same_test:
        return Match(verdict=ChangeVerdict.NEW, note=f"the baseline has no run of {test_key(of)}")
    if not of.fingerprint:
        return Match(verdict=ChangeVerdict.INCOMPARABLE, note=f"this run: {_NO_FINGERPRINT}")
    alike = [document for document in same_test if document.fingerprint == of.fingerprint]
    if not alike:
        return _nearest(same_test, of)
    trusted = [document for document in alike if not _flaw(document)]
    if not trusted:
        return Match(verdict=ChangeVerdict.INCOMPARABLE, note=f"the baseline's run {_flaw(alike[-1])}")
    cell_id = of.cell.id if any(document.cell.id == of.cell.id for document in trusted) else trusted[-1].cell.id
    of_cell = [document for document in trusted if document.cell.id == cell_id]
    same_place = [document for document in of_cell if document.ordinal == of.ordinal]
    return Match(tuple(same_place or of_cell))


def compare_runs(
    now: Sequence[RunDocument],
    baseline: Iterable[RunDocument],
    baseline_name: str,
    tolerances: Mapping[str, Tolerance],
    gated: Collection[str],
) -> ComparisonPart:
    """Hold the last of ``now``, with those before it that are its repetitions, against the baseline's runs that match it.

    ``tolerances`` by metric key; other metrics are shown with ``shown_tolerance``. ``gated`` are the keys of those that may fail
    the test. Raises ``ValueError`` without a run.
    """
    if not now:
        raise ValueError("there is no run to compare")
    last = now[-1]
    match = matching(baseline, last)
    if flaw := _flaw(last):
        match = Match(verdict=ChangeVerdict.INCOMPARABLE, note=f"this run {flaw}")
    if match.verdict is not None:
        return ComparisonPart(
            baseline=baseline_name,
            runs=(),
            verdict=match.verdict.value,
            changes=(),
            differences=dict(match.differing),
            note=match.note,
        )
    repeats = [document for document in now if run_key(document) == run_key(last) and not _flaw(document)]
    changes = [
        compare(key, samples_of(repeats, key), samples_of(match.runs, key), tolerances.get(key.name) or shown_tolerance(key))
        for key in _keys((*tolerances, *gated))
    ]
    return ComparisonPart(
        baseline=baseline_name,
        runs=tuple(document.run_id for document in match.runs),
        repeats=len(repeats),
        verdict=_overall(changes, gated).value,
        changes=tuple(_part(change, change.key.name in gated) for change in changes),
        differences=differences(last.context, match.runs[-1].context),
        note="; ".join(_remarks(repeats, match.runs)),
    )


def compare_sessions(
    now: Sequence[RunDocument],
    baseline: Sequence[RunDocument],
    baseline_name: str,
    tolerances: Mapping[str, Tolerance],
    gated: Collection[str],
) -> tuple[tuple[RunDocument, ComparisonPart], ...]:
    """Every question that a session asked, with all of its repetitions, beside the baseline; each by its last run.

    Runs with a label are parts of an experiment that judges them itself, and are left out.
    """
    asked: dict[RunKey, list[RunDocument]] = {}
    for document in now:
        if not document.label:
            asked.setdefault(run_key(document), []).append(document)
    return tuple((runs[-1], compare_runs(runs, baseline, baseline_name, tolerances, gated)) for runs in asked.values())


def samples_of(documents: Iterable[RunDocument], key: MetricKey) -> list[Sample]:
    """What each run measured of a metric; nan where it did not."""
    return [_sample(document, key) for document in documents]


def _sample(document: RunDocument, key: MetricKey) -> Sample:
    part = document.metrics.get(key.name)
    if part is None:
        return Sample(math.nan)

    def number(name: Literal["value", "low", "high"]) -> float:
        value: float | None = getattr(part, name)
        if value is not None:
            return value
        return math.inf if name in part.unbounded else math.nan

    return Sample(number("value"), number("low"), number("high"))


def _nearest(same_test: Sequence[RunDocument], of: RunDocument) -> Match:
    """Why none of them can be compared, by the run that differs in the fewest fields."""
    described = [document for document in same_test if document.fingerprint]
    if not described:
        return Match(verdict=ChangeVerdict.INCOMPARABLE, note=f"the baseline's run: {_NO_FINGERPRINT}")
    fewest = min((differences(of.fingerprint, document.fingerprint) for document in described), key=len)
    return Match(verdict=ChangeVerdict.INCOMPARABLE, differing=fewest, note="the baseline was measured under other conditions")


def _flaw(document: RunDocument) -> str:
    """Why a run's numbers cannot be compared with any; empty where they can."""
    if document.client.distrust or document.verdict == "INVALID":
        reasons = document.client.distrust or (document.sla.reasons if document.sla is not None else ())
        return f"is INVALID: {'; '.join(reasons)}" if reasons else "is INVALID"
    return "was interrupted" if document.timing.interrupted else ""


def _keys(named: Iterable[str]) -> list[MetricKey]:
    """The standard keys, and those that were named besides."""
    return list(dict.fromkeys((*STANDARD_KEYS, *map(metric_key, named))))


def _overall(changes: Sequence[Change], gated: Collection[str]) -> ChangeVerdict:
    decisive = set(gated) or {tolerance.key.name for tolerance in DEFAULT_TOLERANCES}
    return worst(change.verdict for change in changes if change.key.name in decisive)


def _remarks(now: Sequence[RunDocument], before: Sequence[RunDocument]) -> Iterable[str]:
    """What was assumed, and what the numbers of these runs depend on besides the server."""
    if max(len(now), len(before)) < ENOUGH_RUNS:
        spread = format_fraction(BETWEEN_RUNS)
        yield f"fewer than {ENOUGH_RUNS} runs on either side: a standard deviation of {spread} between runs is assumed"
    for documents, whose in ((now, "this run"), (before, "the baseline's run")):
        unstable = [d.steadiness.unstable for d in documents if d.steadiness is not None and d.steadiness.unstable]
        if unstable:
            yield f"{whose} had no steady state ({unstable[-1]}): its latencies depend on how long it ran"


def _part(change: Change, gated: bool) -> ChangePart:
    metric = change.key.metric
    is_ratio = change.tolerance.relative is not None
    sides: tuple[tuple[Literal["measured", "baseline"], float], ...] = (
        ("measured", change.measured),
        ("baseline", change.baseline),
    )
    return ChangePart(
        metric=change.key.name,
        title=change.key.title,
        unit=metric.unit.value,
        higher_is_better=metric.higher_is_better,
        measured=_finite(change.measured),
        baseline=_finite(change.baseline),
        unbounded=tuple(name for name, value in sides if value == math.inf),
        ratio=_finite(change.ratio),
        scale="ratio" if is_ratio else "difference",
        # A ratio that may be as low as 0 has no lower bound.
        low=None if is_ratio and change.low == 0 else _finite(change.low),
        high=_finite(change.high),
        tolerance=str(change.tolerance),
        gated=gated,
        verdict=change.verdict.value,
        note=change.note,
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
