"""How many load workers a plan is given when nobody says."""

from __future__ import annotations

import os

import pytest

from pytest_llmperf.experiment.profile import Concurrency, Constant, LoadProfile
from pytest_llmperf.experiment.records import Lengths, Turns
from pytest_llmperf.load.cores import available_cores
from pytest_llmperf.load.crew_size import CrewSize, crew_size
from pytest_llmperf.load.plan import LoadPlan, plan_load
from tests.unit.load.loads import workload


def planned(profile: LoadProfile, tokens: int = 100, max_requests: int | None = None, **changes: object) -> LoadPlan:
    asked = workload(output=Lengths(tokens), **changes)
    return plan_load(profile, asked, None if max_requests else 2.0, seed=1, warmup_s=0.0, max_requests=max_requests)


@pytest.mark.parametrize(
    ("plan", "workers"),
    [
        (planned(Constant(4.0)), 1),
        (planned(Constant(400.0)), 1),
        (planned(Constant(400.0), tokens=110), 2),
        (planned(Constant(400.0), tokens=1000), 10),
        # What is not streamed comes in one piece, however many tokens it holds.
        (planned(Constant(400.0), tokens=1000, stream=False), 1),
        (planned(Constant(2000.0), tokens=1), 1),
        (planned(Constant(2200.0), tokens=1), 2),
        (planned(Constant(1000.0), tokens=1, turns=Turns(Lengths(5), Lengths(1))), 3),
        (planned(Concurrency(500), tokens=1000), 1),
        (planned(Concurrency(550), tokens=1), 2),
        (planned(Concurrency(5000), max_requests=600), 2),
    ],
)
def test_the_plan_says_how_many(plan: LoadPlan, workers: int) -> None:
    assert crew_size(plan, None, cores=64).workers == workers


@pytest.mark.parametrize(("cores", "workers"), [(0, 1), (1, 1), (4, 4), (64, 10)])
def test_no_more_than_there_are_cores(cores: int, workers: int) -> None:
    assert crew_size(planned(Constant(400.0), tokens=1000), None, cores).workers == workers


def test_what_the_plan_asks_for_and_does_not_get_is_a_note() -> None:
    plan = planned(Constant(400.0), tokens=1000)
    assert crew_size(plan, None, 4).note == "4 of 10 load workers that the plan asks for: no more cores are free"
    assert crew_size(plan, None, 10).note == ""


@pytest.mark.parametrize(
    ("plan", "workers", "of_what"),
    [
        (planned(Concurrency(3)), 3, "users"),
        (planned(Concurrency(30), max_requests=4), 4, "planned requests"),
        (planned(Constant(2.0)), 4, "planned requests"),
        (planned(Constant(2.0), turns=Turns(Lengths(5), Lengths(1))), 4, "planned sessions"),
    ],
)
def test_whoever_chooses_gets_what_was_chosen_but_none_that_has_nothing_to_do(plan: LoadPlan, workers: int, of_what: str) -> None:
    few = crew_size(plan, 7, 1)
    assert (few.workers, few.note) == (workers, f"{workers} of 7 workers used: there are no more {of_what}")
    assert crew_size(plan, workers, 1) == CrewSize(workers)
    assert crew_size(planned(Constant(4.0)), 7, 1) == CrewSize(7)


def test_what_cannot_be_divided_has_one_worker() -> None:
    ramped = planned(Concurrency(2000, ramp_s=1.0), max_requests=5000)
    why = "a number of requests cannot be shared out while users are still to come"
    assert crew_size(ramped, None, cores=64).workers == 1
    assert crew_size(ramped, None, 64).note == f"1 of 4 workers used: {why}"
    assert (crew_size(ramped, 3, 64).workers, crew_size(ramped, 3, 64).note) == (1, f"1 of 3 workers used: {why}")
    assert crew_size(ramped, 1, 64).note == ""
    assert crew_size(planned(Concurrency(2000, ramp_s=1.0)), 3, 64).workers == 3


def test_cores_are_shared() -> None:
    cores = available_cores()
    assert 1 <= cores <= (os.cpu_count() or 1)
    assert available_cores(sharing=2) == max(1, cores // 2)
    assert available_cores(sharing=10_000) == available_cores(sharing=cores) == 1
