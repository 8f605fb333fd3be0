"""Answers whose tokens nobody counts: no metric of tokens is made up, and a limit on one stays open and says why."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_llmperf.experiment.sla import parse_sla
from pytest_llmperf.judge.verdict import Outcome, judge
from pytest_llmperf.load.records import Outcome as Failure
from pytest_llmperf.measure.compute import Metrics, measure
from pytest_llmperf.measure.observations import as_of, gaps_beyond, observations
from pytest_llmperf.metrics import metric_key
from tests.unit.measure.logs import Asked, failed, result_of, streamed

COUNTED = [streamed(i / 10, 0.1) for i in range(20)]
UNCOUNTED = [Asked(i / 10, ((i / 10 + 0.1, 0), (i / 10 + 0.2, 0))) for i in range(20)]


def measured(*asked: Asked) -> Metrics:
    return measure(result_of(asked, window=(0.0, 10.0)), price_per_hour=2.0)


@pytest.mark.parametrize("asked", [UNCOUNTED, [*COUNTED, UNCOUNTED[0]]], ids=["all", "one"])
@pytest.mark.parametrize("name", ["output_tokens_per_s", "total_tokens_per_s", "cost_per_mtok"])
def test_one_answer_that_nobody_counted_leaves_the_flow_of_tokens_unknown(asked: list[Asked], name: str) -> None:
    metrics = measured(*asked)
    assert not metrics.estimate(metric_key(name)).is_known
    verdict = judge(metrics, parse_sla("s", {name: "1"}), invalid=())
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.checks[0].note == "the answers do not say how many tokens they have"


def test_what_needs_no_tokens_is_known() -> None:
    metrics = measured(*UNCOUNTED, failed(3.0))
    for name, value in (("ttft_p50", 0.1), ("e2e_p50", 0.2), ("request_rate", 2.0), ("error_rate", 1 / 21)):
        assert metrics.estimate(metric_key(name)).value == pytest.approx(value)


@pytest.mark.parametrize("name", ["itl_p50", "tpot_p50"])
@pytest.mark.parametrize("asked", [UNCOUNTED, [*COUNTED, UNCOUNTED[0]]], ids=["all", "one"])
def test_pieces_of_text_are_no_tokens_to_be_timed(name: str, asked: list[Asked]) -> None:
    metrics = measured(*asked)
    assert not metrics.estimate(metric_key(name)).is_known
    (check,) = judge(metrics, parse_sla("s", {name: "9s"})).checks
    assert check.outcome is Outcome.INCONCLUSIVE
    assert check.note == f"{len(asked) if len(asked) == 20 else 1} of {len(asked)} answers do not say how many tokens they have"


def test_the_counted_answers_do_not_keep_a_limit_for_the_others() -> None:
    asked = [*COUNTED, *COUNTED, UNCOUNTED[0]]
    within = parse_sla("s", {"goodput": {"min": 0.5, "within": {"tpot": "9s"}}})
    assert judge(measured(*asked[:-1]), within).outcome is Outcome.PASS
    (check,) = judge(measured(*asked), within).checks
    assert (check.outcome, check.note) == (Outcome.INCONCLUSIVE, "1 of 41 answers do not say how many tokens they have")
    result = result_of(asked, window=(0.0, 10.0))
    for seen in (observations(result), as_of(result, 9.0)):
        assert not seen.shows(["tpot"])
        assert len(seen.latency("tpot", 9.0)) == 0
        assert len(seen.latency("e2e", 9.0)) == 41
    assert len(gaps_beyond(result, 9.0)) == 0


def test_what_nobody_counts_is_not_0_because_nothing_came() -> None:
    result = result_of([failed(i / 10) for i in range(20)], window=(0.0, 10.0))
    for name in ("output_tokens_per_s", "total_tokens_per_s", "cost_per_mtok"):
        assert measure(result, price_per_hour=2.0).estimate(metric_key(name)).is_known
        assert not measure(result, price_per_hour=2.0, counts_tokens=False).estimate(metric_key(name)).is_known


def test_an_uncounted_failure_leaves_nothing_unknown() -> None:
    cut = replace(UNCOUNTED[0], outcome=Failure.TRUNCATED)
    assert measured(*COUNTED, cut).estimate(metric_key("tpot_p50")).is_known


def test_prompts_that_nobody_counted() -> None:
    metrics = measured(*(Asked(i / 10, ((i / 10 + 0.1, 3),), prompt_tokens=0) for i in range(5)))
    assert metrics.estimate(metric_key("output_tokens_per_s")).value == pytest.approx(1.5)
    assert not metrics.estimate(metric_key("total_tokens_per_s")).is_known
    (check,) = judge(metrics, parse_sla("s", {"total_tokens_per_s": "1"}), invalid=()).checks
    assert check.note == "the answers do not say how many tokens their prompts have"
