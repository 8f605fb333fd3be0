"""Runs beside a baseline's: which of its runs ask the same question, and how every metric stands next to them."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pytest_llmperf.errors import ConfigError, Where, unknown
from pytest_llmperf.judge.change_interval import BETWEEN_RUNS, ENOUGH_RUNS
from pytest_llmperf.judge.fingerprint import context_differences, differences
from pytest_llmperf.judge.regression import Change, ChangeVerdict, compare, worst
from pytest_llmperf.judge.tolerance import DEFAULT_TOLERANCES, Tolerance, shown_tolerance
from pytest_llmperf.metrics import MetricKey, metric_key
from pytest_llmperf.report.change_part import change_part, samples_of
from pytest_llmperf.report.results_v2 import ComparisonPart, RunDocument
from pytest_llmperf.units import format_fraction

STANDARD_KEYS: tuple[MetricKey, ...] = (
    *(metric_key(name, statistic) for name in ("ttft", "tpot", "e2e") for statistic in ("p50", "p95", "p99")),
    metric_key("output_tokens_per_s"),
    metric_key("request_rate"),
    metric_key("error_rate"),
)
"""What is compared of every run, gated or not."""

NO_FINGERPRINT = "the document says nothing of the conditions: it was written before baselines were kept"
"""Said of a run without a fingerprint, in place of every field that it does not have."""
_CANNOT_TELL = frozenset({"incomparable", "missing"})
_REPETITION = r"run\d+of\d+"


@dataclass(frozen=True)
class Match:
    """The baseline's runs that a run may be compared with; without any, why not.

    ``verdict`` is then NEW (the baseline has no run of that test, or ``is_new_cell``) or INCOMPARABLE (``differing``: the fields
    of the nearest one that are not equal, as ``was -> is``; or ``note`` says what else speaks against it).
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


def repetition_id(number: int, of: int) -> str:
    """``run1of3``: the first of a test's repetitions, as its node id says it right behind the cell.

    Not only ``1of3``: a test may have such a parameter of its own, and it would stand in the same place.
    """
    return f"run{number}of{of}"


def test_key(run: RunDocument | str, cell_id: str | None = None) -> str:  # noqa: PT028 - it is no test
    """``suites/test_sla.py::test_cold[2s]``: the test of a run, or of a node id in a cell, with its own parameters.

    Those are what is left without the cell and the repetition (``run1of3``). A node id without its cell loses all of them.
    A run with a label has it at the end (``… 8/s``): it is one of several parts of an experiment.
    """
    if not isinstance(run, str):
        return f"{test_key(run.node_id, run.cell.id)} {run.label}".rstrip()
    name, parameters = _name_and_parameters(run, cell_id)
    return f"{name}[{parameters}]" if parameters and cell_id is not None else name


test_key.__test__ = False  # type: ignore[attr-defined]  # pytest takes what is imported and called test_… for a test


def _name_and_parameters(node_id: str, cell_id: str | None) -> tuple[str, str]:
    """A test's name, and its parameters but for the cell and the repetition, joined by ``-`` as pytest does."""
    file, colons, rest = node_id.partition("::")
    name, _, bracketed = rest.partition("[")
    parameters = bracketed.removesuffix("]")
    # The two are made into parameters one right after the other, so nothing stands between them.
    found = re.search(rf"(?:^|-){re.escape(cell_id)}(?:-{_REPETITION})?(?=-|$)", parameters) if cell_id else None
    if found is not None:
        before, behind = parameters[: found.start()], parameters[found.end() :]
        parameters = before + behind if before else behind.removeprefix("-")
    return f"{file}{colons}{name}", parameters


def title_of(run: RunDocument) -> str:
    """``suites/test_chat.py::test_meets_sla[gke_h100_standalone_llama-3.1-8b]``: the test, the cell, and its other parameters.

    Behind it ``#2`` for the second run that a test makes, and the label of a run that is part of an experiment.
    """
    name, parameters = _name_and_parameters(run.node_id, run.cell.id)
    ordinal = f" #{run.ordinal}" if run.ordinal > 1 else ""
    label = f" {run.label}" if run.label else ""
    return f"{name}[{'-'.join(filter(None, (run.cell.id, parameters)))}]{ordinal}{label}"


def run_key(document: RunDocument) -> RunKey:
    """The key that a run shares with its own repetitions (``--llmperf-repeat``) and with no other runs of the session."""
    return RunKey(test_key(document), document.cell.id, document.ordinal, frozenset(document.fingerprint.items()))


