"""The vectorised metrics against a slow and obvious computation, over random logs."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_llmperf.load.records import Outcome
from pytest_llmperf.measure.compute import measure
from pytest_llmperf.metrics import metric_key
from tests.unit.measure.logs import Asked, result_of, stands_in

WINDOW = (2.0, 8.0)


@st.composite
def asked(draw: st.DrawFn) -> Asked:
    """A request at any time before, in or after the window, with any outcome and up to four chunks of up to three tokens."""
    scheduled_s = draw(st.integers(0, 100)) / 10
    outcome = draw(st.sampled_from([Outcome.OK, Outcome.OK, Outcome.OK, Outcome.TIMEOUT, Outcome.TRUNCATED, Outcome.CANCELLED]))
    gaps = draw(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 3)), max_size=4))
    at, chunks = scheduled_s, []
    for gap, tokens in gaps:
        at += gap / 10
        chunks.append((at, tokens))
    planned = draw(st.integers(0, 5)) if not chunks else None
    warmup = draw(st.booleans()) and draw(st.booleans())
    return Asked(scheduled_s, tuple(chunks), sent_s=scheduled_s + 0.05, outcome=outcome, output_tokens=planned, warmup=warmup)


def within(time_s: float) -> bool:
    return WINDOW[0] <= time_s <= WINDOW[1]


def counted(log: list[Asked]) -> list[Asked]:
    return [a for a in log if not a.warmup and within(a.scheduled_s) and a.outcome is not Outcome.CANCELLED]


def median(values: list[float]) -> float:
    return sorted(values)[math.ceil(len(values) / 2) - 1] if values else math.nan


def oracle_gaps(log: list[Asked]) -> list[float]:
    gaps = []
    for one in counted(log):
        if one.outcome is Outcome.OK:
            gaps += [(b - a) / n for (a, _), (b, n) in zip(one.chunks, one.chunks[1:], strict=False)]
    return gaps


@settings(max_examples=300, deadline=None)
@given(st.lists(asked(), max_size=12))
def test_latencies_counts_and_flows_agree_with_a_loop(log: list[Asked]) -> None:
    metrics = measure(result_of(log, WINDOW), price_per_hour=None)
    ended = counted(log)
    ok = [a for a in ended if a.outcome is Outcome.OK]
    failures = [math.inf] * (len(ended) - len(ok))
    assert (metrics.counts.ok, metrics.counts.failed) == (len(ok), len(failures))

    def agrees(key: str, values: list[float], missing: list[float]) -> None:
        # A latency that no answered request has does not exist, whatever failed.
        expected = math.nan if ok and not values else median(values + missing)
        assert metrics.estimate(metric_key(key)).value == pytest.approx(expected, nan_ok=True)

    def failures_of(has: Callable[[Asked], bool]) -> list[float]:
        return [math.inf] * sum(stands_in(ended, has))

    def has_pace(one: Asked) -> bool:
        return one.tokens >= 2 and len(one.chunks) >= 2

    agrees("ttft_p50", [a.chunks[0][0] - a.scheduled_s for a in ok if a.chunks], failures_of(lambda a: bool(a.chunks)))
    agrees("e2e_p50", [a.ended_s - a.scheduled_s for a in ok], failures)
    agrees("service_e2e_p50", [a.ended_s - a.scheduled_s - 0.05 for a in ok], failures)
    tpot = [(a.chunks[-1][0] - a.chunks[0][0]) / (a.tokens - 1) for a in ok if has_pace(a)]
    agrees("tpot_p50", tpot, failures_of(has_pace))
    gaps = oracle_gaps(log)
    # A failed request is as many gaps as an answered one has, and one at least.
    never_ended = round(len(failures) * max(1.0, len(gaps) / len(ok))) if ok else len(failures)
    agrees("itl_p50", gaps, [math.inf] * never_ended)

    length = WINDOW[1] - WINDOW[0]
    arrived = sum(n for a in log for at, n in a.chunks if within(at))
    arrived += sum(a.tokens for a in log if not a.chunks and a.outcome is Outcome.OK and within(a.ended_s))
    assert metrics.scalars["output_tokens_per_s"].value == pytest.approx(arrived / length)
    answers = sum(1 for a in log if a.outcome is Outcome.OK and within(a.ended_s))
    assert metrics.scalars["request_rate"].value == pytest.approx(answers / length)
