"""Load profiles: what suites write, and what they get wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_llmperf.errors import ConfigError
from pytest_llmperf.experiment.profile import (
    Concurrency,
    Constant,
    LoadProfile,
    Poisson,
    concurrency,
    constant,
    is_open_loop,
    poisson,
    trace,
)


@pytest.mark.parametrize(
    ("profile", "record", "shown", "is_open"),
    [
        (constant("4/s"), Constant(4.0), "constant 4/s", True),
        (poisson("240/min"), Poisson(4.0), "poisson 4/s", True),
        (concurrency(8), Concurrency(8), "concurrency 8", False),
        (concurrency(8, "500ms"), Concurrency(8, 0.5), "concurrency 8, think time 500ms", False),
    ],
)
def test_profiles(profile: LoadProfile, record: LoadProfile, shown: str, is_open: bool) -> None:
    assert profile == record
    assert str(profile) == shown
    assert is_open_loop(profile) is is_open


def test_trace(tmp_path: Path) -> None:
    file = tmp_path / "day.csv"
    file.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n")
    profile = trace(file, time_scale=2.0, start="1m")
    assert (profile.path, profile.time_scale, profile.start_s, str(profile)) == (file, 2.0, 60.0, "trace day.csv x2")
    assert is_open_loop(profile)


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    file = tmp_path / "day.csv"
    file.write_text("")
    for call, message in (
        (lambda: poisson("4"), "poisson(): '4' is not a rate; write it like '4/s' or '240/min'"),
        (lambda: constant("0/s"), "constant(): the rate '0/s' makes no request"),
        (lambda: concurrency(0), "concurrency(): 0 is not a number of users: it must be 1 or more"),
        (lambda: concurrency(1, "2"), "concurrency(): '2' has no unit; a duration is written like "),
        (lambda: trace(tmp_path / "none.csv"), f"{tmp_path / 'none.csv'}: the trace file does not exist"),
        (lambda: trace(file, time_scale=0), "trace(): time_scale 0 must be more than 0"),
        (lambda: trace(file, start="later"), "trace(): 'later' is not a duration; write it like "),
    ):
        with pytest.raises(ConfigError) as caught:
            call()
        assert str(caught.value).startswith(message)
