"""Runs the engine against the wall clock: a step's bytes are formatted while it lasts and sent the moment it ends."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from pytest_llmperf.sim.alarm import make_alarm
from pytest_llmperf.sim.engine import Engine
from pytest_llmperf.sim.lateness import Lateness
from pytest_llmperf.sim.request import Request, Step
from pytest_llmperf.sim.stream import Stream

MAX_STEPS_AT_ONCE = 8
"""After a pause of the process, steps that are already over are sent at once, but the loop gets its turn in between."""


@dataclass(slots=True)
class _Pending:
    ready_s: float
    admit: Callable[[], Request]
    stream: Stream


class Driver:
    """Owns the engine's clock. The next step starts when the last one ended, not when its bytes had been sent."""

    def __init__(self, engine: Engine, on_step: Callable[[Step], None]) -> None:
        self.engine = engine
        self.lateness = Lateness()
        self._on_step = on_step
        self._alarm = make_alarm(asyncio.get_running_loop(), self._wake)
        self._intake: deque[_Pending] = deque()
        self._step: Step | None = None
        self._sends: list[tuple[Callable[[bytes], None], bytes]] = []
        self._stall_every_s = self._stall_s = 0.0
        self._next_stall_s = float("inf")
        self._stalled_until_s = 0.0

    def submit(self, ready_s: float, admit: Callable[[], Request], stream: Stream) -> None:
        """Queue a request that reaches the engine at ``ready_s``; ``admit`` adds it to the engine then."""
        self._intake.append(_Pending(ready_s, admit, stream))
        if self._step is None and len(self._intake) == 1:
            self._alarm.set(ready_s)

    def withdraw(self, stream: Stream) -> None:
        """The stream's client went away: forget it wherever it is."""
        if stream.request is not None:
            self.engine.abort(stream.request)
        else:
            self._intake = deque(item for item in self._intake if item.stream is not stream)

    def stall(self, seconds: float) -> None:
        """Make no step for a while, from the end of the one that is running."""
        self._stalled_until_s = time.monotonic() + seconds

    def stall_every(self, every_s: float, seconds: float) -> None:
        """Stall again and again; ``every_s`` 0 ends it."""
        self._stall_every_s, self._stall_s = every_s, seconds
        self._next_stall_s = time.monotonic() + every_s if every_s else float("inf")

    def close(self) -> None:
        """Stop for good."""
        self._alarm.close()

    def _wake(self) -> None:
        for _ in range(MAX_STEPS_AT_ONCE):
            step = self._step
            now_s = time.monotonic()
            if step is None:
                start_s = now_s
            elif step.end_s > now_s:
                self._alarm.set(step.end_s)
                return
            else:
                self._send(step)
                start_s = step.end_s
            if not self._begin(start_s):
                return
        self._alarm.set(time.monotonic())

    def _begin(self, start_s: float) -> bool:
        """Compute the next step and format its bytes; False where the engine has nothing to do."""
        start_s = self._after_stall(start_s)
        while self._intake and self._intake[0].ready_s <= start_s:
            item = self._intake.popleft()
            item.stream.request = item.admit()
        self._step = step = self.engine.step(start_s)
        if step is None:
            if self._intake:
                self._alarm.set(self._intake[0].ready_s)
            return False
        self._sends = _format(step)
        self._alarm.set(step.end_s)
        return True

    def _after_stall(self, start_s: float) -> float:
        if start_s >= self._next_stall_s:
            self._stalled_until_s = start_s + self._stall_s
            self._next_stall_s = start_s + self._stall_s + self._stall_every_s
        return max(start_s, self._stalled_until_s)

    def _send(self, step: Step) -> None:
        sent_s: list[float] = []
        clock, note = time.monotonic, sent_s.append
        for write, data in self._sends:
            write(data)
            note(clock())
        self.lateness.record(sent_s, step.end_s)
        self._sends = []
        self._step = None
        for request in step.finished:
            if isinstance(request.payload, Stream):
                request.payload.finish()
        self._on_step(step)


def _format(step: Step) -> list[tuple[Callable[[bytes], None], bytes]]:
    """What to write to whom when the step ends; answers that do not stream only count.

    Writing takes some microseconds a connection. First tokens go first: a client's TTFT gets nothing of that, and between
    two tokens of a stream it cancels out, as its place in the order is about the same in each step.
    """
    sends: list[tuple[Callable[[bytes], None], bytes]] = []
    for requests in (step.first_tokens, step.decoded):
        for request in requests:
            stream = request.payload
            if isinstance(stream, Stream):
                data = stream.advance()
                if data:
                    sends.append((stream.send, data))
    return sends
