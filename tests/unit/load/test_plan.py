"""A plan is one plan: from its seed, whatever the workers, whatever the warm-up."""

from __future__ import annotations

import math
from pathlib import Path
from random import Random
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_llmperf.errors import ConfigError, Where
from pytest_llmperf.experiment.profile import Concurrency, Constant, LoadProfile, Poisson, TraceReplay
from pytest_llmperf.experiment.records import Lengths, NamedProfile, SharedPrefix, Turns
from pytest_llmperf.load.lengths import sample_length
from pytest_llmperf.load.plan import check_profile, plan_load
from tests.unit.load.loads import WORKLOAD, check_shares, workload

CHAT = workload(
    input=Lengths(200, "lognormal", 0.7, min=64, max=900),
    output=Lengths(40, "lognormal", 1.0),
    shared_prefix=SharedPrefix(64, 5),
    turns=Turns(count=Lengths(3, "uniform", min=1, max=5), input=Lengths(30), pause=2.0),
)


@settings(deadline=None, max_examples=30)
@given(
    st.integers(0, 2**40),
    st.integers(1, 8),
    st.sampled_from([Constant(30.0), Poisson(30.0), Concurrency(8)]),
    st.floats(0, 2),
)
def test_a_plan_split_over_workers_is_the_same_plan(seed: int, workers: int, profile: LoadProfile, warmup_s: float) -> None:
    plan = plan_load(profile, CHAT, 2.0, seed=seed, warmup_s=warmup_s, max_requests=50)
    shares = [list(plan.sessions(worker, workers)) for worker in range(workers)]
    merged = sorted((session for share in shares for session in share), key=lambda s: s.number)
    assert merged == list(plan.sessions())
    check_shares(plan, shares)
    again = plan_load(profile, CHAT, 2.0, seed=seed, warmup_s=warmup_s, max_requests=50)
    assert merged == list(again.sessions())


def test_the_warm_up_changes_nothing_in_the_window() -> None:
    without = plan_load(Poisson(20.0), CHAT, 5.0, seed=4, warmup_s=0)
    with_one = plan_load(Poisson(20.0), CHAT, 5.0, seed=4, warmup_s=3.0)
    assert np.allclose(with_one.arrivals_s - 3.0, without.arrivals_s)
    assert [s.turns for s in with_one.sessions()] == [s.turns for s in without.sessions()]
    assert 30 <= len(with_one.warmup_arrivals_s) <= 90
    assert with_one.warmup_arrivals_s.max() < 3.0 <= with_one.arrivals_s.min()
    # The warm-up is another draw, not the same one twice.
    count = min(len(with_one.warmup_arrivals_s), len(without.arrivals_s))
    assert not np.allclose(with_one.warmup_arrivals_s[:count], without.arrivals_s[:count])
    assert {s.id for s in with_one.warmup_sessions()}.isdisjoint(s.id for s in with_one.sessions())


def test_another_seed_is_another_plan() -> None:
    one, two = (plan_load(Poisson(20.0), CHAT, 5.0, seed=seed, warmup_s=0) for seed in (1, 2))
    assert one.arrivals_s[0] != two.arrivals_s[0]
    assert [s.turns for s in one.sessions()] != [s.turns for s in two.sessions()]


def test_turns_grow_by_the_answer_and_the_new_input() -> None:
    plan = plan_load(Constant(10.0), CHAT, 10.0, seed=1, warmup_s=0)
    sessions = list(plan.sessions())
    assert {len(session.turns) for session in sessions} == {1, 2, 3, 4, 5}
    pauses = []
    for session in sessions:
        assert session.turns[0].pause_s == 0
        for before, turn in zip(session.turns, session.turns[1:], strict=False):
            assert turn.prompt_tokens == before.prompt_tokens + before.output_tokens + 30
            pauses.append(turn.pause_s)
    # Exponential: mean 2 s, coefficient of variation 1.
    assert abs(np.mean(pauses) - 2.0) < 0.7
    assert abs(np.std(pauses) / np.mean(pauses) - 1) < 0.35


def test_fixed_pauses() -> None:
    turns = Turns(Lengths(2), Lengths(5), pause=0.7, pause_distribution="fixed")
    plan = plan_load(Constant(10.0), workload(turns=turns), 1.0, seed=1, warmup_s=0)
    assert {session.turns[1].pause_s for session in plan.sessions()} == {0.7}


