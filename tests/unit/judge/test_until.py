"""When a load has said enough, and that its verdict is then what was said."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_llmperf.experiment.profile import LoadProfile, TraceReplay, bursts, concurrency, is_open_loop
from pytest_llmperf.experiment.stages import hold, ramp, stages
from pytest_llmperf.judge.policy import Policy, Settled
from pytest_llmperf.judge.ruling import judge_run
from pytest_llmperf.judge.until import Until, counted_requests
from pytest_llmperf.judge.verdict import Outcome, judge
from pytest_llmperf.load.plan import LoadPlan
from pytest_llmperf.load.records import LoadResult
from pytest_llmperf.measure.compute import measure
from pytest_llmperf.measure.observations import as_of, observations
from tests.unit.judge.loads import RATE, answered, ended, loaded, plan, queue, run, sla, spread, watched
from tests.unit.measure.logs import Asked, failed, streamed

P99 = sla({"ttft": {"p99": "1s"}})


def settle(result: LoadResult, document: dict[str, object], policy: Policy, *, open_loop: bool = True) -> Settled | None:
    return watched(Until(sla(document), policy, plan(len(result.log), open_loop=open_loop)), result)


def test_an_overloaded_server_fails_within_ten_seconds_at_ten_requests_a_second() -> None:
    result = queue(1200, capacity_per_s=5.0)
    for policy in Policy:
        settled = watched(Until(P99, policy, plan(1200)), result)
        assert settled is not None
        assert settled.outcome is Outcome.FAIL
        assert settled.at_s <= 10.0
        assert settled.reason.startswith("TTFT p99 <= 1s: ")
        cut, stopped = ended(result, settled)
        verdict = judge_run(run(cut, stopped), P99, policy)
        assert verdict.outcome is Outcome.FAIL
        assert stopped.saved_s > 100


CHANGING = [
    stages(hold("5/s", "60s"), hold("15/s", "60s")),
    bursts(50, every="5s"),
    concurrency(16, ramp="60s"),
    stages(hold(2, "60s"), ramp(2, 16, "60s")),
    TraceReplay(Path("trace.csv")),
]


def changing(profile: LoadProfile, requests: int) -> LoadPlan:
    """A plan of so many requests in two minutes, of a profile whose load is not the same all along."""
    times = np.linspace(0.0, 119.9, requests) if is_open_loop(profile) else np.empty(0)
    return LoadPlan(profile, plan(1).workload, 1, 0.0, 120.0, np.empty(0), times)


@pytest.mark.parametrize("profile", CHANGING, ids=lambda profile: type(profile).__name__)
@pytest.mark.parametrize("policy", Policy)
def test_the_beginning_of_a_load_that_changes_settles_nothing(profile: LoadProfile, policy: Policy) -> None:
    document: dict[str, object] = {"ttft": {"p50": "600ms"}, "tpot": {"p95": "50ms"}, "error_rate": "5%"}
    good, overloaded = answered(spread(6000)), queue(1200, capacity_per_s=8.0)
    assert watched(Until(sla(document), policy, changing(profile, 6000)), good) is None
    # At one rate both are settled: by certainty, and by a backlog that grows.
    assert watched(Until(P99, policy, plan(1200)), overloaded) is not None
    lenient = sla({"ttft": {"p99": "1h"}})
    assert watched(Until(lenient, policy, changing(profile, 1200)), overloaded) is None


def test_a_load_that_changes_is_settled_once_no_request_to_come_could_mend_it() -> None:
    profile = stages(hold("5/s", "60s"), hold("15/s", "60s"))
    slow = answered(np.full(1200, 2.0))
    settled = watched(Until(P99, Policy.MEASURED, changing(profile, 1200)), slow)
    assert settled is not None
    assert settled.reason.endswith("missed even if every other of the 1,200 planned keeps it")
    # Thirteen of 1,200 are too many, and known within a few seconds, without waiting for what gets warm.
    assert settled.at_s < 6.0
    failing = answered(spread(1200), failing=[40])
    none_may = sla({"error_rate": "0%"})
    certain = watched(Until(none_may, Policy.CERTAIN, changing(profile, 1200)), failing)
    assert certain is not None
    assert "none may be" in certain.reason


def test_a_limit_that_can_still_be_kept_is_not_settled_and_one_request_more_settles_it() -> None:
    # Of 1,000 requests ten may be beyond the p99's limit. Well apart, so that no other rule sees many among few.
    slow = [100 * i + 99 for i in range(10)]
    ten = answered(np.where(np.isin(np.arange(1000), slow[:10]), 2.0, 0.1))
    assert watched(Until(P99, Policy.MEASURED, plan(1000)), ten) is None
    eleven = answered(np.where(np.isin(np.arange(1000), [*slow[:9], 950, 951]), 2.0, 0.1))
    settled = watched(Until(P99, Policy.MEASURED, plan(1000)), eleven)
    assert settled is not None
    assert settled.at_s == pytest.approx(97.0, abs=1.1)
    assert settled.reason == (
        "TTFT p99 <= 1s: 11 requests are beyond the limit: missed even if every other of the 1,000 planned keeps it"
    )
    # A load of unknown length may go on for ever.
    assert watched(Until(P99, Policy.MEASURED, plan(1000, open_loop=False)), eleven) is None


LINES: list[dict[str, object]] = [
    {"ttft": {"p50": "300ms"}},
    {"ttft": {"p95": "400ms"}, "e2e": {"p90": "500ms"}},
    {"ttft": {"p99": "450ms"}},
    {"ttft": {"max": "490ms"}},
    {"tpot": {"p90": "30ms"}},
    {"error_rate": "3%"},
    {"error_rate": "0%"},
    {"goodput": {"min": "90%", "within": {"ttft": "400ms"}}},
    {"ttft": {"p10": "100ms"}, "service_e2e": {"p50": "200ms"}},
]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(LINES), st.integers(20, 400), st.integers(0, 10**6), st.sampled_from([0.0, 0.02, 0.1]))
def test_what_is_settled_by_counting_is_what_the_finished_load_is_judged(
    document: dict[str, object], requests: int, seed: int, failing: float
) -> None:
    rng = np.random.default_rng(seed)
    ttfts = rng.uniform(0.05, 0.5, requests)
    bad = set(np.flatnonzero(rng.uniform(size=requests) < failing).tolist())
    asked = [
        failed(i / RATE)
        if i in bad
        else streamed(i / RATE, float(ttfts[i]), float(rng.uniform(0.01, 0.04)), int(rng.integers(1, 4)))
        for i in range(requests)
    ]
    result = loaded(asked)
    settled = settle(result, document, Policy.MEASURED)
    if settled is None:
        return
    assert settled.outcome is Outcome.FAIL
    # Ended there and then, or after all that was planned.
    cut, stopped = ended(result, settled)
    assert judge_run(run(cut, stopped), sla(document), Policy.MEASURED).outcome is Outcome.FAIL
    if "missed even if" in settled.reason:
        for finished in (cut, result):
            assert judge(measure(finished, price_per_hour=None), sla(document)).outcome is Outcome.FAIL


def test_a_good_server_passes_early_when_certainty_is_asked_for_and_never_by_measuring() -> None:
    result = answered(spread(6000))
    document: dict[str, object] = {"ttft": {"p95": "600ms"}, "tpot": {"p95": "50ms"}, "error_rate": "5%"}
    settled = settle(result, document, Policy.CERTAIN)
    assert settled is not None
    assert settled.outcome is Outcome.PASS
    assert 20 <= settled.at_s <= 300
    assert settled.reason.startswith("every limit is kept: TTFT p95 <= 600ms, e-value ")
    cut, stopped = ended(result, settled)
    assert judge_run(run(cut, stopped), sla(document), Policy.CERTAIN).outcome is Outcome.PASS
    assert settle(result, document, Policy.MEASURED) is None


@pytest.mark.parametrize("seed", range(10))
def test_a_load_that_was_ended_on_a_pass_passes(seed: int) -> None:
    result = answered(spread(8000, seed))
    document: dict[str, object] = {"ttft": {"p95": "280ms", "p50": "130ms"}, "e2e": {"p90": "300ms"}}
    settled = settle(result, document, Policy.CERTAIN)
    assert settled is not None
    cut, stopped = ended(result, settled)
    assert judge_run(run(cut, stopped), sla(document), Policy.CERTAIN).outcome is settled.outcome is Outcome.PASS


@pytest.mark.parametrize("document", [{"output_tokens_per_s": 1}, {"ttft": {"mean": "1s"}}, {"itl": {"p95": "1s"}}])
def test_what_cannot_be_judged_while_the_load_runs_forbids_an_early_pass(document: dict[str, object]) -> None:
    assert settle(answered(spread(3000)), {"ttft": {"p95": "600ms"}, **document}, Policy.CERTAIN) is None


def test_certainty_fails_a_moderate_miss_that_counting_leaves_open() -> None:
    result = answered(spread(6000))
    document: dict[str, object] = {"ttft": {"p50": "80ms"}}
    certain, counted = settle(result, document, Policy.CERTAIN), settle(result, document, Policy.MEASURED)
    assert certain is not None
    assert certain.outcome is Outcome.FAIL
    assert "e-value" in certain.reason
    assert certain.at_s < 100
    # Two thirds are late; half of the planned may be: by counting it takes three quarters of the load.
    assert counted is not None
    assert counted.at_s > 3 * certain.at_s


def test_one_failed_request_fails_a_maximum_at_once() -> None:
    result = answered([0.1] * 600, failing=[100])
    for policy in Policy:
        settled = settle(result, {"e2e": {"max": "60s"}}, policy)
        assert settled is not None
        assert (settled.outcome, settled.at_s) == (Outcome.FAIL, 11.0)


def test_one_request_beyond_a_maximum_fails_a_certain_load_at_once() -> None:
    settled = settle(answered([0.1] * 50 + [3.0] + [0.1] * 200), {"ttft": {"max": "1s"}}, Policy.CERTAIN)
    assert settled is not None
    assert settled.reason == "TTFT max <= 1s: 1 of 80 requests beyond the limit, none may be"


def test_a_growing_backlog_ends_an_open_loop_whatever_its_latencies() -> None:
    result = queue(3000, capacity_per_s=8.0)
    document: dict[str, object] = {"tpot": {"p95": "1s"}}
    for policy in Policy:
        settled = settle(result, document, policy)
        assert settled is not None
        assert settled.outcome is Outcome.FAIL
        assert settled.reason.startswith("unstable: no steady state, the backlog grew by ")
        assert 90 <= settled.at_s <= 150
        cut, stopped = ended(result, settled)
        assert judge_run(run(cut, stopped), sla(document), policy).outcome is Outcome.FAIL


def test_a_backlog_says_nothing_of_a_closed_loop() -> None:
    assert settle(queue(3000, 8.0), {"tpot": {"p95": "1s"}}, Policy.MEASURED, open_loop=False) is None


def test_a_gross_miss_settles_both_policies() -> None:
    result = answered(np.linspace(0.1, 0.4, 2600))
    assert settle(result, {"ttft": {"p90": "105ms"}}, Policy.MEASURED) is not None
    # A closed loop of unknown length cannot be counted out.
    late = Until(sla({"ttft": {"p90": "105ms"}}), Policy.MEASURED, plan(2600, open_loop=False))
    settled = watched(late, result)
    assert settled is not None
    assert 200 <= settled.at_s <= 210
    assert settled.reason.endswith("10x as many as may be")


def test_a_load_ended_for_one_sla_is_judged_by_another_on_its_own_terms() -> None:
    result = queue(1200, capacity_per_s=5.0)
    settled = watched(Until(P99, Policy.MEASURED, plan(1200)), result)
    assert settled is not None
    cut, stopped = ended(result, settled)
    lax = judge_run(run(cut, stopped), sla({"tpot": {"p50": "1s"}}), Policy.MEASURED)
    assert lax.outcome is Outcome.PASS
    assert judge_run(run(cut, stopped), sla({"tpot": {"p95": "1s"}}), Policy.CERTAIN).outcome is Outcome.INCONCLUSIVE


def test_a_cold_server_is_not_passed_before_it_is_warm() -> None:
    gaps = np.geomspace(0.2, 0.02, 400)
    asked = [streamed(i / RATE, 0.05, float(gap), 4) for i, gap in enumerate(gaps)]
    settled = watched(Until(sla({"ttft": {"p50": "1s"}}), Policy.CERTAIN, plan(400)), loaded(asked))
    assert settled is None


def test_the_warmup_is_not_judged() -> None:
    warm = [streamed(i / RATE, 5.0, warmup=True) for i in range(100)]
    good = [streamed(10 + i / RATE, 0.1) for i in range(300)]
    result = loaded([*warm, *good])
    assert watched(Until(P99, Policy.CERTAIN, plan(300)), result) is None
    assert len(observations(result)) == 400


def test_before_anything_has_ended_nothing_is_settled() -> None:
    until = Until(P99, Policy.CERTAIN, plan(100))
    assert until.look(as_of(answered([0.1] * 100), -1.0)) is None
    assert until.look(as_of(answered([0.1] * 100), 0.05)) is None


def test_the_requests_of_a_plan_are_counted_where_answers_do_not_matter() -> None:
    assert counted_requests(plan(123)) == 123
    assert counted_requests(plan(123, open_loop=False)) is None


def cold_start(requests: int, cold: int, *, also_slow: Iterable[int] = ()) -> LoadResult:
    """Ten requests a second at a good server whose first ``cold`` answers are slow in every respect."""
    ttfts, is_cold = spread(requests), np.arange(requests) < cold
    ttfts[[*also_slow]] = 2.0
    ttfts[is_cold] = 2.0
    paces = np.where(is_cold, 0.06, 0.02) * np.random.default_rng(3).uniform(0.95, 1.05, requests)
    return loaded([streamed(i / RATE, float(ttfts[i]), float(paces[i]), 20) for i in range(requests)])


@pytest.mark.parametrize("document", [{"ttft": {"p99": "1s"}}, {"ttft": {"p95": "1s"}}, {"ttft": {"max": "1500ms"}}], ids=str)
def test_a_cold_start_fails_no_load_that_lengthens_its_warmup(document: dict[str, object]) -> None:
    for requests in (700, 3000):
        result = cold_start(requests, 60)
        for policy in Policy:
            settled = settle(result, document, policy)
            assert settled is None or settled.outcome is Outcome.PASS
        assert judge_run(run(result), sla(document), Policy.MEASURED).outcome is Outcome.PASS


def test_what_a_lengthened_warmup_cuts_is_not_counted_against_a_limit() -> None:
    # With the hundred cold ones it would be 160 of 2,500, where 125 may be.
    late = np.random.default_rng(2).choice(np.arange(150, 1200), 60, replace=False).tolist()
    result = cold_start(2500, 100, also_slow=late)
    document: dict[str, object] = {"ttft": {"p95": "1s"}}
    assert settle(result, document, Policy.MEASURED) is None
    assert judge_run(run(result), sla(document), Policy.MEASURED).outcome is Outcome.PASS


@pytest.mark.parametrize("tokens", [1, 20])
def test_an_overload_fails_within_ten_seconds_whether_or_not_there_is_a_tpot(tokens: int) -> None:
    result = loaded([streamed(i / RATE, 0.1 + i / 10, 0.02, tokens) for i in range(1200)])
    for policy in Policy:
        settled = settle(result, {"ttft": {"p99": "1s"}}, policy)
        assert settled is not None
        assert settled.outcome is Outcome.FAIL
        assert settled.at_s <= 10.0


def test_a_short_load_is_looked_at_from_its_middle_on() -> None:
    settled = settle(answered([3.0] * 60), {"ttft": {"p99": "1s"}}, Policy.MEASURED)
    assert settled is not None
    assert settled.at_s == 3.0


def test_a_backlog_that_ended_a_load_is_not_taken_back_by_what_arrives_afterwards() -> None:
    # One early answer takes 115 s: once it is known, the watch would have begun too late to see the backlog.
    arrivals = np.cumsum(np.random.default_rng(1).exponential(1 / RATE, 2000)).tolist()
    free_s, asked = 0.0, []
    for i, at in enumerate(arrivals):
        free_s = max(free_s, at) + 1 / 8.5
        asked.append(streamed(at, free_s - at, (115.0 if i == 20 else 0.5) / 19, 20))
    result = loaded(asked)
    for policy in Policy:
        settled = settle(result, {"ttft": {"p95": "60s"}}, policy)
        assert settled is not None
        cut, stopped = ended(result, settled)
        found = judge_run(run(cut, stopped), sla({"ttft": {"p95": "60s"}}), policy)
        assert found.outcome is Outcome.FAIL
        assert "the backlog grew by " in found.reasons[0]


def test_the_backlog_of_a_trace_says_nothing() -> None:
    replayed = replace(plan(3000), profile=TraceReplay(Path("requests.csv")))
    assert watched(Until(sla({"tpot": {"p95": "1s"}}), Policy.MEASURED, replayed), queue(3000, 8.0)) is None


def whole(n: int, *, fails_every: int = 0) -> LoadResult:
    """``n`` answers that were not streamed, of which every so-manieth failed."""
    answers = [Asked(i / RATE, (), end_s=i / RATE + 2, output_tokens=50) for i in range(n)]
    return loaded([failed(i / RATE) if fails_every and i % fails_every == 1 else answer for i, answer in enumerate(answers)])


def test_goodput_within_a_latency_that_no_answer_has_is_missed_by_what_is_known_and_never_kept() -> None:
    document: dict[str, object] = {"goodput": {"min": "80%", "within": {"ttft": "1s"}}}
    for policy in Policy:
        assert settle(whole(3000), document, policy) is None
        result = whole(3000, fails_every=2)
        settled = settle(result, document, policy)
        assert settled is not None
        cut, stopped = ended(result, settled)
        found = judge_run(run(cut, stopped), sla(document), policy)
        assert found.outcome is Outcome.FAIL
        assert found.checks[0].estimate.value == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("name", ["ttft", "tpot"])
def test_failures_settle_nothing_of_a_latency_that_no_answer_has(name: str) -> None:
    result = whole(3000, fails_every=5)
    for statistic in ("p50", "p99", "max"):
        document: dict[str, object] = {name: {statistic: "1s"}}
        for policy in Policy:
            assert settle(result, document, policy) is None
            assert judge_run(run(result), sla(document), policy).outcome is Outcome.INCONCLUSIVE
