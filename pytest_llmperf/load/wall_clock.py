"""The kernel's receive timestamps, which are of the wall clock, told in the monotonic clock of everything else.

The wall clock may be set or slewed while a load runs. So where it stands is sampled over and over; a timestamp from a time at
which it may have jumped, or one that cannot be, is not believed: then the instant counts at which the client read.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from time import monotonic_ns, time_ns

import numpy as np

from pytest_llmperf.load.records import Floats

STAMP = struct.Struct("@ll")
"""``struct timespec``: seconds and nanoseconds, as the kernel hands it over."""
NO_STAMP = bytes(STAMP.size)
"""In the place of a timestamp that did not come."""

_SAME_NS = 20_000
"""Offsets that differ by less are one: sampling is less exact than that."""
_SLEWED_NS = 100_000
"""From one heartbeat to the next a clock that is only slewed (500 ppm at most) drifts by far less: more is a jump."""
_TIGHT_NS = 2_000
_TRIES = 5


class WallClock:
    """By how much the wall clock was ahead of the monotonic one, and when."""

    def __init__(self) -> None:
        self._since_s: list[float] = []
        self._until_s: list[float] = []
        self._ahead_ns: list[int] = []
        self.sample()

    def sample(self) -> None:
        """See where the wall clock stands now."""
        best_ns, at_ns, ahead_ns = _TIGHT_NS * 10, 0, 0
        for _ in range(_TRIES):
            before_ns = monotonic_ns()
            wall_ns = time_ns()
            took_ns = monotonic_ns() - before_ns
            if took_ns < best_ns:
                best_ns, at_ns, ahead_ns = took_ns, before_ns, wall_ns - before_ns - took_ns // 2
            if took_ns < _TIGHT_NS:
                break
        if at_ns:
            self.note(at_ns / 1e9, ahead_ns)

    def note(self, at_s: float, ahead_ns: int) -> None:
        """At ``at_s`` (monotonic, later than any before) the wall clock was ahead by so much."""
        if self._ahead_ns and abs(ahead_ns - self._ahead_ns[-1]) < _SAME_NS:
            self._until_s[-1] = at_s
        else:
            self._since_s.append(at_s)
            self._until_s.append(at_s)
            self._ahead_ns.append(ahead_ns)

    def arrival_s(self, read_s: float, stamp: bytes, not_before_s: float) -> float:
        """The same of one read just made, by where the wall clock stood last."""
        seconds, nanoseconds = STAMP.unpack(stamp)
        if not seconds or not self._ahead_ns:
            return read_s
        arrived_s = (seconds * 10**9 + nanoseconds - self._ahead_ns[-1]) / 1e9
        return float(arrived_s) if not_before_s <= arrived_s <= read_s else read_s

    def arrivals(self, read_s: Sequence[float] | Floats, stamps: bytes, not_before_s: float) -> Floats:
        """When what was read at ``read_s`` (ascending, of one connection, up to the last sample) had arrived, monotonic.

        ``stamps`` holds one timestamp a read. An instant of ``read_s`` stays as it is where the timestamp is missing, later than
        the read, before ``not_before_s`` (when the request was sent) or before what arrived earlier.
        """
        read = np.asarray(read_s, dtype=np.float64)
        timespecs = np.frombuffer(stamps, dtype=np.int64).reshape(-1, 2)
        ahead_ns, sure = self._ahead_at(read, not_before_s)
        arrived = (timespecs[:, 0] * 10**9 + timespecs[:, 1] - ahead_ns) / 1e9
        arrived = np.where(sure & (timespecs[:, 0] > 0) & (arrived <= read) & (arrived >= not_before_s), arrived, read)
        if np.any(arrived[1:] < arrived[:-1]):
            for i in range(1, len(arrived)):
                if arrived[i] < arrived[i - 1]:
                    arrived[i] = read[i]
        return arrived

    def _ahead_at(
        self, read: Floats, not_before_s: float
    ) -> tuple[np.typing.NDArray[np.int64] | int, np.typing.NDArray[np.bool_] | bool]:
        if not self._ahead_ns:
            return 0, False
        if not_before_s >= self._since_s[-1]:
            return self._ahead_ns[-1], True
        ahead_ns = np.array(self._ahead_ns)
        places = np.maximum(np.searchsorted(self._since_s, read, side="right") - 1, 0)
        jumps = np.abs(np.diff(ahead_ns, append=ahead_ns[-1])) > _SLEWED_NS
        return ahead_ns[places], ~(jumps[places] & (read > np.array(self._until_s)[places]))
