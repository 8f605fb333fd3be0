"""The sessions a worker will ask next, their first requests already written."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from pytest_llmperf.load.plan import SessionPlan
from pytest_llmperf.load.prompts import RequestWriter


@dataclass(frozen=True, slots=True)
class Ready:
    """A session and the bytes of its first request."""

    session: SessionPlan
    request: bytes


class Upcoming:
    """A queue that is written ahead: up to ``limit_bytes`` and ``limit_count`` before the clock starts, one by one after."""

    def __init__(
        self, sessions: Iterator[SessionPlan], writer: RequestWriter, limit_bytes: int, limit_count: int | None = None
    ) -> None:
        self._sessions = sessions
        self._writer = writer
        self._limit_bytes = limit_bytes
        self._limit_count = limit_count
        self._ready: deque[Ready] = deque()
        self._bytes = 0
        self._exhausted = False

    def write_one(self) -> bool:
        """Write one more; False when the limit is reached or nothing is left."""
        full = self._bytes >= self._limit_bytes or (self._limit_count is not None and len(self._ready) >= self._limit_count)
        if self._exhausted or (full and self._ready):
            return False
        session = next(self._sessions, None)
        if session is None:
            self._exhausted = True
            return False
        ready = Ready(session, self._writer.request(session, 0))
        self._ready.append(ready)
        self._bytes += len(ready.request)
        return True

    def write_ahead(self) -> None:
        """Write up to the limit."""
        while self.write_one():
            pass

    def peek(self) -> Ready | None:
        """The next session, still in the queue; None when there are no more."""
        if not self._ready:
            self.write_one()
        return self._ready[0] if self._ready else None

    def pop(self) -> Ready | None:
        """The next session, taken from the queue; None when there are no more."""
        ready = self.peek()
        if ready is not None:
            self._ready.popleft()
            self._bytes -= len(ready.request)
        return ready
