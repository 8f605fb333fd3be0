"""Loads in stages: what suites write, how it is shown, and what they get wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmperf.errors import ConfigError
from pytest_llmperf.experiment.profile import is_open_loop, own_duration_s, poisson
from pytest_llmperf.experiment.stages import (
    EVEN,
    RateStages,
    Stage,
    UserStages,
    hold,
    ramp,
    spikes,
    stages,
    stairs,
)

Profile = RateStages | UserStages


@pytest.mark.parametrize(
    ("profile", "shown", "length_s"),
    [
        (stages(hold("0.5/s", "30s"), ramp("0.5/s", "2/s", "60s")), "poisson 0.5/s for 30s, 0.5/s to 2/s in 1m", 90.0),
        (stages(hold("4/s", "30s"), arrivals="constant"), "constant 4/s for 30s", 30.0),
        (stages(hold("4/s", "30s"), arrivals="gamma", burstiness=0.25), "gamma 4/s for 30s, burstiness 0.25", 30.0),
        (stages(hold("4/s", "30s"), hold("0/s", "30s"), repeat=True), "poisson 4/s for 30s, 0/s for 30s, repeated", None),
        (stairs("0.5/s", "2/s", step="0.5/s", each="30s"), "poisson stairs 0.5/s to 2/s by 0.5/s, each 30s", 120.0),
        (spikes(base="2/s", peak="20/s", every="30s", lasting="2s"), "poisson spikes 2/s to 20/s for 2s every 30s", None),
        (stages(hold(1, "20s"), ramp(1, 16, "1m")), "concurrency 1 user for 20s, 1 to 16 users in 1m", 80.0),
        (
            stairs(16, 4, step=4, each="30s", think_time="1s"),
            "concurrency stairs 16 to 4 users by 4, each 30s, think time 1s",
            120.0,
        ),
        (spikes(4, 32, every="30s", lasting="5s"), "concurrency spikes 4 to 32 users for 5s every 30s", None),
    ],
)
def test_stages(profile: Profile, shown: str, length_s: float | None) -> None:
    assert str(profile) == shown
    assert own_duration_s(profile) == length_s
    assert is_open_loop(profile) is isinstance(profile, RateStages)


def test_the_short_ways_are_stages() -> None:
    assert stairs("0.5/s", "2/s", step="0.5/s", each="30s") == stages(*(hold(f"{rate}/s", "30s") for rate in (0.5, 1, 1.5, 2)))
    assert stairs(16, 4, step=4, each="30s") == stages(*(hold(users, "30s") for users in (16, 12, 8, 4)))
    assert stairs("2/s", "2/s", step="1/s", each="9s") == stages(hold("2/s", "9s"))
    assert spikes("2/s", "20/s", every="30s", lasting="2s") == stages(hold("2/s", "28s"), hold("20/s", "2s"), repeat=True)
    assert stages(hold("4/s", "30s"), arrivals="constant") == RateStages((Stage(30.0, 4.0, 4.0),), EVEN)


@given(st.integers(1, 50), st.integers(1, 40), st.integers(0, 60), st.booleans())
def test_stairs_begin_and_end_where_they_say(low: int, tenths: int, steps: int, down: bool) -> None:
    step, high = tenths / 10, low + steps * tenths / 10
    ends = (high, low) if down else (low, high)
    profile = stairs(f"{ends[0]}/s", f"{ends[1]}/s", step=f"{step}/s", each="10s")
    assert isinstance(profile, RateStages)
    assert len(profile.stages) == steps + 1
    assert profile.stages[0].start == pytest.approx(ends[0])
    assert profile.stages[-1].end == ends[1]
    rates = [stage.start for stage in profile.stages]
    assert rates == sorted(rates, reverse=down)


def test_the_first_rate() -> None:
    def first(*parts: Stage) -> float:
        profile = stages(*parts)
        assert isinstance(profile, RateStages)
        return profile.first_rate_per_s

    assert first(hold("2/s", "5s"), hold("9/s", "5s")) == 2.0
    assert first(ramp("3/s", "0/s", "5s")) == 3.0
    assert first(hold("0/s", "5s"), ramp("0/s", "4/s", "5s")) == 2.0


EXAMPLE = 'Write stages(hold("1/s", "30s"), ramp("1/s", "4/s", "1m")), or numbers of users in the place of the rates.'


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hold("4", "30s"), "hold(): '4' is neither a rate nor a number of users; write it like '4/s' or 4"),
        (lambda: hold(0.5, "30s"), "hold(): 0.5 is neither a rate nor a number of users"),  # type: ignore[arg-type]
        (lambda: hold(True, "30s"), "hold(): True is neither"),
        (lambda: hold(-1, "30s"), "hold(): -1 is neither"),
        (lambda: hold("4/x", "30s"), "hold(): '4/x' is not a rate; write it like '4/s' or '240/min'"),
        (lambda: hold("4/s", "30"), "hold(): '30' has no unit; a duration is written like"),
        (lambda: hold("4/s", "0s"), "hold(): '0s' is no length of time: it must be more than 0"),
        (lambda: ramp("1/s", 4, "30s"), "ramp(): from '1/s' to 4: a rate and a number of users cannot be mixed"),
        (
            lambda: stages(hold("1/s", "1s"), repeat="yes"),  # type: ignore[arg-type]
            "stages(): 'repeat' is True or False, not 'yes'",
        ),
        (stages, f"stages(): there is no stage\n  {EXAMPLE}"),
        (lambda: stages(poisson("4/s")), "stages(): Poisson(rate_per_s=4.0) is no stage\n  Write stages("),  # type: ignore[arg-type]
        (lambda: stages(hold("4/s", "1s"), hold(4, "1s")), "stages(): a rate and a number of users cannot be mixed"),
        (lambda: stages(hold("0/s", "1s"), hold("0/s", "1s")), "stages(): no stage makes a request"),
        (lambda: stages(hold(0, "1s")), "stages(): no stage makes a request"),
        (
            lambda: stages(hold("4/s", "1s"), arrivals="poison"),  # type: ignore[arg-type]
            "stages(): unknown arrivals 'poison'\n  Did you mean 'poisson'? Known: constant, gamma, poisson.",
        ),
        (
            lambda: stages(hold("4/s", "1s"), arrivals="gamma"),
            "stages(): gamma arrivals need a 'burstiness'\n  Write burstiness=",
        ),
        (
            lambda: stages(hold("4/s", "1s"), burstiness=0.5),
            "stages(): 'burstiness' belongs to gamma arrivals, not to poisson ones",
        ),
        (
            lambda: stages(hold(4, "1s"), arrivals="constant"),
            "stages(): 'arrivals' belongs to rates, and these are stages of users",
        ),
        (lambda: stages(hold(4, "1s"), burstiness=0.5), "stages(): 'burstiness' belongs to rates, and these are stages of users"),
        (
            lambda: stages(hold("4/s", "1s"), think_time="1s"),
            "stages(): 'think_time' belongs to users, and these are stages of a rate",
        ),
        (
            lambda: stairs("0.5/s", "2/s", step="0.4/s", each="30s"),
            "stairs(): steps of 0.4/s do not lead from 0.5/s to 2/s\n  They lead to 1.7/s or 2.1/s.",
        ),
        (
            lambda: stairs(4, 10, step=4, each="30s"),
            "stairs(): steps of 4 do not lead from 4 to 10\n  They lead to 8 users or 12 users.",
        ),
        (lambda: stairs(1, 3, step=0, each="30s"), "stairs(): the step must be more than 0"),
        (lambda: stairs("1/s", 3, step=1, each="30s"), "stairs(): from '1/s' to 3 in steps of 1: a rate and a number of users"),
        (
            lambda: stairs("1/s", "9/s", step="0.001/s", each="1s"),
            "stairs(): from 1/s to 9/s are more than 1000 steps of 0.001/s",
        ),
        (lambda: spikes("2/s", "2/s", every="9s", lasting="1s"), "spikes(): the peak '2/s' is not more than the base '2/s'"),
        (
            lambda: spikes("2/s", "9/s", every="9s", lasting="9s"),
            "spikes(): a peak of '9s' every '9s' leaves no time for the base",
        ),
    ],
)
def test_what_is_wrong_is_said(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        call()
    assert str(caught.value).startswith(message)
