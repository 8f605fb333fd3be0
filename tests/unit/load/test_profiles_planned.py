"""Every load profile, planned: one plan from its seed, whatever the workers and the warm-up, as long as it says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_llmperf.errors import ConfigError, Where
from pytest_llmperf.experiment.profile import (
    Concurrency,
    Constant,
    Gamma,
    LoadProfile,
    Poisson,
    TraceReplay,
    bursts,
    concurrency,
    gamma,
    is_open_loop,
)
from pytest_llmperf.experiment.records import Lengths, NamedProfile, Turns
from pytest_llmperf.experiment.stages import hold, ramp, spikes, stages, stairs
from pytest_llmperf.load.plan import LoadPlan, check_profile, plan_load
from tests.unit.load.loads import WORKLOAD, check_shares, workload

CHAT = workload(
    input=Lengths(200, "lognormal", 0.7, min=64, max=900),
    output=Lengths(40, "lognormal", 1.0),
    turns=Turns(count=Lengths(2, "uniform", min=1, max=3), input=Lengths(30), pause=2.0),
)

OPEN: list[LoadProfile] = [
    Constant(30.0),
    Poisson(30.0),
    Gamma(30.0, 0.25),
    stages(hold("20/s", "1s"), ramp("20/s", "60/s", "1s")),
    stages(hold("20/s", "1s"), ramp("20/s", "60/s", "1s"), arrivals="constant"),
    stages(hold("20/s", "1s"), ramp("20/s", "60/s", "1s"), arrivals="gamma", burstiness=0.5),
    spikes("10/s", "80/s", every="0.5s", lasting="0.1s"),
    bursts(20, every="0.5s"),
]
CLOSED: list[LoadProfile] = [
    Concurrency(8),
    concurrency(8, ramp="1s", think_time="50ms", think_distribution="exponential"),
    stages(hold(2, "1s"), ramp(2, 8, "1s")),
    spikes(2, 8, every="1s", lasting="100ms"),
]
STAGED = OPEN[3]


def planned(profile: LoadProfile, *, seed: int = 1, warmup_s: float = 0.0, duration_s: float = 2.0) -> LoadPlan:
    return plan_load(profile, CHAT, duration_s, seed=seed, warmup_s=warmup_s, max_requests=50)


@settings(deadline=None, max_examples=150)
@given(st.sampled_from([*OPEN, *CLOSED]), st.integers(0, 2**40), st.integers(1, 8), st.floats(0, 2))
def test_a_plan_split_over_workers_is_the_same_plan(profile: LoadProfile, seed: int, workers: int, warmup_s: float) -> None:
    plan = planned(profile, seed=seed, warmup_s=warmup_s)
    shares = [list(plan.sessions(worker, workers)) for worker in range(workers)]
    merged = sorted((session for share in shares for session in share), key=lambda s: s.number)
    assert merged == list(plan.sessions())
    assert [session.number for session in merged] == list(range(len(merged)))
    check_shares(plan, shares)
    assert merged == list(planned(profile, seed=seed, warmup_s=warmup_s).sessions())
    if is_open_loop(profile):
        warmups = [list(plan.warmup_sessions(worker, workers)) for worker in range(workers)]
        assert sorted(session.number for share in warmups for session in share) == list(range(len(plan.warmup_arrivals_s)))


@settings(deadline=None, max_examples=60)
@given(st.sampled_from([*OPEN, *CLOSED]), st.integers(0, 2**40), st.floats(0.01, 5))
def test_the_warm_up_changes_nothing_in_the_window(profile: LoadProfile, seed: int, warmup_s: float) -> None:
    without, with_one = planned(profile, seed=seed), planned(profile, seed=seed, warmup_s=warmup_s)
    assert np.allclose(with_one.arrivals_s - warmup_s, without.arrivals_s)
    ours, theirs = list(with_one.sessions()), list(without.sessions())
    assert [(s.turns, s.think_s) for s in ours] == [(s.turns, s.think_s) for s in theirs]
    assert np.all((with_one.warmup_arrivals_s >= 0) & (with_one.warmup_arrivals_s < warmup_s))
    if with_one.attendance is not None and without.attendance is not None:
        assert with_one.attendance.spans == without.attendance.spans


@pytest.mark.parametrize(("profile", "first"), [*zip(OPEN, [30, 30, 30, 20, 20, 20, 10, 40], strict=True)], ids=str)
def test_the_warm_up_is_at_the_first_rate(profile: LoadProfile, first: float) -> None:
    counts = [len(planned(profile, seed=seed, warmup_s=50.0).warmup_arrivals_s) for seed in range(10)]
    assert abs(np.mean(counts) / (50 * first) - 1) < 0.15


def test_the_warm_up_of_a_ramp_from_nothing_is_at_its_mean_rate() -> None:
    plan = planned(stages(hold("0/s", "1s"), ramp("0/s", "60/s", "1s"), arrivals="constant"), warmup_s=2.0)
    assert len(plan.warmup_arrivals_s) == 60


@pytest.mark.parametrize("profile", [profile for profile in OPEN if not isinstance(profile, Constant)], ids=str)
def test_another_seed_is_another_plan(profile: LoadProfile) -> None:
    one, two = planned(profile, seed=1), planned(profile, seed=2)
    same = len(one.arrivals_s) == len(two.arrivals_s) and np.allclose(one.arrivals_s, two.arrivals_s)
    # What is the same at every seed are times that nothing is left to chance of.
    assert same == str(profile).startswith(("constant", "bursts"))
    assert [s.turns for s in one.sessions()] != [s.turns for s in two.sessions()]


def test_stages_need_no_duration_a_shorter_one_cuts_them_and_a_longer_one_is_an_error() -> None:
    whole = plan_load(STAGED, WORKLOAD, None, seed=1, warmup_s=1.0)
    assert (whole.window_start_s, whole.window_end_s) == (1.0, 3.0)
    cut = plan_load(STAGED, WORKLOAD, 1.5, seed=1, warmup_s=1.0)
    assert cut.window_end_s == 2.5
    assert np.array_equal(cut.arrivals_s, whole.arrivals_s[whole.arrivals_s < 2.5])
    with pytest.raises(ConfigError) as caught:
        plan_load(STAGED, WORKLOAD, 60.0, seed=1, warmup_s=0)
    assert str(caught.value) == (
        "load profile: poisson 20/s for 1s, 20/s to 60/s in 1s ends after 2s, before the 1m that are asked for\n"
        "  Leave the duration out, or let the stages begin again: stages(…, repeat=True)."
    )
    users = plan_load(CLOSED[2], WORKLOAD, None, seed=1, warmup_s=1.0)
    assert (users.window_start_s, users.window_end_s, users.users) == (1.0, 3.0, 8)
    with pytest.raises(ConfigError, match="ends after 2s, before the 3s"):
        plan_load(CLOSED[2], WORKLOAD, 3.0, seed=1, warmup_s=0)


@pytest.mark.parametrize("profile", [OPEN[6], OPEN[7], CLOSED[3]], ids=str)
def test_what_repeats_goes_on_and_needs_an_end(profile: LoadProfile) -> None:
    assert plan_load(profile, WORKLOAD, 60.0, seed=1, warmup_s=0).window_end_s == 60.0
    with pytest.raises(ConfigError, match="never ends"):
        plan_load(profile, WORKLOAD, None, seed=1, warmup_s=0)


@pytest.mark.parametrize("profile", OPEN, ids=str)
def test_a_count_ends_the_window_where_the_next_would_arrive(profile: LoadProfile) -> None:
    plan, one_more = (plan_load(profile, WORKLOAD, None, seed=1, warmup_s=0, max_requests=count) for count in (41, 42))
    assert len(plan.arrivals_s) == 41
    assert plan.window_end_s is not None
    assert plan.window_end_s > plan.arrivals_s[-1]
    assert plan.window_end_s == pytest.approx(one_more.arrivals_s[41]) or str(profile).startswith("bursts")


def test_a_count_of_bursts_ends_with_the_burst() -> None:
    counted = plan_load(bursts(50, every="10s"), WORKLOAD, None, seed=1, warmup_s=0, max_requests=75)
    assert (len(counted.arrivals_s), counted.window_end_s) == (75, 20.0)


def test_a_window_that_a_count_ends_within_a_burst_lasts_until_after_the_burst() -> None:
    plan = plan_load(bursts(50, every="1s"), WORKLOAD, 5.0, seed=1, warmup_s=0, max_requests=75)
    assert len(plan.arrivals_s) == 75
    assert plan.window_end_s is not None
    # Also by a clock that has run for 30 years, which knows no shorter time than this.
    assert 1e9 + plan.window_end_s > 1e9 + plan.arrivals_s[-1]


def test_more_requests_than_the_stages_make_are_an_error() -> None:
    with pytest.raises(ConfigError) as caught:
        plan_load(stages(hold("10/s", "5s"), arrivals="constant"), WORKLOAD, None, seed=1, warmup_s=0, max_requests=1000)
    assert str(caught.value) == (
        "load profile: constant 10/s for 5s ends after 50 arrivals, before the 1,000 requests that are asked for\n"
        "  Leave requests= out, or let the stages begin again: stages(…, repeat=True)."
    )
    every = plan_load(stages(hold("10/s", "5s"), arrivals="constant"), WORKLOAD, None, seed=1, warmup_s=0, max_requests=50)
    assert (len(every.arrivals_s), every.window_end_s) == (50, 5.0)
    # Of two limits the one that is reached first holds.
    both = plan_load(Constant(10.0), WORKLOAD, 2.0, seed=1, warmup_s=0, max_requests=1000)
    assert (len(both.arrivals_s), both.window_end_s) == (20, 2.0)


def test_a_closed_loop_without_a_user_in_its_duration_is_an_error() -> None:
    late = stages(hold(0, "1s"), hold(2, "1s"))
    for duration_s in (0.5, 1.0):
        with pytest.raises(ConfigError) as caught:
            plan_load(late, WORKLOAD, duration_s, seed=1, warmup_s=5.0)
        length = "500ms" if duration_s == 0.5 else "1s"
        assert str(caught.value) == (
            f"load profile: concurrency 0 users for 1s, 2 users for 1s makes no request in {length}\n"
            "  The first user comes after 1s: give a longer duration."
        )
    assert plan_load(late, WORKLOAD, 1.1, seed=1, warmup_s=5.0).users == 2


@pytest.mark.parametrize("warmup_s", [0.0, 0.1, 0.3, 7.7])
def test_how_long_the_window_is(warmup_s: float) -> None:
    def length_s(profile: LoadProfile, duration_s: float | None = None, count: int | None = None) -> float | None:
        return plan_load(profile, WORKLOAD, duration_s, seed=1, warmup_s=warmup_s, max_requests=count).length_s

    assert length_s(Constant(4.0), 60.0) == 60.0
    assert length_s(Constant(4.0), 60.0, 10) == 2.5
    assert length_s(STAGED) == 2.0
    assert length_s(Concurrency(4), 60.0, 10) == 60.0
    assert length_s(Concurrency(4), None, 10) is None


def test_which_loads_several_workers_can_share() -> None:
    def is_divisible(profile: LoadProfile, count: int | None) -> bool:
        return plan_load(profile, WORKLOAD, 2.0, seed=1, warmup_s=0, max_requests=count).is_divisible

    assert all(is_divisible(profile, None) for profile in [*OPEN, *CLOSED])
    assert all(is_divisible(profile, 10) for profile in [*OPEN, CLOSED[0], stages(hold(4, "2s"))])
    assert not any(is_divisible(profile, 10) for profile in CLOSED[1:])


def test_which_profiles_have_one_rate_and_which_ask_the_same_all_along() -> None:
    trace = TraceReplay(Path("/nowhere"))
    one_rate = [profile for profile in [*OPEN, *CLOSED, trace] if _plan_of(profile).has_one_rate]
    assert one_rate == OPEN[:3]
    level = stages(hold("4/s", "1s"), hold("4/s", "1s"), repeat=True)
    assert _plan_of(level).has_one_rate
    assert _plan_of(level).is_stationary
    assert [_plan_of(users).is_stationary for users in (stages(hold(4, "1s")), concurrency(1, ramp="1s"))] == [True, True]
    assert not _plan_of(stages(hold(4, "1s"), hold(5, "1s"))).is_stationary
    stationary = [profile for profile in [*OPEN, *CLOSED, trace] if _plan_of(profile).is_stationary]
    assert stationary == [*OPEN[:3], Concurrency(8)]


def _plan_of(profile: LoadProfile) -> LoadPlan:
    return LoadPlan(profile, WORKLOAD, 1, 0.0, 2.0, np.empty(0), np.empty(0))


def test_think_times() -> None:
    fixed = plan_load(concurrency(4, "200ms"), WORKLOAD, 5.0, seed=1, warmup_s=0, max_requests=10)
    assert {session.think_s for session in fixed.sessions()} == {0.2}
    drawn = plan_load(concurrency(4, "200ms", think_distribution="exponential"), CHAT, 5.0, seed=1, warmup_s=0, max_requests=4000)
    times = np.array([session.think_s for session in drawn.sessions()])
    assert abs(times.mean() / 0.2 - 1) < 0.08
    assert abs(times.std() / times.mean() - 1) < 0.08
    # What is asked does not depend on how long its user thinks.
    plain = plan_load(concurrency(4), CHAT, 5.0, seed=1, warmup_s=0, max_requests=100)
    assert [s.turns for s in plain.sessions()] == [drawn.session(number).turns for number in range(100)]


def brute_peak(times: Sequence[float], tokens: float) -> float:
    return max(sum(1 for other in times if time <= other < time + 1.0) for time in times) * tokens


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(OPEN), st.integers(0, 1000))
def test_planned_tokens_are_the_most_within_a_second(profile: LoadProfile, seed: int) -> None:
    plan = plan_load(profile, WORKLOAD, 2.0, seed=seed, warmup_s=0)
    assert plan.planned_tokens_per_s == pytest.approx(brute_peak(plan.arrivals_s.tolist(), 6.0))


def test_planned_tokens_of_known_loads() -> None:
    def of(profile: LoadProfile, seconds: float = 60.0) -> float | None:
        return plan_load(profile, workload(output=Lengths(100)), seconds, seed=1, warmup_s=5.0).planned_tokens_per_s

    assert of(Constant(4.0)) == pytest.approx(400.0)
    assert of(bursts(50, every="10s")) == pytest.approx(5000.0)
    assert of(spikes("2/s", "20/s", every="30s", lasting="2s", arrivals="constant")) == pytest.approx(2000.0, rel=0.06)
    assert of(stairs("1/s", "10/s", step="1/s", each="6s", arrivals="constant")) == pytest.approx(1000.0)
    assert of(Concurrency(4)) is None
    # Sessions count with all their turns: two of 100 tokens.
    turned = workload(output=Lengths(100), turns=Turns(count=Lengths(2), input=Lengths(5)))
    assert plan_load(Constant(4.0), turned, 10.0, seed=1, warmup_s=0).planned_tokens_per_s == pytest.approx(800.0)


def test_planned_tokens_of_a_trace_are_its_own(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    rows = [(0, 10), (900, 70), (1000, 500), (1899, 1)]
    lines = [f'{{"timestamp": {at}, "input_length": 5, "output_length": {out}}}' for at, out in rows]
    file.write_text("\n".join(lines))
    plan = plan_load(TraceReplay(file, "mooncake"), WORKLOAD, None, seed=1, warmup_s=0)
    assert plan.planned_tokens_per_s == 571.0


def test_what_a_profile_is_checked_for_before_anything_is_loaded() -> None:
    where = Where(key="sweep()")
    check_profile(STAGED, False, where)
    check_profile(STAGED, True, where, 2.0)
    check_profile(NamedProfile("soak", "poisson", 60.0, rate=1.0), False, where)
    for profile, has_duration, duration_s, message in (
        (STAGED, True, 3.0, r"sweep\(\): poisson 20/s for 1s, .* ends after 2s, before the 3s that are asked for\n  Leave"),
        (bursts(5, every="1s"), False, None, r"sweep\(\): bursts of 5 every 1s never ends\n  Give a duration"),
        (hold("1/s", "3s"), True, 3.0, r"no load profile\n  A stage alone is no load: write stages\(hold\("),
        ([hold("1/s", "3s")], True, 3.0, r"no load profile\n  A stage alone is no load: write stages\(hold\("),
    ):
        with pytest.raises(ConfigError, match=message):
            check_profile(profile, has_duration, where, duration_s)


def test_a_plan_of_a_million_gamma_arrivals_is_what_it_says() -> None:
    plan = plan_load(gamma("1000/s", burstiness=0.25), WORKLOAD, 1000.0, seed=3, warmup_s=0)
    gaps = np.diff(plan.arrivals_s)
    assert len(plan.arrivals_s) == pytest.approx(1_000_000, rel=0.01)
    assert gaps.std() / gaps.mean() == pytest.approx(2.0, rel=0.03)
    assert abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 0.02
    assert math.isclose(plan.window_end_s or 0.0, 1000.0)
