"""Load profiles: what suites write, and what they get wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_llmperf.errors import ConfigError
from pytest_llmperf.experiment.profile import (
    Concurrency,
    Constant,
    Gamma,
    LoadProfile,
    Poisson,
    bursts,
    concurrency,
    constant,
    gamma,
    is_open_loop,
    own_duration_s,
    poisson,
    trace,
)
from pytest_llmperf.experiment.stages import Bursts


@pytest.mark.parametrize(
    ("profile", "record", "shown", "is_open"),
    [
        (constant("4/s"), Constant(4.0), "constant 4/s", True),
        (poisson("240/min"), Poisson(4.0), "poisson 4/s", True),
        (concurrency(8), Concurrency(8), "concurrency 8", False),
        (gamma("4/s", burstiness=0.25), Gamma(4.0, 0.25), "gamma 4/s, burstiness 0.25", True),
        (bursts(50, every="10s"), Bursts(50, 10.0), "bursts of 50 every 10s", True),
        (concurrency(8, "500ms"), Concurrency(8, 0.5), "concurrency 8, think time 500ms", False),
        (concurrency(8, ramp="30s"), Concurrency(8, ramp_s=30.0), "concurrency 8, ramp 30s", False),
        (
            concurrency(8, think_time="1s", think_distribution="exponential"),
            Concurrency(8, 1.0, think_distribution="exponential"),
            "concurrency 8, exponential think time 1s",
            False,
        ),
    ],
)
def test_profiles(profile: LoadProfile, record: LoadProfile, shown: str, is_open: bool) -> None:
    assert profile == record
    assert str(profile) == shown
    assert is_open_loop(profile) is is_open
    assert own_duration_s(profile) is None


def test_trace(tmp_path: Path) -> None:
    file = tmp_path / "day.csv"
    file.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n")
    profile = trace(file, time_scale=2.0, start="1m")
    assert (profile.path, profile.time_scale, profile.start_s, str(profile)) == (file, 2.0, 60.0, "trace day.csv x2 from 1m")
    assert is_open_loop(profile)


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    file = tmp_path / "day.csv"
    file.write_text("")
    for call, message in (
        (lambda: poisson("4"), "poisson(): '4' is not a rate; write it like '4/s' or '240/min'"),
        (lambda: constant("0/s"), "constant(): the rate '0/s' makes no request"),
        (lambda: concurrency(0), "concurrency(): 0 is not a number of users: it must be 1 or more"),
        (lambda: concurrency(2.5), "concurrency(): 2.5 is not a number of users: it must be 1 or more"),  # type: ignore[arg-type]
        (lambda: concurrency(4, ramp="5"), "concurrency(): '5' has no unit; a duration is written like "),
        (
            lambda: concurrency(4, "1s", think_distribution="exponental"),  # type: ignore[arg-type]
            "concurrency(): unknown think_distribution 'exponental'\n  Did you mean 'exponential'?",
        ),
        (lambda: concurrency(4, think_distribution="fixed"), "concurrency(): 'think_distribution' needs a 'think_time'"),
        (lambda: gamma("4/s", burstiness=0), "gamma(): 0 is no burstiness: it must be a number of more than 0\n  1 is Poisson"),
        (lambda: gamma("4/s", burstiness=float("nan")), "gamma(): nan is no burstiness"),
        (lambda: gamma("4/s", burstiness="1"), "gamma(): '1' is no burstiness"),  # type: ignore[arg-type]
        (lambda: gamma("4", burstiness=1), "gamma(): '4' is not a rate; write it like '4/s' or '240/min'"),
        (lambda: bursts(0, every="10s"), "bursts(): 0 is not a number of requests: it must be 1 or more"),
        (lambda: bursts(5, every="0s"), "bursts(): '0s' is no length of time: it must be more than 0"),
        (lambda: concurrency(1, "2"), "concurrency(): '2' has no unit; a duration is written like "),
        (lambda: trace(tmp_path / "none.csv"), f"{tmp_path / 'none.csv'}: the trace file does not exist"),
        (lambda: trace(5), "trace(): 5 is no path of a trace file"),  # type: ignore[arg-type]
        (
            lambda: trace(file, kind="azur"),  # type: ignore[arg-type]
            "trace(): unknown kind 'azur'\n  Did you mean 'azure'? Known: azure, mooncake.",
        ),
        (lambda: trace(file, time_scale=0), "trace(): time_scale 0 must be a number of more than 0"),
        (lambda: trace(file, time_scale=True), "trace(): time_scale True must be a number of more than 0"),
        (lambda: trace(file, time_scale=float("inf")), "trace(): time_scale inf must be a number of more than 0"),
        (lambda: trace(file, time_scale=float("nan")), "trace(): time_scale nan must be a number of more than 0"),
        (lambda: trace(file, time_scale="2"), "trace(): time_scale '2' must be a number of more than 0"),  # type: ignore[arg-type]
        (lambda: trace(file, start="later"), "trace(): 'later' is not a duration; write it like "),
    ):
        with pytest.raises(ConfigError) as caught:
            call()
        assert str(caught.value).startswith(message)
