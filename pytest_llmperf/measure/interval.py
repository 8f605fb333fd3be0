"""95 % intervals that assume nothing about the shape of a distribution, or (block means) that means of many are normal.

All of them take the observations for independent. Requests of one run are not (neighbours share a queue): whoever asks gives
as many observations as the requests are worth (``measure.dependence``), so that near saturation the intervals are wide enough.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from pytest_llmperf.measure.dependence import BLOCKS, FEWEST, variance_of_blocks

if TYPE_CHECKING:
    from pytest_llmperf.load.records import Floats

CONFIDENCE = 0.95
_TAIL = (1 - CONFIDENCE) / 2
_IN_TAIL = 5


def quantile_rank(samples: int, quantile: float) -> int:
    """The 1-based rank of the sample quantile, ``ceil(quantile * samples)``: the inverted empirical CDF (Hyndman-Fan type 1)."""
    # 0.07 * 100 is 7.000000000000001 in binary: without rounding it would be the 8th.
    return min(samples, max(1, math.ceil(round(quantile * samples, 7))))


def quantile_interval_ranks(samples: int, quantile: float) -> tuple[int, int]:
    """The 1-based ranks (low, high) of the order statistics that enclose the true quantile with 95 %, 2.5 % either side.

    Exact for any continuous distribution: the number of samples below the true quantile is Binomial(samples, quantile)
    (David and Nagaraja, *Order Statistics*, 7.1). ``low`` is 0 and ``high`` is ``samples + 1`` where the samples set no bound.
    """
    from scipy.special import bdtr

    def smallest(probability: float) -> int:
        """The smallest k with P(Binomial <= k) >= probability, by bisection: twenty steps for a million samples."""
        low, high = 0, samples
        while low < high:
            middle = (low + high) // 2
            if bdtr(middle, samples, quantile) >= probability:
                high = middle
            else:
                low = middle + 1
        return low

    return smallest(_TAIL), smallest(1 - _TAIL) + 1


def batch_quantile_interval(value: float, values: Floats, quantile: float) -> tuple[float, float] | None:
    """Student's interval of a quantile ``value`` from the quantiles of 20 blocks of ``values`` (positive, in order of arrival).

    On logarithms, with an AR(1) correction for blocks that are still correlated (batched quantiles: Seila, *Management Science*
    28, 1982). It has both ends however far neighbours depend on each other, where a count of independent observations may be too
    small for any. None where a block holds fewer than ``_IN_TAIL`` values on either side of the quantile: the rare slow stretches
    that make a tail would not be in every block.
    """
    from scipy.special import stdtrit

    size = len(values) // BLOCKS
    if len(values) < FEWEST or size * min(quantile, 1 - quantile) < _IN_TAIL or not values.min() > 0:
        return None
    blocks = np.log(values[len(values) - size * BLOCKS :].reshape(BLOCKS, size))
    of_blocks = np.sort(blocks, axis=1)[:, quantile_rank(size, quantile) - 1]
    half = float(stdtrit(BLOCKS - 1, 1 - _TAIL)) * math.sqrt(variance_of_blocks(of_blocks) / BLOCKS)
    return value * math.exp(-half), value * math.exp(half)


def proportion_interval(hits: float, trials: float) -> tuple[float, float]:
    """Clopper and Pearson's exact interval of a binomial proportion; (nan, nan) without trials.

    Hits and trials that were divided by a design effect need not be whole: the same beta quantiles (Korn and Graubard 1998).
    """
    from scipy.special import betaincinv

    if trials == 0:
        return math.nan, math.nan
    low = float(betaincinv(hits, trials - hits + 1, _TAIL)) if hits > 0 else 0.0
    high = float(betaincinv(hits + 1, trials - hits, 1 - _TAIL)) if hits < trials else 1.0
    return low, high


def flow_interval(rate: float, blocks: Floats) -> tuple[float, float]:
    """Student's interval of a rate from the rates of equal, consecutive stretches of the window, shape (b,), b >= 2.

    Batch means (Schmeiser 1982), with an AR(1) correction for stretches that are still correlated.
    """
    from scipy.special import stdtrit

    half = float(stdtrit(len(blocks) - 1, 1 - _TAIL)) * math.sqrt(variance_of_blocks(blocks) / len(blocks))
    return max(0.0, rate - half), rate + half


def mean_interval(mean: float, deviation: float, samples: int) -> tuple[float, float]:
    """Student's interval of a mean from the samples' standard deviation (n - 1); (nan, nan) below two samples."""
    from scipy.special import stdtrit

    if samples < 2:
        return math.nan, math.nan
    half = float(stdtrit(samples - 1, 1 - _TAIL)) * deviation / math.sqrt(samples)
    return mean - half, mean + half
