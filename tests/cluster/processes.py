"""Processes by id and start time: an id alone may by now be somebody else's."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
_STATE, _PARENT, _START = 0, 1, 19
"""Fields of ``/proc/PID/stat``, counted from the one after the program's name."""


@dataclass(frozen=True)
class Process:
    """One process of this machine; never its successor under the same id."""

    pid: int
    start_ticks: int

    @property
    def lives(self) -> bool:
        """Whether it still runs. One that has ended and was not waited for does not."""
        fields = _stat(self.pid)
        return fields is not None and int(fields[_START]) == self.start_ticks and fields[_STATE] not in "ZX"

    def ends(self, timeout_s: float) -> bool:
        """Whether it ends in that time with all of its threads: they keep its files and ports when the first of them is gone."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return True
        try:
            fields = _stat(self.pid)
            is_other = fields is None or int(fields[_START]) != self.start_ticks
            return is_other or bool(select.select([descriptor], [], [], max(timeout_s, 0.0))[0])
        finally:
            os.close(descriptor)

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it lives."""
        with suppress(ProcessLookupError):
            descriptor = os.pidfd_open(self.pid)
            try:
                if self.lives:  # looked at after it was opened: from here on the id cannot come to mean another
                    signal.pidfd_send_signal(descriptor, number)
            finally:
                os.close(descriptor)


def process(pid: int) -> Process:
    """The process that has this id now. Raises ``ProcessLookupError`` where there is none."""
    fields = _stat(pid)
    if fields is None:
        raise ProcessLookupError(pid)
    return Process(pid, int(fields[_START]))


def children(pid: int) -> Iterator[Process]:
    """The processes whose parent is ``pid``."""
    for entry in PROC.iterdir():
        if entry.name.isdecimal():
            fields = _stat(int(entry.name))
            if fields is not None and int(fields[_PARENT]) == pid:
                yield Process(int(entry.name), int(fields[_START]))


def _stat(pid: int) -> list[str] | None:
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()  # a program's name may hold blanks and brackets
