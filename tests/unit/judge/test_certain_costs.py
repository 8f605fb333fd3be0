"""What follows from a flow is judged as the flow is: at a stated error, the other way round where more flow is less of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_llmperf.judge.certain import judge_certain
from pytest_llmperf.judge.verdict import Check, Outcome
from pytest_llmperf.load.records import LoadResult
from pytest_llmperf.measure.compute import measure
from tests.unit.judge.loads import answered, run, sla, spread

STEADY = answered(spread(6000))
"""Ten requests a second, each with ten tokens in and four out."""


def only(result: LoadResult, document: dict[str, object]) -> Check:
    metrics = measure(result, price_per_hour=7.2, accelerators=2, power_w=800.0)
    (check,) = judge_certain(replace(run(result), metrics=metrics), sla(document)).checks
    return check


@pytest.mark.parametrize(
    ("name", "kept", "missed", "bound"),
    [
        ("cost_per_mtok", "$51", "$49", "at most $50"),
        ("cost_per_mtok_input", "$20.40", "$19.60", "at most $20"),
        ("cost_per_mtok_total", "$14.60", "$14", "at most $14"),
        ("tokens_per_dollar", "19600/$", "20400/$", "at least 19,"),
        ("requests_per_gpu_hour", "17640/h", "18360/h", "at least 17,"),
        ("joules_per_token", "20.4J", "19.6J", "at most 20"),
    ],
)
def test_passes_and_fails_by_its_flow(name: str, kept: str, missed: str, bound: str) -> None:
    passed, failed = only(STEADY, {name: kept}), only(STEADY, {name: missed})
    assert (passed.outcome, failed.outcome) == (Outcome.PASS, Outcome.FAIL), (passed.note, failed.note)
    assert passed.note.startswith(bound)


@pytest.mark.parametrize("name", ["cost_per_mtok_input", "tokens_per_dollar", "requests_per_gpu_hour", "joules_per_token"])
def test_a_dead_server_misses_it(name: str) -> None:
    dead = only(answered([0.1] * 600, failing=range(600)), {name: 2})
    assert (dead.outcome, dead.note) == (Outcome.FAIL, "nothing arrived in the 59.9s of the window")


def test_a_short_window_says_nothing() -> None:
    assert only(answered(spread(20)), {"tokens_per_dollar": 1}).outcome is Outcome.INCONCLUSIVE
