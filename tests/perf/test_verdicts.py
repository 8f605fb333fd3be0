"""How often verdicts are wrong, and how many seconds of load they take: the whole study, on the simulator's engine.

It prints the tables of docs/verdicts-montecarlo.md; with ``LLMPERF_WRITE_DOCS=1`` it writes them there.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_llmperf.judge.verdict import Outcome
from tests.montecarlo import tables
from tests.montecarlo.overload import Watched, watch
from tests.montecarlo.pairs import Sessions, compare
from tests.montecarlo.policies import RISK
from tests.montecarlo.rates import Row, most_allowed, study
from tests.montecarlo.systems import at, h100

PAGE = Path(__file__).parents[2] / "docs" / "verdicts-montecarlo.md"
PROCESSES = 2
RUNS = 200
REQUESTS = 10_000
AT_BOUNDARY, BEYOND = 0.07, 0.04
"""How often a verdict may be wrong: with the true quantile at the limit, and 10 % or more away from it."""
SESSIONS = 150
LOADS = 20
LOAD_S = 400.0
LONG_LOADS = 50
LONG_LOAD_S = 600.0

QUEUE = ("32 sequences", h100(max_num_seqs=32))
BATCH = ("1024 sequences", h100())
SMALL = [("4 sequences", h100(max_num_seqs=4), 1.9), ("8 sequences", h100(max_num_seqs=8), 0.7)]
"""Servers whose few places make the queue wander far, and their limits in seconds."""
WARMUPS = {0.5: 500, 0.8: 1500, 0.95: 5000}
"""Requests before the counted ones, by utilisation: several correlation times of the in-flight count."""


def show(name: str, table: str) -> None:
    """Print a table, and write it into the page if asked."""
    print(f"\n\n{name}\n\n{table}")
    if os.environ.get("LLMPERF_WRITE_DOCS"):
        tables.write_between(PAGE, name, table)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    systems = [at(*server, utilisation, warmup) for server in (QUEUE, BATCH) for utilisation, warmup in WARMUPS.items()]
    judged = study(systems, RUNS, REQUESTS, processes=PROCESSES)
    show("worst of all systems and metrics", tables.worst_table(judged))
    show("every system and metric", tables.full_tables(judged))
    return judged


@pytest.mark.parametrize("outcome", [Outcome.PASS, Outcome.FAIL])
def test_certain_is_wrong_no_more_often_than_stated(rows: list[Row], outcome: Outcome) -> None:
    wrong = [(row, count) for row in rows if (count := row.wrong("certain", outcome)) is not None]
    beyond = [
        (str(row.system), str(row.question), row.ratio, count)
        for row, count in wrong
        if count > RUNS * (AT_BOUNDARY if row.ratio == 1 else BEYOND)
    ]
    assert not beyond


def test_peeking_and_measured_values_are_wrong_far_more_often(rows: list[Row]) -> None:
    for policy in ("peeking", "fixed length", "measured"):
        errors = [row.wrong(policy, Outcome.PASS) or 0 for row in rows if row.ratio == 1.1]
        assert max(errors) > most_allowed(RUNS, BEYOND), policy


@pytest.fixture(scope="module")
def sessions() -> dict[float, Sessions]:
    """By how much slower B's steps are. At half load TPOT grows by more than the steps do, because more of them overlap."""
    system = at(*QUEUE, 0.5, 300)
    compared = {slowdown: compare(system, slowdown, SESSIONS, 1000, processes=PROCESSES) for slowdown in (1.0, 1.075, 1.1)}
    show("pairs", tables.pairs_table(compared.values()))
    return compared


def test_identical_servers_raise_no_alarm(sessions: dict[float, Sessions]) -> None:
    assert sessions[1.0].failed <= RISK * SESSIONS


def test_ten_percent_more_tpot_is_found_with_eight_pairs(sessions: dict[float, Sessions]) -> None:
    assert sessions[1.075].effect < 0.11
    assert sessions[1.075].failed >= 0.8 * SESSIONS
    assert sessions[1.1].failed >= 0.8 * SESSIONS


@pytest.fixture(scope="module")
def watched() -> dict[tuple[str, float], Watched]:
    """The limit is twice the p99 that the server has at half load."""
    everything: list[Watched] = []
    for name, small, limit_s in SMALL:
        systems = [at(name, small, utilisation) for utilisation in (0.9, 0.95, 1.1, 1.2)]
        everything += watch(systems, limit_s, LONG_LOADS, LONG_LOAD_S, processes=PROCESSES)
    for server, limit_s in ((QUEUE, 0.16), (BATCH, 0.22)):
        systems = [at(*server, utilisation) for utilisation in (0.5, 0.8, 0.95, 1.05, 1.1, 1.2, 1.3)]
        everything += watch(systems, limit_s, LOADS, LOAD_S, processes=PROCESSES)
    show("overload", tables.overload_table(everything))
    return {(seen.system.name, seen.system.utilisation): seen for seen in everything}


@pytest.mark.parametrize("name", [QUEUE[0], BATCH[0]])
def test_an_overload_fails_and_a_steady_load_is_not_called_unstable(watched: dict[tuple[str, float], Watched], name: str) -> None:
    for utilisation in (1.1, 1.2, 1.3):
        assert watched[name, utilisation].failed == LOADS
    for utilisation in (0.5, 0.8):
        assert watched[name, utilisation].unstable <= RISK * LOADS


@pytest.mark.parametrize("name", [name for name, _, _ in SMALL])
def test_the_queue_of_few_places_wanders_and_is_not_called_an_overload(
    watched: dict[tuple[str, float], Watched], name: str
) -> None:
    for utilisation in (0.9, 0.95):
        assert watched[name, utilisation].unstable <= 0.02 * LONG_LOADS
    for utilisation in (1.1, 1.2):
        assert watched[name, utilisation].unstable >= 0.9 * LONG_LOADS
