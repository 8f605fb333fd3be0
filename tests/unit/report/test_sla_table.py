"""The table of a missed SLA, as a person reads it in a failing test."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest

from pytest_llmperf.experiment.sla import Gate, Grades, Threshold, parse_sla
from pytest_llmperf.judge.policy import Policy
from pytest_llmperf.judge.verdict import Check, Outcome, Verdict
from pytest_llmperf.measure.run import Estimate
from pytest_llmperf.metrics import METRICS, metric_key
from pytest_llmperf.report.tables import how_far, sla_table
from tests.unit.report.runs import SLA, answered, run_of, verdict_on

MISSED = """\
SLA interactive-chat: FAIL (SIMULATED: no real server was measured)
metric           required  measured  95 % interval   verdict  how far
TTFT p50         <= 250ms     369ms  332ms..388ms    FAIL     1.5x over
TTFT p95         <= 400ms     540ms  521ms..540ms    FAIL     1.3x over
TPOT p95         <= 50ms       36ms  36ms..36ms      PASS     72% of limit
error rate       <= 0.1%     0.662%  0.0118%..3.91%  FAIL     6.6x over
output tokens/s  >= 10/s     29.5/s  28/s..31/s      PASS     3.0x the limit
- error rate: 2 of 302 requests failed; all: http 503"""

OPEN = """\
SLA interactive-chat: FAIL
metric           required  measured  95 % interval  verdict       how far
TTFT p50         <= 250ms     195ms  163ms..237ms   PASS          77.9% of limit
TTFT p99         <= 1s        300ms  289ms..inf     INCONCLUSIVE  30% of limit
error rate       <= 0.1%         0%  0%..8.81%      PASS          0% of limit
output tokens/s  >= 100/s      12/s  0/s..40.9/s    FAIL          88% short
- TTFT p99: needs 259 more samples (40 of 299)"""

FAILURES = """\
SLA interactive-chat: FAIL
metric    required  measured  95 % interval  verdict  how far
TTFT p99  <= 1s          inf  inf            FAIL     over
- TTFT p99: 5 of 15 samples are beyond the limit (5 requests failed; all: http
  503); of 299 no more than 2 may be"""

INVALID = """\
SLA interactive-chat: INVALID
metric    required  measured  95 % interval  verdict  how far
TTFT p50  <= 1s        195ms  181ms..209ms   PASS     19.5% of limit
- worker 1 sent its requests late: p99 31.2ms after schedule (limit 10ms); use
  more workers"""


GRADES = """\
SLA chat (at acceptable): FAIL
metric      required  measured  95 % interval  verdict              how far
TTFT p50    <= 300ms     195ms  184ms..216ms   PASS (acceptable)    65% of limit
TTFT p95    <= 1s        100ms  90ms..120ms    PASS (target)        10% of limit
TTFT p99    <= 150ms     600ms  589ms..700ms   FAIL (unacceptable)  4.0x over
error rate  <= 1%           0%  0%..1.22%      PASS                 0% of limit"""

GRADES_WITHOUT_ROOM = """\
SLA chat (at acceptable): FAIL
metric             required measured 95 % interval  verdict      how far
TTFT p95           <= 1s       100ms 90ms..120ms    INCONCLUSIVE 10% of limit
$/1M output tokens <= $2.00   $19.44 $19.20..$19.70 FAIL         9.7x over
- $/1M output tokens is unacceptable
- TTFT p95: needs 19 more samples (40 of 59)"""

UNSTABLE = """\
SLA chat: INCONCLUSIVE
metric    required  measured  95 % interval  verdict  how far
TTFT p50  <= 1s        195ms  184ms..216ms   PASS     19.5% of limit
goodput   >= 95%         96%  94%..98%       PASS     101% of limit
- unstable: the backlog grew by 40 requests
- goodput: the share of requests with TTFT <= 1s, TPOT <= 50ms"""


def test_a_miss_says_what_was_required_measured_and_by_how_far() -> None:
    assert sla_table(verdict_on(run_of(answered(300, scale=1.8, failures=2))), simulated=True) == MISSED


def test_what_is_open_says_what_it_lacks() -> None:
    sla = {"ttft": {"p50": "250ms", "p99": "1s"}, "error_rate": "0.1%", "output_tokens_per_s": "100"}
    assert sla_table(verdict_on(run_of(answered(40)), sla), simulated=False) == OPEN


def test_failures_are_beyond_any_limit() -> None:
    assert sla_table(verdict_on(run_of(answered(10, failures=5)), {"ttft": {"p99": "1s"}}), simulated=False) == FAILURES


def test_a_run_that_is_not_trusted_says_why() -> None:
    reason = "worker 1 sent its requests late: p99 31.2ms after schedule (limit 10ms); use more workers"
    verdict = verdict_on(run_of(answered(300), invalid=(reason,)), {"ttft": {"p50": "1s"}})
    assert sla_table(verdict, simulated=False) == INVALID


def check(document: Mapping[str, object], measured: tuple[float, float, float], outcome: Outcome, note: str = "") -> Check:
    (threshold,) = parse_sla("chat", document).at("acceptable").thresholds
    return Check(threshold, Estimate(*measured, 300), outcome, note)


def graded(target: str, acceptable: str, poor: str | None = None) -> Mapping[str, object]:
    limits = {"target": target, "acceptable": acceptable}
    return {**limits, "poor": poor} if poor else limits


def test_a_graded_limit_shows_the_grade_that_was_reached() -> None:
    checks = (
        check({"ttft_p50": graded("100ms", "300ms")}, (0.195, 0.184, 0.216), Outcome.PASS),
        check({"ttft_p95": graded("200ms", "1s")}, (0.1, 0.09, 0.12), Outcome.PASS),
        check({"ttft_p99": graded("100ms", "150ms", "400ms")}, (0.6, 0.589, 0.7), Outcome.FAIL),
        check({"error_rate": "1%"}, (0.0, 0.0, 0.0122), Outcome.PASS),
    )
    assert sla_table(Verdict("chat", Outcome.FAIL, checks, (), gate="acceptable"), simulated=False) == GRADES


def test_grades_stand_below_where_the_lines_have_no_room() -> None:
    open_one = check(
        {"ttft_p95": graded("200ms", "1s")}, (0.1, 0.09, 0.12), Outcome.INCONCLUSIVE, "needs 19 more samples (40 of 59)"
    )
    missed = check({"cost_per_mtok": graded("$1", "$2")}, (19.44, 19.2, 19.7), Outcome.FAIL)
    table = sla_table(Verdict("chat", Outcome.FAIL, (open_one, missed), (), gate="acceptable"), simulated=False)
    assert table == GRADES_WITHOUT_ROOM


def test_what_the_run_as_a_whole_shows_stands_below() -> None:
    goodput = {"goodput": {"min": "95%", "within": {"ttft": "1s", "tpot": "50ms"}}}
    checks = (
        check({"ttft_p50": "1s"}, (0.195, 0.184, 0.216), Outcome.PASS),
        check(goodput, (0.96, 0.94, 0.98), Outcome.PASS),
    )
    verdict = Verdict("chat", Outcome.INCONCLUSIVE, checks, ("unstable: the backlog grew by 40 requests",))
    assert sla_table(verdict, simulated=False) == UNSTABLE


@pytest.mark.parametrize(
    ("policy", "gate", "document", "heading"),
    [
        (Policy.MEASURED, "acceptable", {"ttft_p50": "1s"}, "SLA chat: PASS"),
        (Policy.MEASURED, "acceptable", {"ttft_p50": graded("1s", "2s")}, "SLA chat (at acceptable): PASS"),
        (Policy.CERTAIN, "target", {"ttft_p50": graded("1s", "2s")}, "SLA chat (certain): PASS"),
        (Policy.CERTAIN, "acceptable", {"ttft_p50": graded("1s", "2s")}, "SLA chat (at acceptable, certain): PASS"),
    ],
)
def test_the_heading_says_what_is_not_as_always(policy: Policy, gate: Gate, document: Mapping[str, object], heading: str) -> None:
    checks = (check(document, (0.5, 0.4, 0.6), Outcome.PASS),)
    table = sla_table(Verdict("chat", Outcome.PASS, checks, (), policy=policy, gate=gate), simulated=False)
    assert table.splitlines()[0] == heading


def test_nothing_is_wider_than_80_columns_whatever_is_measured() -> None:
    keys = [metric_key(m.name, "p99.99" if m.is_distribution else None) for m in METRICS.values()]
    wide = Estimate(1234.5678, 1234.5, math.inf, 12)
    for key in keys:
        for outcome in (Outcome.INCONCLUSIVE, Outcome.FAIL):
            threshold = Threshold(key, ">=" if key.metric.higher_is_better else "<=", 0.7, Grades(0.7))
            checks = (Check(threshold, wide, outcome, "x " * 80),)
            table = sla_table(Verdict("an-sla-with-a-long-name " * 5, outcome, checks, ("y " * 80,)), simulated=True)
            assert max(map(len, table.splitlines())) <= 80, table


def test_the_shipped_slas_fit_with_every_outcome() -> None:
    table = sla_table(verdict_on(run_of(answered(30, scale=7.77, failures=1)), SLA), simulated=True)
    assert max(map(len, table.splitlines())) <= 80


@pytest.mark.parametrize(
    ("key", "comparator", "limit", "value", "text"),
    [
        ("ttft_p99", "<=", 1.0, 1.8, "1.8x over"),
        ("ttft_p99", "<=", 1.0, 25.0, "25x over"),
        ("ttft_p99", "<=", 1.0, 1.042, "4.2% over"),
        ("ttft_p99", "<=", 1.0, 1.0, "100% of limit"),
        ("ttft_p99", "<=", 1.0, 0.46, "46% of limit"),
        ("ttft_p99", "<=", 1.0, math.inf, "over"),
        ("ttft_p99", "<=", 1.0, math.nan, "-"),
        ("error_rate", "<=", 0.0, 0.01, "over"),
        ("goodput", ">=", 0.9, 0.45, "50% short"),
        ("goodput", ">=", 0.9, 0.99, "110% of limit"),
        ("output_tokens_per_s", ">=", 50.0, 2630.0, "53x the limit"),
    ],
)
def test_how_far(key: str, comparator: str, limit: float, value: float, text: str) -> None:
    threshold = Threshold(metric_key(key), "<=" if comparator == "<=" else ">=", limit)
    assert how_far(Check(threshold, Estimate(value, math.nan, math.nan, 1), Outcome.FAIL, "")) == text
