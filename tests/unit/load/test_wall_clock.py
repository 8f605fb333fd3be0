"""The kernel's timestamps in the monotonic clock, whatever the wall clock does meanwhile."""

from __future__ import annotations

from time import monotonic, time_ns

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_llmperf.load.wall_clock import NO_STAMP, STAMP, WallClock

AHEAD_NS = 1_795_000_000_000_000_000


def stamp(monotonic_s: float, ahead_ns: int = AHEAD_NS) -> bytes:
    wall_ns = ahead_ns + round(monotonic_s * 1e9)
    return STAMP.pack(wall_ns // 10**9, wall_ns % 10**9)


class Sampled(WallClock):
    """A wall clock that was where it is said to have been, and nowhere else."""

    def __init__(self, *ahead: tuple[float, int]) -> None:
        super().__init__()
        self._since_s, self._until_s, self._ahead_ns = [], [], []
        for at_s, ahead_ns in ahead:
            self.note(at_s, ahead_ns)


STEADY = Sampled((99.0, AHEAD_NS), (110.0, AHEAD_NS + 500))


def test_arrivals_are_what_the_kernel_says() -> None:
    stamps = stamp(100.001) + stamp(100.002) + stamp(100.005)
    assert STEADY.arrivals([100.0015, 100.004, 100.0051], stamps, 100.0) == pytest.approx([100.001, 100.002, 100.005], abs=1e-7)
    assert STEADY.arrival_s(100.0015, stamp(100.001), 100.0) == pytest.approx(100.001, abs=1e-7)


@pytest.mark.parametrize(
    ("what", "at"),
    [("missing", NO_STAMP), ("after it was read", stamp(100.0021)), ("before it was asked for", stamp(99.9))],
)
def test_a_timestamp_that_cannot_be_counts_for_nothing(what: str, at: bytes) -> None:
    read_s = [100.001, 100.002, 100.003]
    arrivals = STEADY.arrivals(read_s, stamp(100.0005) + at + stamp(100.0025), 100.0)
    assert arrivals.tolist() == pytest.approx([100.0005, 100.002, 100.0025], abs=1e-7), what
    assert STEADY.arrival_s(100.002, at, 100.0) == 100.002


def test_nothing_arrives_before_what_came_earlier() -> None:
    arrivals = STEADY.arrivals([100.01, 100.02, 100.03], stamp(100.009) + stamp(100.005) + stamp(100.025), 100.0)
    assert arrivals.tolist() == pytest.approx([100.009, 100.02, 100.025], abs=1e-7)


def test_what_never_came_stays_unknown() -> None:
    nothing = STEADY.arrivals([float("nan"), 100.5], NO_STAMP * 2, float("nan"))
    assert np.isnan(nothing[0])
    assert nothing[1] == 100.5


def test_around_a_jump_of_the_wall_clock_the_clients_clock_counts() -> None:
    jumped = AHEAD_NS - 3_000_000
    clock = Sampled((99.0, AHEAD_NS), (100.010, AHEAD_NS), (100.020, jumped), (101.0, jumped))
    # Read before the jump, in the interval in which it happened, and after it.
    stamps = stamp(100.004) + stamp(100.014) + stamp(100.018, jumped) + stamp(100.029, jumped)
    arrivals = clock.arrivals([100.005, 100.015, 100.019, 100.030], stamps, 100.0)
    assert arrivals.tolist() == pytest.approx([100.004, 100.015, 100.019, 100.029], abs=1e-7)


def test_a_slewed_wall_clock_is_followed() -> None:
    # 500 ppm, the most that the kernel slews by, seen every 10 ms.
    slewed = [(100 + i / 100, AHEAD_NS + i * 5_000) for i in range(200)]
    clock = Sampled(*slewed)
    arrived = np.array([at_s for at_s, _ in slewed[:-1]])
    stamps = b"".join(stamp(at_s, ahead_ns) for at_s, ahead_ns in slewed[:-1])
    assert np.abs(clock.arrivals(arrived + 0.001, stamps, 99.0) - arrived).max() <= 25e-6


@settings(deadline=None)
@given(
    jumps=st.lists(st.integers(-(10**9), 10**9), min_size=1, max_size=5),
    waits=st.lists(st.floats(0.0, 0.01), min_size=1, max_size=50),
)
def test_whatever_the_wall_clock_does_arrivals_can_be(jumps: list[int], waits: list[float]) -> None:
    aheads = AHEAD_NS + np.cumsum(jumps)
    clock = Sampled(*((100 + i / 10, int(ahead)) for i, ahead in enumerate(aheads)))
    read_s = 100.0 + np.cumsum(waits)
    stamps = b"".join(
        stamp(at_s - wait / 2, int(aheads[i % len(aheads)])) for i, (at_s, wait) in enumerate(zip(read_s, waits, strict=True))
    )
    arrivals = clock.arrivals(read_s, stamps, 100.0)
    assert np.all(arrivals <= read_s)
    assert np.all(arrivals >= 100.0)
    assert np.all(np.diff(arrivals) >= 0)


def test_a_sample_is_of_the_real_clocks() -> None:
    clock = WallClock()
    before_s = monotonic()
    seconds, nanoseconds = divmod(time_ns(), 10**9)
    read_s = monotonic()
    clock.sample()
    arrived_s = clock.arrival_s(read_s, STAMP.pack(seconds, nanoseconds), before_s - 0.001)
    assert before_s - 0.001 <= arrived_s <= read_s