def by_question(documents: Iterable[RunDocument]) -> dict[RunKey, list[RunDocument]]:
    """Runs and their repetitions, by what they have in common; in the order in which each first appears."""
    asked: dict[RunKey, list[RunDocument]] = {}
    for document in documents:
        asked.setdefault(run_key(document), []).append(document)
    return asked


def is_new_cell(documents: Iterable[RunDocument], test: str, cell_id: str, *, other_cells_match: bool) -> bool:
    """Whether a cell is new beside a baseline: it has no run of the ``test`` (its key) there, but others that are compared.

    ``other_cells_match``: whether the same session compares another cell of the test. If it does not, a cell without a run is
    a baseline of something else.
    """
    return other_cells_match and all(run.cell.id != cell_id for run in documents if test_key(run) == test)


def matching(documents: Iterable[RunDocument], of: RunDocument, *, other_cells_match: bool = False) -> Match:
    """The baseline's runs of the same test with the same fingerprint; ``other_cells_match`` as for ``is_new_cell``.

    Where there are several cells with that fingerprint (two variants that differ in their environment), those of the run's own
    cell, else of the cell that was measured last; where the test makes several such runs, those with the same place among them.
    Interrupted and INVALID runs are no baseline.
    """
    same_test = [document for document in documents if test_key(document) == test_key(of)]
    if not same_test:
        return Match(verdict=ChangeVerdict.NEW, note=f"the baseline has no run of {test_key(of)}")
    if not of.fingerprint:
        return Match(verdict=ChangeVerdict.INCOMPARABLE, note=f"this run: {NO_FINGERPRINT}")
    alike = [document for document in same_test if document.fingerprint == of.fingerprint]
    if not alike and is_new_cell(same_test, test_key(of), of.cell.id, other_cells_match=other_cells_match):
        note = f"the baseline has other cells of {test_key(of)}, and no run of {of.cell.id}"
        return Match(verdict=ChangeVerdict.NEW, note=note)
    if not alike:
        return _nearest(same_test, of)
    trusted = [document for document in alike if not flaw(document)]
    if not trusted:
        return Match(verdict=ChangeVerdict.INCOMPARABLE, note=f"the baseline's run {flaw(alike[-1])}")
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
    *,
    other_cells_match: bool = False,
) -> ComparisonPart:
    """Hold ``now``, a run and the repetitions of it before (``by_question``), against the baseline's runs that match them.

    Those of ``now`` that are INVALID or were interrupted are left out; where that is all of them, nothing is compared.
    ``tolerances`` by metric key; other metrics are shown with ``shown_tolerance``. ``gated`` are the keys of those that may fail
    the test; ``other_cells_match`` as for ``is_new_cell``. Raises ``ValueError`` without a run, and for runs that are no
    repetitions of each other.
    """
    if len(set(map(run_key, now))) != 1:
        raise ValueError("the runs are not repetitions of each other" if now else "there is no run to compare")
    repeats = [document for document in now if not flaw(document)]
    last = (repeats or now)[-1]
    match = matching(baseline, last, other_cells_match=other_cells_match)
    if why := flaw(last):
        match = Match(verdict=ChangeVerdict.INCOMPARABLE, note=f"this run {why}")
    if match.verdict is not None:
        return ComparisonPart(
            baseline=baseline_name,
            runs=(),
            verdict=match.verdict.value,
            changes=(),
            differences=dict(match.differing),
            note=match.note,
        )
    changes = [
        compare(key, samples_of(repeats, key), samples_of(match.runs, key), tolerances.get(key.name) or shown_tolerance(key))
        for key in _keys((*tolerances, *gated))
    ]
    return ComparisonPart(
        baseline=baseline_name,
        runs=tuple(document.run_id for document in match.runs),
        repeats=len(repeats),
        verdict=_overall(changes, gated).value,
        changes=tuple(change_part(change, change.key.name in gated) for change in changes),
        differences=context_differences(last.context, match.runs[-1].context),
        note="; ".join(_remarks(repeats, match.runs)),
    )


def check_measured(key: str, baseline: Collection[RunDocument], baseline_name: str, where: Where) -> None:
    """Refuse to gate a metric of which none of the baseline's runs has a value: it could fail nothing. Raises ``ConfigError``."""
    parts = [run.metrics[key] for run in baseline if key in run.metrics]
    if not parts:
        known = sorted({name for run in baseline for name in run.metrics})
        raise unknown(f"metric of baseline {baseline_name!r}", key, known, where)
    # What is infinite was measured: so many requests failed.
    if all(part.value is None and "value" not in part.unbounded for part in parts):
        raise ConfigError(
            f"no run of baseline {baseline_name!r} that could be compared has a value of {metric_key(key).title} ({key})",
            where=where,
            hint="TTFT, TPOT and ITL need streamed answers, goodput an SLA, cost a price. Gate another metric, such as e2e_p50.",
        )


