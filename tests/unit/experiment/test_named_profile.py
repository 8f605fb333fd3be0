"""Load profiles of a catalog: every kind, what changes on which hardware, and what is wrong in a file."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from pytest_llmperf.errors import ConfigError
from pytest_llmperf.experiment.catalog import Catalog, builtin_directory, load_catalog
from pytest_llmperf.experiment.profile import Concurrency, Gamma, LoadProfile
from pytest_llmperf.experiment.records import NamedProfile
from pytest_llmperf.experiment.stages import Bursts, hold, ramp, stages

KINDS = """
uneven: {arrivals: gamma, rate: 4/s, burstiness: 0.25, duration: 60s}
bursty: {arrivals: bursts, size: 50, every: 10s, duration: 60s}
crowd: {arrivals: concurrency, users: 16, ramp: 30s, think_time: 2s, think_distribution: exponential, duration: 5m}
morning:
  arrivals: poisson
  stages:
    - {rate: 0.5/s, duration: 30s}
    - {rate: 0.5/s, to_rate: 2/s, duration: 60s}
  hardware:
    h100:
      stages:
        - {rate: 5/s, to_rate: 20/s, duration: 60s}
    t4: {duration: 45s}
shifts:
  arrivals: concurrency
  think_time: 1s
  repeat: true
  duration: 10m
  stages:
    - {users: 4, duration: 20s}
    - {users: 4, to_users: 16, duration: 20s}
"""


def catalog_of(tmp_path: Path, text: str) -> Catalog:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "profiles.yaml").write_text(textwrap.dedent(text))
    return load_catalog([builtin_directory(), tmp_path / "mine"])


def test_every_kind(tmp_path: Path) -> None:
    profiles = catalog_of(tmp_path, KINDS).profiles
    wanted: dict[str, tuple[LoadProfile, float | None, bool]] = {
        "uneven": (Gamma(4.0, 0.25), 60.0, True),
        "bursty": (Bursts(50, 10.0), 60.0, True),
        "crowd": (Concurrency(16, 2.0, 30.0, "exponential"), 300.0, False),
        "morning": (stages(hold("0.5/s", "30s"), ramp("0.5/s", "2/s", "60s")), None, True),
        "shifts": (stages(hold(4, "20s"), ramp(4, 16, "20s"), think_time="1s", repeat=True), 600.0, False),
    }
    for name, (profile, duration_s, is_open) in wanted.items():
        assert (profiles[name].load_profile, profiles[name].duration, profiles[name].is_open) == (profile, duration_s, is_open)


def test_what_changes_on_which_hardware(tmp_path: Path) -> None:
    catalog = catalog_of(tmp_path, KINDS)
    morning = catalog.profiles["morning"]
    assert morning.on(catalog.hardware_named("h100")).load_profile == stages(ramp("5/s", "20/s", "60s"))
    cut = morning.on(catalog.hardware_named("t4"))
    assert (cut.load_profile, cut.duration) == (morning.load_profile, 45.0)
    assert morning.on(catalog.hardware_named("l4")) == NamedProfile("morning", "poisson", stages=morning.stages)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("x: {arrivals: gama, rate: 4/s, duration: 9s}", "1: x.arrivals: 'gama' is not one of constant, poisson, gamma, bursts"),
        ("x: {arrivals: gamma, rate: 4/s, duration: 9s}", "1: x: gamma arrivals need 'burstiness', more than 0"),
        ("x: {arrivals: poisson, rate: 4/s, duration: 9s, burstiness: 2}", "1: x: poisson arrivals have no 'burstiness'"),
        ("x: {arrivals: poisson, rate: 4/s, duration: 9s, ramp: 3s}", "1: x: poisson arrivals have no 'ramp'"),
        ("x: {arrivals: poisson, rate: 4/s, duration: 9s, think_time: 3s}", "1: x: poisson arrivals have no 'think_time'"),
        ("x: {arrivals: poisson, rate: 4/s, users: 3, duration: 9s}", "1: x: poisson arrivals have no 'users'"),
        ("x: {arrivals: poisson, rate: 4/s}", "1: x: poisson arrivals need 'duration', more than 0"),
        ("x: {arrivals: poisson, rate: 4/s, duration: 0s}", "1: x: 'duration' must be more than 0"),
        ("x: {arrivals: poisson, duration: 9s}", "1: x: poisson arrivals need 'rate', more than 0"),
        ("x: {arrivals: bursts, size: 0, every: 1s, duration: 9s}", "1: x: bursts arrivals need 'size', more than 0"),
        ("x: {arrivals: concurrency, users: 4, duration: 9s, repeat: true}", "1: x: concurrency arrivals have no 'repeat'"),
        (
            "x: {arrivals: concurrency, users: 4, duration: 9s, think_distribution: exponential}",
            "1: x: 'think_distribution' needs a 'think_time'",
        ),
        (
            "x:\n  arrivals: poisson\n  stages:\n    - {rate: 1/s, duration: 9s}\n    - {rate: 1/s, to_rat: 2/s, duration: 9s}",
            "5: x.stages[1].to_rat: unknown key 'to_rat'\n  Did you mean 'to_rate'?",
        ),
        (
            "x:\n  arrivals: poisson\n  stages:\n    - {rate: 1/s, duration: 9s}\n    - {rate: 1, duration: 9s}",
            "5: x.stages[1].rate: 1 is not a rate; write it like '4/s' or '240/min'",
        ),
        (
            "x:\n  arrivals: poisson\n  stages:\n    - {rate: 1/s, users: 4, duration: 9s}",
            "4: x.stages[0]: a stage has either a 'rate' or 'users'",
        ),
        (
            "x:\n  arrivals: poisson\n  stages:\n    - {rate: 1/s, to_users: 4, duration: 9s}",
            "4: x.stages[0]: 'to_rate' goes with 'rate', 'to_users' with 'users'",
        ),
        (
            "x: {arrivals: poisson, stages: [{users: 4, duration: 9s}]}",
            "1: x: stages of poisson arrivals have a 'rate', and stages[0] has none",
        ),
        (
            "x: {arrivals: bursts, size: 4, every: 1s, stages: [{rate: 4/s, duration: 9s}]}",
            "1: x: bursts arrivals have no 'stages'",
        ),
        (
            "x: {arrivals: poisson, rate: 4/s, stages: [{rate: 4/s, duration: 9s}]}",
            "1: x: poisson arrivals with 'stages' have no 'rate'",
        ),
        ("x: {arrivals: poisson, stages: [{rate: 0/s, duration: 9s}]}", "1: x: no stage makes a request"),
        (
            "x: {arrivals: poisson, duration: 1m, stages: [{rate: 4/s, duration: 9s}]}",
            "1: x: 'duration' 1m is longer than the stages, which last 9s; leave it out, or add 'repeat: true'",
        ),
        (
            "x: {arrivals: poisson, repeat: true, stages: [{rate: 4/s, duration: 9s}]}",
            "1: x: poisson arrivals with 'stages' that repeat need 'duration', more than 0",
        ),
        (
            "x: {arrivals: poisson, rate: 4/s, duration: 9s, hardware: {h100: {users: 4}}}",
            "1: x: on hardware 'h100': poisson arrivals have no 'users'",
        ),
        (
            "x: {arrivals: poisson, rate: 4/s, duration: 9s, hardware: {h100: {rate: 0/s}}}",
            "1: x: on hardware 'h100': poisson arrivals need 'rate', more than 0",
        ),
    ],
)
def test_what_is_wrong_in_a_file_is_said(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        catalog_of(tmp_path, line)
    assert f"profiles.yaml:{message}" in str(caught.value)
