"""Verdicts at a stated error on finished runs, and the reasons where there is none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pytest_llmperf.judge.certain import judge_certain
from pytest_llmperf.judge.policy import Policy
from pytest_llmperf.judge.replay import sizes_before
from pytest_llmperf.judge.ruling import judge_run
from pytest_llmperf.judge.verdict import Check, Outcome, Verdict
from pytest_llmperf.load.records import LoadResult
from pytest_llmperf.measure.compute import measure
from pytest_llmperf.measure.run import Steadiness, Stopped
from tests.unit.judge.loads import RATE, answered, loaded, queue, run, sla, spread
from tests.unit.measure.logs import Asked, failed, streamed

CALM = Steadiness()


def verdict(result: LoadResult, document: dict[str, object], steady: Steadiness | None = None) -> Verdict:
    return judge_certain(run(result, steady=steady), sla(document))


def only(result: LoadResult, document: dict[str, object]) -> Check:
    (check,) = verdict(result, document).checks
    return check


@pytest.mark.parametrize(
    ("document", "outcome"),
    [
        ({"ttft": {"p95": "350ms"}}, Outcome.PASS),
        ({"ttft": {"p95": "150ms"}}, Outcome.FAIL),
        ({"ttft": {"p95": "228ms"}}, Outcome.INCONCLUSIVE),
        ({"ttft": {"p99": "500ms"}}, Outcome.PASS),
        ({"ttft": {"p10": "90ms"}}, Outcome.PASS),
        ({"ttft": {"p10": "30ms"}}, Outcome.FAIL),
        ({"e2e": {"p50": "200ms"}}, Outcome.PASS),
        ({"tpot": {"p95": "50ms"}}, Outcome.PASS),
        ({"tpot": {"p95": "10ms"}}, Outcome.FAIL),
        ({"itl": {"p95": "50ms"}}, Outcome.PASS),
        ({"itl": {"p95": "10ms"}}, Outcome.FAIL),
        ({"error_rate": "1%"}, Outcome.PASS),
        ({"goodput": {"min": "90%", "within": {"ttft": "300ms"}}}, Outcome.PASS),
        ({"goodput": {"min": "90%", "within": {"ttft": "120ms"}}}, Outcome.FAIL),
        ({"ttft": {"mean": "150ms"}}, Outcome.PASS),
        ({"ttft": {"mean": "100ms"}}, Outcome.FAIL),
        ({"ttft": {"mean": "113ms"}}, Outcome.INCONCLUSIVE),
        ({"itl": {"mean": "50ms"}}, Outcome.PASS),
        ({"output_tokens_per_s": 38}, Outcome.PASS),
        ({"output_tokens_per_s": 42}, Outcome.FAIL),
        ({"request_rate": "9/s"}, Outcome.PASS),
        ({"total_tokens_per_s": 200}, Outcome.FAIL),
        ({"cost_per_mtok": "$15"}, Outcome.PASS),
        ({"cost_per_mtok": "$14"}, Outcome.FAIL),
        ({"ttft": {"min": "100ms"}}, Outcome.PASS),
        ({"ttft": {"min": "1ms"}}, Outcome.INCONCLUSIVE),
        ({"ttft": {"max": "200ms"}}, Outcome.FAIL),
        ({"ttft": {"max": "9s"}}, Outcome.INCONCLUSIVE),
        ({"error_rate": "0%"}, Outcome.INCONCLUSIVE),
    ],
    ids=str,
)
def test_six_thousand_independent_requests(document: dict[str, object], outcome: Outcome) -> None:
    check = only(answered(spread(6000)), document)
    assert check.outcome is outcome, check.note
    assert (check.note != "") == (document != {"ttft": {"min": "100ms"}})


def test_the_evidence_is_in_the_note() -> None:
    passed = only(answered(spread(6000)), {"ttft": {"p95": "350ms"}})
    assert passed.note.startswith("e-value ")
    assert " (needs 20): " in passed.note
    assert passed.note.endswith(" independent ones")
    assert passed.estimate.value == pytest.approx(0.228, rel=0.05)
    open_ = only(answered(spread(600)), {"ttft": {"p99": "500ms"}})
    assert open_.outcome is Outcome.INCONCLUSIVE
    assert open_.note.startswith("too few independent samples: 600 requests are worth ")
    assert "PASS takes about " in open_.note
    assert "at this rate)" in open_.note
    few = only(answered(spread(150)), {"ttft": {"p99": "500ms"}})
    assert few.note == "too few independent samples: needs at least 50 more requests (4.97s at this rate) (150 of 200)"


def test_a_share_at_the_limit_cannot_be_told() -> None:
    ttfts = np.where(np.arange(4000) % 20 == 7, 2.0, 0.1)
    assert only(answered(ttfts), {"ttft": {"p95": "1s"}}).note.startswith("too close to the limit to tell: 200 of 4,000 requests")


def test_a_fail_of_one_of_several_limits_takes_more_evidence() -> None:
    result = answered(spread(6000))
    alone = verdict(result, {"ttft": {"p50": "90ms"}})
    among = verdict(result, {"ttft": {"p50": "90ms", "p95": "1s", "p99": "2s"}, "error_rate": "5%"})
    assert alone.outcome is among.outcome is Outcome.FAIL
    assert "(needs 20)" in alone.checks[0].note
    assert "(needs 80)" in among.checks[0].note
    assert among.policy is Policy.CERTAIN
    assert [check.outcome for check in among.checks[1:]] == [Outcome.PASS] * 3
    assert among.reasons[0].startswith("TTFT p50 is ")


def test_gross_misses_are_named() -> None:
    failing = verdict(answered([0.1] * 40, failing=range(10)), {"error_rate": "1%"})
    assert failing.outcome is Outcome.FAIL
    assert failing.checks[0].note == "10 of 40 requests are beyond the limit, 25x as many as may be"


def test_failures_exceed_every_latency() -> None:
    failing = list(range(0, 3000, 8))
    lines: list[dict[str, object]] = [{"ttft": {"p95": "1s"}}, {"tpot": {"p95": "1s"}}, {"error_rate": "5%"}]
    lines.append({"goodput": {"min": "95%", "within": {"e2e": "9s"}}})
    for document in lines:
        assert verdict(answered([0.1] * 3000, failing=failing), document).outcome is Outcome.FAIL


def failing_at_random(n: int, share: float, *, gap_s: float = 0.02, tokens: int = 4) -> LoadResult:
    bad = np.flatnonzero(np.random.default_rng(1).random(n) < share)
    return answered([0.1] * n, gap_s=gap_s, tokens=tokens, failing=bad.tolist())


def test_a_mean_is_not_kept_by_failing() -> None:
    document: dict[str, object] = {"ttft": {"mean": "1s"}}
    assert only(failing_at_random(3000, 0.0), document).outcome is Outcome.PASS
    for share in (0.001, 0.3, 0.9, 0.99):
        for policy in Policy:
            (check,) = judge_run(run(failing_at_random(3000, share)), sla(document), policy).checks
            assert check.outcome is Outcome.INCONCLUSIVE
            assert check.note.endswith(" of 3,000 requests failed and have no value: judge a percentile, or limit error_rate too")
            assert check.estimate.value == pytest.approx(0.1)
    assert only(failing_at_random(3000, 0.3), {"itl": {"mean": "1s"}}).outcome is Outcome.INCONCLUSIVE


def test_a_few_failures_do_not_outweigh_the_few_answers_that_have_a_tpot() -> None:
    answers = [streamed(i * 0.1, 0.1, 0.01, tokens=5 if i % 10 == 0 else 1) for i in range(6000)]
    few = loaded([failed(i * 0.1) if i % 100 == 7 else one for i, one in enumerate(answers)])
    many = loaded([failed(i * 0.1) if i % 5 == 2 else one for i, one in enumerate(answers)])
    assert judge_run(run(few), sla({"tpot": {"p95": "50ms"}}), Policy.MEASURED).outcome is Outcome.PASS
    assert only(few, {"tpot": {"p95": "50ms"}}).outcome is not Outcome.FAIL
    assert judge_run(run(many), sla({"tpot": {"p95": "50ms"}}), Policy.MEASURED).outcome is Outcome.FAIL
    assert only(many, {"tpot": {"p95": "50ms"}}).outcome is not Outcome.PASS


def test_goodput_that_too_little_is_known_of_is_missed_or_open_but_never_kept() -> None:
    answers = [streamed(i * 0.1, 0.1, 0.01, tokens=5 if i % 10 == 0 else 1) for i in range(6000)]
    document: dict[str, object] = {"goodput": {"min": "95%", "within": {"ttft": "1s", "tpot": "50ms"}}}
    failing = loaded([failed(i * 0.1) if i % 5 == 2 else one for i, one in enumerate(answers)])
    for policy in Policy:
        assert judge_run(run(loaded(answers)), sla(document), policy).outcome is Outcome.INCONCLUSIVE
        (check,) = judge_run(run(failing), sla(document), policy).checks
        assert check.outcome is Outcome.FAIL
        assert check.estimate.value == pytest.approx(0.8)


def test_a_mean_stands_where_another_limit_answers_for_what_failed() -> None:
    checks = verdict(failing_at_random(3000, 0.3), {"ttft": {"mean": "1s"}, "error_rate": "5%"}).checks
    assert [check.outcome for check in checks] == [Outcome.PASS, Outcome.FAIL]


def test_a_mean_of_the_answered_that_is_beyond_the_limit_is_missed_whatever_failed() -> None:
    assert only(failing_at_random(3000, 0.3), {"ttft": {"mean": "50ms"}}).outcome is Outcome.FAIL


def test_a_mean_is_missed_where_all_failed() -> None:
    for name in ("ttft", "itl"):
        check = only(answered([0.1] * 400, failing=range(400)), {name: {"mean": "1s"}})
        assert (check.outcome, check.note) == (Outcome.FAIL, "all of 400 requests failed")
    few = only(answered([0.1] * 10, failing=range(10)), {"ttft": {"mean": "1s"}})
    assert few.outcome is Outcome.INCONCLUSIVE
    assert few.note.startswith("too few independent samples: needs about 190 more requests")


def test_a_failed_request_is_beyond_every_maximum() -> None:
    hung = [replace(failed(i / RATE), end_s=i / RATE + 120.0) if i == 5 else streamed(i / RATE, 0.1) for i in range(800)]
    for policy in Policy:
        found = judge_run(run(loaded(hung)), sla({"e2e": {"max": "60s"}}), policy)
        assert found.outcome is Outcome.FAIL
        assert found.reasons[0].startswith("E2E max is inf, required <= 1m: 1 of 800 requests ")


def test_a_third_of_requests_that_failed_is_a_third_of_the_gaps() -> None:
    result = failing_at_random(6000, 0.3, tokens=128)
    for policy in Policy:
        found = judge_run(run(result), sla({"itl": {"p99": "50ms", "p80": "50ms", "p60": "50ms"}}), policy)
        assert [check.outcome for check in found.checks] == [Outcome.FAIL, Outcome.FAIL, Outcome.PASS], found.checks


@pytest.mark.parametrize(
    ("document", "outcome"),
    [({"cost_per_mtok": "$0"}, Outcome.FAIL), ({"cost_per_mtok": "$100"}, Outcome.PASS)],
    ids=str,
)
def test_what_costs_something_does_not_cost_nothing(document: dict[str, object], outcome: Outcome) -> None:
    check = only(answered(spread(1600), tokens=20), document)
    assert check.estimate.value > 0
    assert check.outcome is outcome, check.note
    free = replace(run(answered(spread(1600), tokens=20)), steadiness=CALM)
    free = replace(free, metrics=measure(free.result, price_per_hour=0.0))
    assert judge_certain(free, sla({"cost_per_mtok": "$0"})).outcome is Outcome.PASS


@pytest.mark.parametrize("document", [{"output_tokens_per_s": 10}, {"request_rate": "1/s"}, {"cost_per_mtok": "$2"}], ids=str)
def test_a_dead_server_misses_every_flow(document: dict[str, object]) -> None:
    dead = only(answered([0.1] * 600, failing=range(600)), document)
    assert (dead.outcome, dead.note) == (Outcome.FAIL, "nothing arrived in the 59.9s of the window")
    # As it would by the handful that a dying one still answers.
    dying = only(answered([0.1] * 600, failing=set(range(600)) - {100, 250, 251, 480}), document)
    assert dying.outcome is Outcome.FAIL, dying.note


def test_little_that_arrived_is_not_too_little_where_the_limit_asks_for_less_or_answers_take_long() -> None:
    dead = answered([0.1] * 600, failing=range(600))
    assert only(dead, {"request_rate": "0.3/s"}).note == "too few independent samples: only 0 arrived in the window"
    long = loaded([Asked(i / RATE, (), end_s=i / RATE + 90, output_tokens=50) for i in range(600)])
    assert only(long, {"request_rate": "1/s"}).note == "too few independent samples: only 0 arrived in the window"
    assert only(long, {"output_tokens_per_s": 10}).outcome is Outcome.INCONCLUSIVE


def test_bursts_of_gaps_count_by_request_and_by_gap() -> None:
    # Each tenth request has twenty slow gaps, each other one two fast ones: half of all gaps are slow.
    asked = [streamed(i / RATE, 0.1, gap_s=0.2 if i % 10 == 0 else 0.01, tokens=19 if i % 10 == 0 else 3) for i in range(4000)]
    assert only(loaded(asked), {"itl": {"p95": "100ms"}}).outcome is Outcome.FAIL
    assert only(loaded(asked), {"itl": {"p25": "100ms"}}).outcome is Outcome.PASS
    assert only(loaded(asked), {"itl": {"p50": "100ms"}}).outcome is Outcome.INCONCLUSIVE


def test_an_overloaded_run_fails_and_passes_nothing() -> None:
    found = verdict(queue(2400, 8.0), {"tpot": {"p50": "1s"}})
    assert found.outcome is Outcome.FAIL
    assert found.reasons[0].startswith("unstable: no steady state, the backlog grew by ")
    assert found.checks[0].outcome is Outcome.INCONCLUSIVE
    assert found.checks[0].note.startswith("the backlog grew by ")


def test_a_server_that_never_got_warm_neither_passes_nor_fails() -> None:
    gaps = np.geomspace(0.2, 0.02, 3000)
    result = loaded([streamed(i / RATE, 0.1, float(gap), 4) for i, gap in enumerate(gaps)])
    found = verdict(result, {"ttft": {"p50": "1s"}, "tpot": {"p50": "60ms"}})
    assert found.outcome is Outcome.INCONCLUSIVE
    assert found.reasons[0].startswith("unstable: no steady state, still warming up")
    assert {check.outcome for check in found.checks} == {Outcome.INCONCLUSIVE}
    gross = verdict(result, {"ttft": {"p99": "50ms"}})
    assert gross.outcome is Outcome.FAIL


def test_a_lengthened_warmup_is_not_judged() -> None:
    paces = np.random.default_rng(0).uniform(0.018, 0.022, 6000) * np.where(np.arange(6000) < 100, 5.0, 1.0)
    cold = [streamed(i / RATE, 2.0 if i < 100 else 0.1, float(pace), 4) for i, pace in enumerate(paces)]
    document: dict[str, object] = {"ttft": {"p95": "1s"}}
    assert verdict(loaded(cold), document).outcome is Outcome.PASS
    assert run(loaded(cold)).steadiness.extra_warmup_s == pytest.approx(10.0, abs=1.0)


def test_what_cannot_be_trusted_is_invalid_first() -> None:
    distrusted = replace(run(answered([0.1] * 3000)), invalid=("the client fell behind",))
    found = judge_run(distrusted, sla({"ttft": {"p50": "1s"}}), Policy.CERTAIN)
    assert (found.outcome, found.reasons, found.policy) == (Outcome.INVALID, ("the client fell behind",), Policy.CERTAIN)


def test_nothing_counted_and_nothing_priced_are_inconclusive() -> None:
    assert only(loaded([]), {"ttft": {"p50": "1s"}}).note == "no request was counted"
    whole = loaded([failed(i / RATE) for i in range(5)])
    assert only(whole, {"ttft": {"mean": "1s"}}).outcome is Outcome.INCONCLUSIVE


@pytest.mark.parametrize(
    ("document", "note"),
    [
        ({"output_tokens_per_s": 20}, "too few independent samples: needs a window of 40s (29.9s)"),
        ({"ttft": {"mean": "1s"}}, "too few independent samples: needs about 45,000 more requests (74m45s at this rate)"),
    ],
    ids=str,
)
def test_short_runs_say_what_they_lack(document: dict[str, object], note: str) -> None:
    assert only(answered(np.linspace(0.1, 0.2, 300)), document).note == note


def test_measured_is_what_it_was() -> None:
    measured = judge_run(run(answered(spread(600))), sla({"ttft": {"p99": "500ms"}}), Policy.MEASURED)
    assert (measured.outcome, measured.policy) == (Outcome.PASS, Policy.MEASURED)


def test_a_stop_that_fails_another_sla_is_not_held_against_this_one() -> None:
    good = run(answered(spread(600)), Stopped("TTFT p50 <= 1ms: all of them", "FAIL", 59.0, 60.0))
    assert judge_run(good, sla({"ttft": {"p99": "500ms"}}), Policy.MEASURED).outcome is Outcome.PASS


def test_identical_servers_at_the_limit_are_seldom_decided() -> None:
    # The true p90 is the limit: each outcome may be wrong in 5 % of runs, here of 60.
    document: dict[str, object] = {"ttft": {"p90": f"{100 * np.exp(0.5 * 1.2815515655446004)}ms"}}
    outcomes = [verdict(answered(spread(1500, seed=100 + i)), document, CALM).outcome for i in range(60)]
    assert outcomes.count(Outcome.PASS) <= 8
    assert outcomes.count(Outcome.FAIL) <= 8


def test_a_finished_load_is_judged_whole_and_not_by_its_beginning() -> None:
    result = answered(spread(12_000), failing=range(9000, 12_000))
    found = verdict(result, {"error_rate": "1%"})
    assert found.outcome is Outcome.FAIL
    assert found.checks[0].note == "3,000 of 12,000 requests are beyond the limit, 25x as many as may be"
    assert verdict(result, {"ttft": {"p95": "1s"}}).outcome is not Outcome.PASS


def test_an_early_pass_that_the_whole_run_misses_is_no_pass() -> None:
    result = answered(spread(3000), failing=range(2600, 3000))
    stopped = Stopped("every limit is kept", "PASS", 260.0, 60.0)
    found = judge_certain(run(replace(result, stopped_s=260.0), stopped), sla({"error_rate": "5%"}))
    assert found.outcome is Outcome.INCONCLUSIVE
    assert found.checks[0].note.startswith("passed after ")
    assert found.checks[0].note.endswith(" requests, but the whole run misses it")


def test_of_a_stopped_run_a_few_beginnings_are_tried_at_any_rate() -> None:
    for rate, known in ((10.0, 400), (1000.0, 40_000), (1000.0, 3), (3.0, 1)):
        sizes = sizes_before(np.arange(50_000) / rate, known)
        assert len(sizes) <= 40
        assert sizes == sorted(set(sizes))
        assert (sizes[-1], sizes[0] > max(0, known - 5 * rate - 2)) == (known, True)
    assert sizes_before(np.empty(0), 0) == []


def test_a_constant_latency_equal_to_its_limit_keeps_it() -> None:
    at_s = np.cumsum(np.random.default_rng(1).exponential(0.1, 6000)).tolist()
    result = loaded([Asked(at, tuple((at + 0.1 + 0.01 * k, 1) for k in range(20))) for at in at_s])
    document = {"tpot": {"p95": "10ms", "mean": "10ms"}, "itl": {"p95": "10ms", "mean": "10ms"}}
    for policy in Policy:
        found = judge_run(run(result), sla(document), policy)
        assert [check.outcome for check in found.checks] == [Outcome.PASS] * 4, found.checks


def test_the_cold_requests_of_a_lengthened_warmup_fail_no_stopped_run() -> None:
    ttfts = spread(3000)
    paces = np.where(np.arange(3000) < 60, 0.06, 0.02) * np.random.default_rng(0).uniform(0.95, 1.05, 3000)
    asked = [streamed(i / RATE, 2.0 if i < 60 else float(ttfts[i]), float(paces[i]), 20) for i in range(3000)]
    stopped = run(loaded(asked), Stopped("TTFT p50 <= 1ms: all of them", "FAIL", 299.0, 60.0))
    assert 6.0 <= stopped.steadiness.extra_warmup_s <= 12.0
    document: dict[str, object] = {"ttft": {"p99": "1s"}}
    assert judge_run(stopped, sla(document), Policy.MEASURED).outcome is Outcome.PASS
    assert judge_run(stopped, sla(document), Policy.CERTAIN).outcome is not Outcome.FAIL


def test_goodput_within_a_latency_that_no_answer_has_is_not_known() -> None:
    whole = loaded([Asked(i / RATE, (), end_s=i / RATE + 30, output_tokens=50) for i in range(1000)])
    for policy in Policy:
        found = judge_run(run(whole), sla({"goodput": {"min": "95%", "within": {"ttft": "1s"}}}), policy)
        assert found.outcome is Outcome.INCONCLUSIVE