def compare_sessions(
    now: Sequence[RunDocument],
    baseline: Sequence[RunDocument],
    baseline_name: str,
    tolerances: Mapping[str, Tolerance],
    gated: Collection[str],
) -> tuple[tuple[RunDocument, ComparisonPart], ...]:
    """Every question that a session asked, with all of its repetitions, beside the baseline; each by its last run.

    Runs with a label are parts of an experiment that judges them itself, and are left out. A cell that the baseline has no run
    of is new where another cell of the same test matches.
    """
    asked = by_question(document for document in now if not document.label)
    matched = {(key.test, key.cell_id) for key, runs in asked.items() if matching(baseline, runs[-1]).runs}

    def compared(key: RunKey, runs: Sequence[RunDocument]) -> ComparisonPart:
        others = any(test == key.test and cell_id != key.cell_id for test, cell_id in matched)
        return compare_runs(runs, baseline, baseline_name, tolerances, gated, other_cells_match=others)

    return tuple((runs[-1], compared(key, runs)) for key, runs in asked.items())


def regressed(part: ComparisonPart) -> bool:
    """Whether a gated metric is worse than it may be."""
    return any(change.verdict == "regressed" for change in part.changes if change.gated)


def cannot_tell(part: ComparisonPart) -> bool:
    """Whether the runs could not be compared at all, or a gated metric is gone."""
    return part.verdict == "incomparable" or any(change.verdict in _CANNOT_TELL for change in part.changes if change.gated)


def failing(part: ComparisonPart) -> bool:
    """Whether a comparison fails its test: a gated metric regressed or is gone, or nothing could be compared."""
    return regressed(part) or cannot_tell(part)


def is_invalid(document: RunDocument) -> bool:
    """Whether a run's measurement cannot be trusted."""
    return bool(document.client.distrust) or document.verdict == "INVALID"


def invalid_reasons(document: RunDocument) -> tuple[str, ...]:
    """Why an INVALID run is; empty where its document does not say."""
    return document.client.distrust or (document.sla.reasons if document.sla is not None else ())


def flaw(document: RunDocument) -> str:
    """Why a run's numbers cannot be compared with any, ``is INVALID: …`` or ``was interrupted``; empty where they can."""
    if is_invalid(document):
        reasons = invalid_reasons(document)
        return f"is INVALID: {'; '.join(reasons)}" if reasons else "is INVALID"
    return "was interrupted" if document.timing.interrupted else ""


def _nearest(same_test: Sequence[RunDocument], of: RunDocument) -> Match:
    """Why none of them can be compared, by the run that differs in the fewest fields."""
    described = [document for document in same_test if document.fingerprint]
    if not described:
        return Match(verdict=ChangeVerdict.INCOMPARABLE, note=f"the baseline's run: {NO_FINGERPRINT}")
    fewest = min((differences(of.fingerprint, document.fingerprint) for document in described), key=len)
    return Match(verdict=ChangeVerdict.INCOMPARABLE, differing=fewest, note="the baseline was measured under other conditions")


def _keys(named: Iterable[str]) -> list[MetricKey]:
    """The standard keys, and those that were named besides."""
    return list(dict.fromkeys((*STANDARD_KEYS, *map(metric_key, named))))


def _overall(changes: Sequence[Change], gated: Collection[str]) -> ChangeVerdict:
    decisive = set(gated) or {tolerance.key.name for tolerance in DEFAULT_TOLERANCES}
    asked = [change for change in changes if change.key.name in decisive]
    # What neither side can have (TTFT of a workload that does not stream) says nothing of the two, unless there is nothing else.
    told = [change for change in asked if change.verdict is not ChangeVerdict.NEW or not math.isnan(change.measured)]
    return worst(change.verdict for change in told or asked)


def _remarks(now: Sequence[RunDocument], before: Sequence[RunDocument]) -> Iterable[str]:
    """What was assumed, and what the numbers of these runs depend on besides the server."""
    if max(len(now), len(before)) < ENOUGH_RUNS:
        spread = format_fraction(BETWEEN_RUNS)
        yield f"fewer than {ENOUGH_RUNS} runs on either side: a standard deviation of {spread} between runs is assumed"
    for documents, whose in ((now, "this run"), (before, "the baseline's run")):
        unstable = [d.steadiness.unstable for d in documents if d.steadiness is not None and d.steadiness.unstable]
        if unstable:
            yield f"{whose} had no steady state ({unstable[-1]}): its latencies depend on how long it ran"
