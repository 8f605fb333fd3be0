"""Gaps by request against a loop; and that long columns looked at piece by piece say the same."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmperf.load.records import LoadResult
from pytest_llmperf.measure import latencies, throughput
from pytest_llmperf.measure.gaps import Gaps, gaps_of
from tests.unit.measure.logs import result_of, streamed

rows = st.lists(st.lists(st.integers(0, 9).map(lambda tenths: tenths / 10), max_size=4), max_size=8)


@given(rows, st.integers(0, 9))
def test_sums_by_request_agree_with_a_loop(gaps: list[list[float]], tenths: int) -> None:
    limit = tenths / 10
    starts = np.cumsum([0, *map(len, gaps)])
    by_request = Gaps(np.array([gap for row in gaps for gap in row], np.float64), starts)
    assert by_request.beyond(limit).tolist() == [sum(gap > limit for gap in row) for row in gaps]
    means = [sum(row) / len(row) if row else math.nan for row in gaps]
    assert by_request.means().tolist() == pytest.approx(means, nan_ok=True)


def seen(load: LoadResult) -> tuple[list[float], list[float]]:
    """Its gaps, and its tokens by stretch of the window."""
    flow = throughput.throughput(load).output_tokens
    return gaps_of(load.log, load.log.outcome == 0).values.tolist(), flow.blocks_per_s.tolist()


@given(st.lists(st.tuples(st.integers(0, 90), st.integers(0, 6)), max_size=12), st.integers(1, 9))
def test_columns_in_pieces_are_the_same_columns(asked: list[tuple[int, int]], piece: int) -> None:
    load = result_of([streamed(at / 10, 0.2, tokens=tokens) for at, tokens in sorted(asked)])
    whole = seen(load)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latencies, "PIECE", piece)
        patch.setattr(throughput, "PIECE", piece)
        assert seen(load) == whole
