"""Quantiles of histograms, against the definition of Prometheus's ``histogram_quantile`` and values that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmperf.measure.histogram import Buckets

UPPER = (0.1, 0.5, 1.0, 2.0, math.inf)


def buckets(values: list[float]) -> Buckets:
    below = [sum(value <= bound for value in values) for bound in UPPER]
    return Buckets(np.array(UPPER), np.array(below, float), sum(values))


def test_quantiles_lie_between_the_bounds_in_proportion() -> None:
    taken = buckets([0.05] * 10 + [0.7] * 10)
    assert taken.count == 20
    assert taken.mean == pytest.approx(0.375)
    # Rank 5 of the 10 in (0, 0.1]; rank 15 is the 5th of the 10 in (0.5, 1].
    assert taken.quantile(0.25) == pytest.approx(0.05)
    assert taken.quantile(0.75) == pytest.approx(0.75)
    assert taken.bucket_of(0.75) == (0.5, 1.0)


def test_beyond_the_last_bound_nothing_is_known() -> None:
    taken = buckets([0.05] * 90 + [9.0] * 10)
    assert taken.quantile(0.99) is None
    assert taken.bucket_of(0.99) is None
    assert taken.quantile(0.5) == pytest.approx(0.1 * 50 / 90)


def test_of_nothing_there_is_no_quantile() -> None:
    taken = buckets([])
    assert (taken.quantile(0.5), taken.bucket_of(0.5), math.isnan(taken.mean)) == (None, None, True)
    assert Buckets(np.empty(0), np.empty(0), 0.0).quantile(0.5) is None


@given(st.lists(st.floats(0.001, 1.99), min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.99]))
def test_a_quantile_is_in_the_bucket_of_the_true_one(values: list[float], q: float) -> None:
    taken = buckets(values)
    true = sorted(values)[math.ceil(q * len(values)) - 1]
    bounds, estimate = taken.bucket_of(q), taken.quantile(q)
    assert bounds is not None
    assert estimate is not None
    assert bounds[0] < true <= bounds[1]
    assert bounds[0] <= estimate <= bounds[1] + 1e-12
