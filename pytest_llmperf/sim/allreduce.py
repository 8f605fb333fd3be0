"""Measured all-reduce latency by link, degree and message size (AIConfigurator, vLLM kernel database), log-log interpolated."""

from __future__ import annotations

from bisect import bisect_right
from functools import cache
from math import exp, log

from pytest_llmperf.sim.spec import Interconnect

_KB, _MB = 1024.0, 1024.0**2
_DEGREES = (2, 4, 8)

# (message bytes, microseconds at TP 2, 4, 8), inside CUDA graphs.
_TABLE: dict[str, tuple[tuple[float, tuple[float, float, float]], ...]] = {
    "nvlink-h100": (
        (8 * _KB, (4.5, 4.8, 5.3)),
        (64 * _KB, (4.8, 5.8, 7.9)),
        (_MB, (12.4, 18.6, 19.4)),
        (16 * _MB, (156, 191, 178)),
        (64 * _MB, (469, 619, 577)),
    ),
    "nvlink-a100": ((8 * _KB, (5.3, 6.0, 6.5)), (_MB, (15, 26, 28)), (16 * _MB, (222, 288, 364))),
    "nvlink-b200": ((8 * _KB, (7.1, 7.4, 8.1)), (_MB, (25, 24, 21)), (16 * _MB, (87, 119, 111))),
    "pcie": (
        (8 * _KB, (6.2, 17.5, 27.4)),
        (64 * _KB, (11, 60, 108)),
        (_MB, (117, 841, 2080)),
        (16 * _MB, (1777, 13_598, 30_062)),
    ),
}


@cache
def _curve(link: Interconnect, degree: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(log bytes, log seconds) of a link at a degree; a degree between the measured ones is interpolated too."""
    sizes = tuple(log(size) for size, _ in _TABLE[link])
    degrees = [log(measured) for measured in _DEGREES]
    times = tuple(
        _interpolate(log(degree), degrees, [log(us * 1e-6) for us in row], extrapolate=False) for _, row in _TABLE[link]
    )
    return sizes, times


def _interpolate(
    x: float, xs: list[float] | tuple[float, ...], ys: list[float] | tuple[float, ...], *, extrapolate: bool
) -> float:
    if x <= xs[0]:
        return ys[0]
    if x >= xs[-1] and not extrapolate:
        return ys[-1]
    right = min(bisect_right(xs, x), len(xs) - 1)
    slope = (ys[right] - ys[right - 1]) / (xs[right] - xs[right - 1])
    return ys[right - 1] + slope * (x - xs[right - 1])


def allreduce_s(link: Interconnect, degree: int, message_bytes: float) -> float:
    """Seconds of one all-reduce of ``message_bytes`` over ``degree`` GPUs; 0 for one GPU.

    Below the smallest measured message the latency floor holds; above the largest the time grows with the bytes.
    """
    if degree <= 1 or message_bytes <= 0:
        return 0.0
    sizes, times = _curve(link, degree)
    size = log(message_bytes)
    if size > sizes[-1]:
        return exp(times[-1] + size - sizes[-1])
    return exp(_interpolate(size, sizes, times, extrapolate=True))
