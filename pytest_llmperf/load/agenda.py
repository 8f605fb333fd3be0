"""What a worker has to do and when, to the microsecond.

Timers of uvloop and asyncio are rounded to a millisecond, which would make every arrival late by half of one on average. On
Linux one timerfd wakes the loop at the exact instant; elsewhere the loop's own timer is used, and said to be.
"""

from __future__ import annotations

import asyncio
import ctypes
import heapq
import os
import sys
from collections.abc import Callable
from itertools import count
from time import monotonic

Task = Callable[[float, float], None]
"""Called with (the instant it was due, the instant it is), both in seconds of the monotonic clock."""

_EARLY_S = 0.00006
"""The loop is woken by so much before a task is due and waits for the instant itself: to be woken takes about as long, sometimes
twice that, and arrivals that are late by as much as that in turns are no longer at the gaps that were planned."""
_CLOCK_MONOTONIC = 1
_TFD_TIMER_ABSTIME = 1


class _TimerSpec(ctypes.Structure):
    """``struct itimerspec``: the interval, then the first expiry, each as seconds and nanoseconds."""

    _fields_ = [("interval_s", ctypes.c_long), ("interval_ns", ctypes.c_long), ("s", ctypes.c_long), ("ns", ctypes.c_long)]


class _TimerFd:
    """A Linux timer as a file descriptor, armed for instants of CLOCK_MONOTONIC."""

    def __init__(self, loop: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = int(self._libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC))
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._loop = loop
        self._wake = wake
        loop.add_reader(self._fd, self._expired)

    def arm(self, at_s: float) -> None:
        # A first expiry of zero would disarm the timer; an instant in the past fires at once.
        nanoseconds = max(1, int(at_s * 1e9))
        spec = _TimerSpec(0, 0, nanoseconds // 10**9, nanoseconds % 10**9)
        self._libc.timerfd_settime(self._fd, _TFD_TIMER_ABSTIME, ctypes.byref(spec), None)

    def _expired(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return
        self._wake()

    def close(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)


class _LoopTimer:
    """The loop's own timer."""

    def __init__(self, loop: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> None:
        self._loop = loop
        self._wake = wake
        self._handle: asyncio.TimerHandle | None = None

    def arm(self, at_s: float) -> None:
        self.close()
        self._handle = self._loop.call_later(max(0.0, at_s - monotonic()), self._wake)

    def close(self) -> None:
        if self._handle is not None:
            self._handle.cancel()


def _timer(loop: asyncio.AbstractEventLoop, wake: Callable[[], None], precise: bool) -> _TimerFd | _LoopTimer:
    if precise and sys.platform == "linux":
        try:
            return _TimerFd(loop, wake)
        except (OSError, AttributeError):
            return _LoopTimer(loop, wake)
    return _LoopTimer(loop, wake)


class Agenda:
    """Tasks in order of their due instants; tasks due at the same instant run in the order they were added."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, precise: bool = True) -> None:
        """``precise`` False takes the loop's own timer also where there is a better one."""
        self._heap: list[tuple[float, int, Task]] = []
        self._numbers = count()
        self._timer = _timer(loop, self._run_due, precise)
        self._armed_s = float("inf")
        self.is_precise = isinstance(self._timer, _TimerFd)
        self._early_s = _EARLY_S if self.is_precise else 0.0

    def at(self, due_s: float, task: Task) -> None:
        """Run ``task`` at ``due_s``; at once (from the loop) when that has passed."""
        heapq.heappush(self._heap, (due_s, next(self._numbers), task))
        if due_s < self._armed_s:
            self._arm()

    def _arm(self) -> None:
        self._armed_s = self._heap[0][0]
        self._timer.arm(self._armed_s - self._early_s)

    def _run_due(self) -> None:
        # While tasks run nothing is armed by them: the earliest one left is armed once, at the end.
        self._armed_s = float("-inf")
        now_s = monotonic()
        while self._heap and self._heap[0][0] <= now_s + self._early_s:
            due_s, _, task = heapq.heappop(self._heap)
            while now_s < due_s:
                now_s = monotonic()
            task(due_s, now_s)
            now_s = monotonic()
        self._armed_s = float("inf")
        if self._heap:
            self._arm()

    def close(self) -> None:
        """Nothing runs after this."""
        self._heap.clear()
        self._timer.close()
