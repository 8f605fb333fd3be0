"""How much requests of one run say beyond each other. Neighbours share a queue, so 10,000 of them may be worth 200.

The *design effect* D of a series is the factor by which its dependence inflates the variance of its mean: n values are worth
n / D independent ones (Kish, *Survey Sampling*, 1965; Rao and Scott, *Biometrics* 48, 1992, for counts). It is estimated from
the means of 20 blocks in arrival order (Schmeiser, *Operations Research* 30, 1982), with the correction for blocks that are
still correlated that ASAP3 and Skart use: an AR(1) process's factor (1 + phi) / (1 - phi).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pytest_llmperf.load.records import Floats

BLOCKS = 20
FEWEST = 200
"""Below ten values a block the design effect cannot be told from noise."""
VARIANCE_BOUND = (BLOCKS - 1) / 11.650910
"""1.63, (b - 1) / the 10 % quantile of chi-square with b - 1 degrees of freedom: a variance of b block means times this is an
upper bound of the true one with 90 %."""
_MOST_CORRELATED = 0.9
_ROUNDING = 1e-9


def block_means(x: Floats) -> Floats:
    """The means of 20 equal blocks of ``x`` (shape (n,), n >= 20), shape (20,); what is over is left out at the beginning."""
    size = len(x) // BLOCKS
    means: Floats = x[len(x) - size * BLOCKS :].reshape(BLOCKS, size).mean(axis=1)
    return means


def variance_of_blocks(means: Floats) -> float:
    """The variance of block means, shape (b,), times the AR(1) factor of their correlation: b times that of their mean.

    The lag-1 correlation is corrected for its bias, phi + (1 + 3 phi) / (b - 1) (Marriott and Pope, 1954), and kept within
    [0, 0.9]: negative correlation is never taken for knowledge, and above 0.9 twenty blocks say nothing.
    """
    count, off = len(means), means - means.mean()
    squares = float(off @ off)
    if squares <= 0:
        return 0.0
    phi = float(off[1:] @ off[:-1]) / squares
    phi = min(max(phi + (1 + 3 * phi) / (count - 1), 0.0), _MOST_CORRELATED)
    return squares / (count - 1) * (1 + phi) / (1 - phi)


def design_effect(x: Floats) -> float:
    """The design effect of the mean of ``x``, shape (n,), in arrival order: >= 1; 1 for a constant and below 20 values."""
    if len(x) < BLOCKS:
        return 1.0
    size = len(x) // BLOCKS
    x = x[len(x) - size * BLOCKS :]
    variance = float(x.var())
    # What differs by rounding only is a constant: the pattern of its last digits is no dependence.
    if variance <= (_ROUNDING * float(np.abs(x).max())) ** 2:
        return 1.0
    return max(1.0, size * variance_of_blocks(block_means(x)) / variance)


def worth(x: Floats) -> float:
    """How many independent values the mean of ``x`` is worth, n / D; n itself below 200, where D cannot be told."""
    return len(x) / design_effect(x) if len(x) >= FEWEST else float(len(x))