def test_prefix_groups_are_all_used() -> None:
    plan = plan_load(Constant(50.0), CHAT, 10.0, seed=1, warmup_s=0)
    counts = np.bincount([s.prefix_group for s in plan.sessions() if s.prefix_group is not None], minlength=5)
    assert len(counts) == 5
    assert counts.min() > 60


@pytest.mark.parametrize(
    ("profile", "duration_s", "count", "message"),
    [
        (Poisson(0.001), 1.0, None, "makes no request in 1s"),
        (Constant(1.0), 0.0, None, "not more than 0"),
        (Constant(1.0), math.nan, None, "not more than 0"),
        (Constant(1.0), None, None, "never ends"),
        (Concurrency(4), None, None, "never ends"),
        (Constant(1.0), 1.0, 0, "not 1 or more"),
    ],
)
def test_what_cannot_be_planned(profile: LoadProfile, duration_s: float | None, count: int | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_load(profile, WORKLOAD, duration_s, seed=1, warmup_s=0, max_requests=count)


@pytest.mark.parametrize(
    ("profile", "what", "meant"),
    [
        ("4/s", "'4/s' is no load profile", 'Write poisson("4/s") or constant("4/s").'),
        (5, "5 is no load profile", 'Write poisson("5/s") or concurrency(5).'),
        ("steady", "'steady' is no load profile", 'Write poisson("4/s"), constant("4/s"), concurrency(8) or trace("file.csv").'),
        (None, "None is no load profile", 'Write poisson("4/s")'),
        (True, "True is no load profile", 'Write poisson("4/s")'),
    ],
)
def test_what_is_no_load_profile(profile: object, what: str, meant: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_load(cast(LoadProfile, profile), WORKLOAD, None, seed=1, warmup_s=0)
    assert str(caught.value).startswith(f"load profile: {what}\n  {meant}")


def test_which_profiles_end_by_themselves() -> None:
    where = Where(key="sweep()")
    check_profile(TraceReplay(Path("trace.csv")), False, where)
    check_profile(NamedProfile("soak", "poisson", 60.0, rate=1.0), False, where)
    check_profile(Poisson(1.0), True, where)
    with pytest.raises(ConfigError, match=r"sweep\(\): poisson 1/s never ends\n  Give a duration"):
        check_profile(Poisson(1.0), False, where)


def test_a_count_without_a_duration() -> None:
    constant = plan_load(Constant(3.0), WORKLOAD, None, seed=1, warmup_s=0, max_requests=10)
    assert len(constant.arrivals_s) == 10
    assert constant.window_end_s == pytest.approx(10 / 3)
    poisson = plan_load(Poisson(3.0), WORKLOAD, None, seed=1, warmup_s=0, max_requests=10)
    eleventh = plan_load(Poisson(3.0), WORKLOAD, None, seed=1, warmup_s=0, max_requests=11).arrivals_s[10]
    assert (len(poisson.arrivals_s), poisson.window_end_s) == (10, eleventh)
    closed = plan_load(Concurrency(3), WORKLOAD, None, seed=1, warmup_s=0, max_requests=10)
    assert closed.window_end_s is None
    assert len(list(closed.sessions())) == 10


def drawn(lengths: Lengths, n: int = 20_000) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    rng = Random(7)
    return np.array([sample_length(lengths, rng) for _ in range(n)])


def test_lengths() -> None:
    assert set(drawn(Lengths(100), 10)) == {100}
    assert set(drawn(Lengths(1), 10)) == {1}
    uniform = drawn(Lengths(50, "uniform", min=10, max=90))
    assert (uniform.min(), uniform.max()) == (10, 90)
    assert abs(uniform.mean() - 50) < 1
    symmetric = drawn(Lengths(50, "uniform", min=10))
    assert (symmetric.min(), symmetric.max()) == (10, 90)


def test_lognormal_has_its_mean_and_variation() -> None:
    values = drawn(Lengths(500, "lognormal", 0.5))
    assert abs(values.mean() / 500 - 1) < 0.02
    assert abs(values.std() / values.mean() - 0.5) < 0.02


def test_lognormal_is_truncated_not_piled_up_at_its_bounds() -> None:
    values = drawn(Lengths(500, "lognormal", 1.0, min=100, max=600))
    assert values.min() >= 100
    assert values.max() <= 600
    assert np.mean(values == 600) < 0.005
    assert np.mean(values == 100) < 0.01
