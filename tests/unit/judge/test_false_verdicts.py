"""How often verdicts are wrong: runs of the simulator's engine in virtual time, judged against limits on both sides of the truth.

A small edition of tests/perf/test_verdicts.py, with the same seeds every time: a rule whose true error rate is at its bound
fails here in fewer than one of a thousand choices of seeds. What the numbers are is in docs/verdicts-montecarlo.md.
"""

from __future__ import annotations

import pytest

from pytest_llmperf.judge.verdict import Outcome
from tests.montecarlo.overload import watch
from tests.montecarlo.pairs import Sessions, compare
from tests.montecarlo.policies import POLICIES, Question
from tests.montecarlo.rates import RATIOS, Row, most_allowed, study
from tests.montecarlo.systems import at, h100

RUNS = 40
REQUESTS = 4000
AT_BOUNDARY, BEYOND = 0.07, 0.04
SESSIONS = 20
WARMUPS = {0.5: 300, 0.8: 1000, 0.95: 3000}
"""Requests before the counted ones, by utilisation."""
TTFT_P99, TPOT_P95 = Question("ttft", 0.99), Question("tpot", 0.95)

QUEUE = h100(max_num_seqs=32)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """At the end of a queue dependence is at its worst; 1024 sequences are in the benchmark."""
    systems = [at("queue", QUEUE, utilisation, warmup) for utilisation, warmup in WARMUPS.items()]
    return study(systems, RUNS, REQUESTS)


def row_of(rows: list[Row], utilisation: float, question: Question, ratio: float) -> Row:
    """The only one."""
    (row,) = (row for row in rows if (row.system.utilisation, row.question, row.ratio) == (utilisation, question, ratio))
    return row


@pytest.mark.parametrize(
    ("outcome", "ratio"),
    [(Outcome.PASS, ratio) for ratio in RATIOS if ratio >= 1] + [(Outcome.FAIL, ratio) for ratio in RATIOS if ratio <= 1],
)
def test_certain_is_wrong_no_more_often_than_stated(rows: list[Row], outcome: Outcome, ratio: float) -> None:
    wrong = {(str(row.system), str(row.question)): row.wrong("certain", outcome) for row in rows if row.ratio == ratio}
    most = most_allowed(RUNS, AT_BOUNDARY if ratio == 1 else BEYOND)
    assert {cell: count for cell, count in wrong.items() if count is None or count > most} == {}


def test_certain_decides_what_can_be_told(rows: list[Row]) -> None:
    """Else a rule that never decides would never be wrong."""
    for question in (TTFT_P99, TPOT_P95):
        assert row_of(rows, 0.5, question, 1.5).tallies["certain"].failed >= 0.9 * RUNS
    assert row_of(rows, 0.5, TPOT_P95, 0.7).tallies["certain"].passed >= 0.5 * RUNS
    assert row_of(rows, 0.5, TPOT_P95, 0.9).tallies["certain"].passed >= 0.5 * RUNS


def test_certain_fails_a_gross_miss_before_the_run_is_over(rows: list[Row]) -> None:
    certain, fixed = (row_of(rows, 0.5, TTFT_P99, 1.5).tallies[policy] for policy in ("certain", "fixed length"))
    assert certain.mean_s < 0.5 * fixed.mean_s


@pytest.mark.parametrize("policy", sorted(set(POLICIES) - {"certain"}))
def test_requests_taken_as_independent_pass_servers_that_miss_their_limit(rows: list[Row], policy: str) -> None:
    """Breaches come in rare bursts: a quiet beginning looks like a proof. The certain policy's bounds can be told from that."""
    tally = row_of(rows, 0.8, TTFT_P99, 1.1).tallies[policy]
    assert tally.passed > most_allowed(RUNS, BEYOND)


def compared(slowdown: float) -> Sessions:
    """A and B at half load, B's steps longer by that factor."""
    return compare(at("queue", QUEUE, 0.5, 100), slowdown, SESSIONS, 500)


def test_identical_servers_raise_no_alarm() -> None:
    sessions = compared(1.0)
    assert sessions.failed <= most_allowed(SESSIONS, 0.05)
    assert sessions.passed >= 0.5 * SESSIONS


def test_ten_percent_more_tpot_is_found() -> None:
    sessions = compared(1.1)
    assert sessions.failed >= SESSIONS - most_allowed(SESSIONS, 0.2)


def test_an_overload_fails_at_once_and_its_backlog_is_seen() -> None:
    (overloaded,) = watch([at("queue", QUEUE, 1.2)], 0.16, 5, 200)
    assert overloaded.failed == overloaded.unstable == 5
    assert overloaded.median_failed_s < 10


def test_a_server_that_keeps_up_is_neither_failed_nor_called_unstable() -> None:
    (calm,) = watch([at("queue", QUEUE, 0.5)], 0.16, 10, 200)
    assert calm.failed == calm.unstable == 0
