"""A one-shot alarm of microsecond resolution on an event loop, whose own timers are only good to a millisecond."""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import time
from collections.abc import Callable
from typing import Protocol


class Alarm(Protocol):
    """Calls back once, as close after a moment of ``time.monotonic`` as it can."""

    def set(self, at_s: float) -> None:
        """Replace whatever was set before."""

    def clear(self) -> None:
        """Do not call back."""

    def close(self) -> None:
        """Give the resources back."""


def make_alarm(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> Alarm:
    """A kernel timer on Linux, a loop that waits actively for the last millisecond elsewhere."""
    if sys.platform == "linux":
        return _KernelAlarm(loop, callback)
    return _PollingAlarm(loop, callback)


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", _TimeSpec), ("value", _TimeSpec))


class _KernelAlarm:
    """``timerfd``: the loop polls it like a socket, and the kernel's high-resolution timers drive it."""

    _ABSOLUTE = 1

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd: int = self._libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")
        self._loop = loop
        self._callback = callback
        self._spec = _TimerSpec()
        self._reference = ctypes.byref(self._spec)
        loop.add_reader(self._fd, self._fired)

    def _fired(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return  # It was set anew between the poll and this call.
        self._callback()

    def set(self, at_s: float) -> None:
        value = self._spec.value
        # All zeros would disarm it.
        value.seconds = int(at_s)
        value.nanoseconds = max(1, int((at_s - int(at_s)) * 1e9))
        self._libc.timerfd_settime(self._fd, self._ABSOLUTE, self._reference, None)

    def clear(self) -> None:
        self._spec.value.seconds = self._spec.value.nanoseconds = 0
        self._libc.timerfd_settime(self._fd, 0, self._reference, None)

    def close(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)


class _PollingAlarm:
    """Sleeps on the loop's timer until two milliseconds before the moment, then goes round the loop."""

    _MARGIN_S = 0.002

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._at_s = 0.0
        self._handle: asyncio.Handle | None = None

    def set(self, at_s: float) -> None:
        self.clear()
        self._at_s = at_s
        self._wait()

    def _wait(self) -> None:
        left_s = self._at_s - time.monotonic()
        if left_s <= 0:
            self._handle = None
            self._callback()
        elif left_s > self._MARGIN_S:
            self._handle = self._loop.call_later(left_s - self._MARGIN_S, self._wait)
        else:
            self._handle = self._loop.call_soon(self._wait)

    def clear(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def close(self) -> None:
        self.clear()
