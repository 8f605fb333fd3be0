"""A run over time: bins computed by hand, and sums that hold for every log."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmperf.load.records import Outcome
from pytest_llmperf.measure.series import MOST_BINS, Series, series
from tests.unit.measure.logs import NAN, Asked, failed, log_of, streamed


def series_of(*asked: Asked) -> Series:
    found = series(log_of(asked))
    assert found is not None
    return found


def test_bins_by_hand() -> None:
    found = series_of(
        streamed(0.5, 0.25, gap_s=0.5, tokens=3),  # tokens at 0.75, 1.25 and 1.75
        Asked(1.0, ((1.5, 2), (3.5, 4)), sent_s=1.25, end_s=3.5),
        failed(2.5),  # ends at 3.5
        Asked(3.0, sent_s=NAN, end_s=3.25, outcome=Outcome.CANCELLED),
    )
    assert (found.start_s, found.step_s) == (0.0, 1.0)
    assert found.sent.tolist() == [1, 1, 1, 0]
    assert found.ok.tolist() == [0, 1, 0, 1]
    assert found.failed.tolist() == [0, 0, 0, 1]
    assert found.output_tokens.tolist() == [1, 4, 0, 4]
    assert found.in_flight_s.tolist() == pytest.approx([0.5, 0.75 + 0.75, 1.0 + 0.5, 0.5 + 0.5])
    median, worst = found.quantiles["ttft"]
    assert median.tolist() == pytest.approx([0.25, 0.5, NAN, NAN], nan_ok=True)
    assert worst.tolist() == pytest.approx([0.25, 0.5, NAN, NAN], nan_ok=True)
    assert found.quantiles["e2e"][0].tolist() == pytest.approx([NAN, 1.25, NAN, 2.5], nan_ok=True)
    assert found.quantiles["tpot"][1].tolist() == pytest.approx([NAN, 0.5, NAN, 2.0 / 5], nan_ok=True)


def test_a_quantile_is_an_order_statistic() -> None:
    # TTFTs of 1 to 100 ms, all of whose first tokens arrive in the first second.
    found = series_of(*(streamed(0.5, i / 1000, gap_s=0.001) for i in range(100, 0, -1)))
    median, worst = found.quantiles["ttft"]
    assert (median[0], worst[0]) == (pytest.approx(0.050), pytest.approx(0.099))


def test_what_was_not_streamed_has_its_tokens_where_it_ends() -> None:
    found = series_of(Asked(0.0, end_s=2.5, output_tokens=7))
    assert found.output_tokens.tolist() == [0, 0, 7]
    assert found.ok.tolist() == [0, 0, 1]
    assert np.isnan(found.quantiles["ttft"][0]).all()


@pytest.mark.parametrize(
    ("end_s", "number", "last_s"), [(1.7, 2, 0.7), (2.4, 2, 1.4), (2.5, 3, 0.5), (0.2, 1, 0.2), (0.0, 1, 1.0)]
)
def test_the_last_bin_ends_with_the_log(end_s: float, number: int, last_s: float) -> None:
    found = series_of(Asked(0.0, end_s=end_s, output_tokens=1))
    assert len(found.ok) == number
    assert found.last_step_s == pytest.approx(last_s)


def test_what_falls_on_the_end_is_in_the_last_bin() -> None:
    found = series_of(streamed(0.0, 1.0, gap_s=1.0))
    assert found.sent.tolist() == [1, 0]
    assert found.output_tokens.tolist() == [0, 2]


def test_an_instant_before_the_start_has_a_bin() -> None:
    found = series_of(streamed(-0.5, 0.25, gap_s=0.5))
    assert found.start_s == -1.0
    assert found.sent.tolist() == [1]
    assert found.last_step_s == 1.25


def test_a_long_run_has_wider_bins() -> None:
    assert [series_of(streamed(0.0, 1.0, gap_s=end - 1.0)).step_s for end in (600.0, 601.0, 7200.0)] == [1.0, 2.0, 12.0]
    assert len(series_of(streamed(0.0, 1.0, gap_s=86_399.0)).ok) == MOST_BINS


def test_no_requests_have_no_course() -> None:
    assert series(log_of([])) is None


REQUESTS = st.lists(
    st.builds(
        lambda at, wait, gap, tokens, outcome: replace(
            streamed(at, wait, gap, tokens), outcome=outcome, end_s=at + wait + gap * tokens
        ),
        st.floats(0, 2000),
        st.floats(0, 50),
        st.floats(0, 5),
        st.integers(1, 6),
        st.sampled_from([Outcome.OK, Outcome.OK, Outcome.TIMEOUT, Outcome.CANCELLED]),
    ),
    min_size=1,
    max_size=40,
)


@given(REQUESTS)
def test_the_bins_add_up_to_the_whole(asked: list[Asked]) -> None:
    log, found = log_of(asked), series_of(*asked)
    outcomes = [one.outcome for one in asked]
    assert len(found.sent) <= MOST_BINS
    assert len(found.sent) == 1 or 0.5 <= found.last_step_s / found.step_s <= 1.5
    assert found.sent.sum() == len(asked)
    assert found.ok.sum() == outcomes.count(Outcome.OK)
    assert found.failed.sum() == outcomes.count(Outcome.TIMEOUT)
    assert found.output_tokens.sum() == log.chunk_tokens.sum()
    assert math.isclose(found.in_flight_s.sum(), (log.end_s - log.sent_s).sum(), rel_tol=1e-9, abs_tol=1e-6)
    assert (found.in_flight_s > -1e-6).all()


@given(REQUESTS)
def test_a_bins_quantiles_are_those_of_its_requests(asked: list[Asked]) -> None:
    found = series_of(*asked)
    e2es: dict[int, list[float]] = {}
    for one in asked:
        if one.outcome is Outcome.OK:
            at_s = one.chunks[-1][0]
            place = min(int((at_s - found.start_s) / found.step_s), len(found.ok) - 1)
            e2es.setdefault(place, []).append(at_s - one.scheduled_s)
    for q, values in zip((0.5, 0.99), found.quantiles["e2e"], strict=True):
        ranked = {place: sorted(all_s)[math.ceil(q * len(all_s)) - 1] for place, all_s in e2es.items()}
        assert {i: value for i, value in enumerate(values.tolist()) if not math.isnan(value)} == pytest.approx(ranked)
