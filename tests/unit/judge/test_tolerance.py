"""Tolerances: what they mean, how they read, and what is said of those that cannot be."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from pytest_llmperf.errors import ConfigError, Where
from pytest_llmperf.judge.tolerance import (
    DEFAULT_TOLERANCES,
    Tolerance,
    parse_tolerance,
    parse_tolerances,
    shown_tolerance,
    tolerance_mapping,
)
from pytest_llmperf.metrics import metric_key

HERE = Where(option="--llmperf-compare-fail")


@pytest.mark.parametrize(
    ("text", "relative", "absolute", "shown"),
    [
        ("ttft_p99:10%", 0.1, None, "10%"),
        (" ttft_p99 : +2.5 % ", 0.025, None, "2.5%"),
        ("ttft_p99:250%", 2.5, None, "250%"),
        ("ttft_p99:50ms", None, 0.05, "50ms"),
        ("tpot_mean:0%", 0.0, None, "0%"),
        ("output_tokens_per_s:5%", 0.05, None, "5%"),
        ("output_tokens_per_s:100/s", None, 100.0, "100/s"),
        ("error_rate:0.5%", None, 0.005, "0.5pp"),
        ("goodput:2%", None, 0.02, "2pp"),
        ("cost_per_mtok:$0.10", None, 0.1, "$0.10"),
    ],
)
def test_a_tolerance_is_relative_or_absolute(text: str, relative: float | None, absolute: float | None, shown: str) -> None:
    tolerance = parse_tolerance(text, HERE)
    assert tolerance.key.name == text.partition(":")[0].strip()
    assert tolerance.relative == (None if relative is None else pytest.approx(relative))
    assert tolerance.absolute == (None if absolute is None else pytest.approx(absolute))
    assert str(tolerance) == shown


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ttft_p99", "'ttft_p99' is no tolerance\n  Write METRIC:TOLERANCE, such as 'ttft_p99:10%'"),
        ("ttft_p99:", "'ttft_p99:' is no tolerance"),
        (":10%", "':10%' is no tolerance"),
        ("tttft_p99:10%", "unknown metric 'tttft'; did you mean 'ttft'?"),
        ("ttft:10%", "ttft needs a statistic such as p50"),
        ("output_tokens_per_s_p99:5%", "has one value a run, so no statistic 'p99'"),
        ("ttft_p99:10", "ttft_p99:10: '10' has no unit"),
        ("ttft_p99:-5%", "ttft_p99:-5%: '-5%' has the unknown unit '%'"),
        ("ttft_p99:5/s", "has the unknown unit '/s'"),
        ("error_rate:120%", "'120%' is not a fraction between 0 and 1"),
        ("output_tokens_per_s:100%", "is better when higher, and 100% less is nothing at all"),
    ],
)
def test_what_cannot_be_a_tolerance_is_said_with_its_place(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_tolerance(text, HERE)
    assert str(caught.value).startswith("--llmperf-compare-fail: ")
    assert said in str(caught.value)


def test_several_come_by_key_and_in_order() -> None:
    found = parse_tolerances(["tpot_p50:5%", "ttft_p50:10ms"], HERE)
    assert {name: str(tolerance) for name, tolerance in found.items()} == {"tpot_p50": "5%", "ttft_p50": "10ms"}
    assert list(found) == ["tpot_p50", "ttft_p50"]


def test_the_same_metric_twice_is_an_error() -> None:
    with pytest.raises(ConfigError, match="--llmperf-compare-fail: tpot_p50 has two tolerances, 5% and 10%"):
        parse_tolerances(["tpot_p50:5%", "ttft_p50:5%", "tpot_p50:10%"], HERE)


def test_a_marker_gives_a_mapping() -> None:
    found = tolerance_mapping({"ttft_p99": "10%", "error_rate": "0.5%"}, Where(key="tolerance"))
    assert {name: str(tolerance) for name, tolerance in found.items()} == {"ttft_p99": "10%", "error_rate": "0.5pp"}


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        ({"ttft_p99": 0.1}, "the tolerance of 'ttft_p99' is 0.1, not text with a unit"),
        ({"ttft": {"p99": "10%"}}, 'Write {"ttft_p99": "10%"}.'),
        ({"ttft_p98x": "10%"}, "ttft_p98x:10%: ttft needs a statistic such as p50"),
        ("ttft_p99:10%", "is no mapping of metrics to tolerances"),
    ],
)
def test_a_marker_that_is_wrong_is_told(mapping: Mapping[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        tolerance_mapping(mapping, Where(file="suites/test_chat.py", line=7, key="tolerance"))
    assert str(caught.value).startswith("suites/test_chat.py:7: tolerance: ")
    assert said in str(caught.value)


def test_the_defaults_are_what_two_runs_of_one_server_agree_on() -> None:
    assert {t.key.name: str(t) for t in DEFAULT_TOLERANCES} == {
        "tpot_p50": "5%",
        "tpot_p95": "10%",
        "ttft_p50": "10%",
        "output_tokens_per_s": "5%",
        "error_rate": "0.5pp",
    }


@pytest.mark.parametrize(("key", "shown"), [("tpot_p95", "10%"), ("ttft_p99", "5%"), ("goodput", "0.5pp"), ("e2e_p50", "5%")])
def test_a_metric_that_nobody_gave_a_tolerance_is_shown_with_one(key: str, shown: str) -> None:
    assert str(shown_tolerance(metric_key(key))) == shown


@pytest.mark.parametrize(("relative", "absolute"), [(None, None), (0.1, 0.1)])
def test_a_tolerance_is_one_of_the_two(relative: float | None, absolute: float | None) -> None:
    with pytest.raises(ValueError, match="either relative or absolute"):
        Tolerance(metric_key("ttft_p99"), relative, absolute)
