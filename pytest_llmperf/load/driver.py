"""One worker's share of a plan, driven: sessions begin when due or when a user is ready; every request is followed to its end."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from dataclasses import dataclass
from functools import partial
from itertools import chain
from time import monotonic, time
from typing import Any

from pytest_llmperf.load.agenda import Agenda, Task
from pytest_llmperf.load.exchange import Exchange, Tape, WireEnd
from pytest_llmperf.load.health import HEARTBEAT_S, Beats, CpuMeter
from pytest_llmperf.load.inflow import new_inflow
from pytest_llmperf.load.messages import Progress
from pytest_llmperf.load.options import LoadOptions
from pytest_llmperf.load.patience import Patience, retry_after_s
from pytest_llmperf.load.plan import LoadPlan, SessionPlan
from pytest_llmperf.load.pool import Address, Pool
from pytest_llmperf.load.prompts import RequestWriter
from pytest_llmperf.load.upcoming import Upcoming
from pytest_llmperf.load.wall_clock import WallClock

_SWEEP_EVERY = 5
"""Heartbeats between looks for timeouts: they are accurate to 50 ms."""
_AHEAD_BYTES = 256 * 2**20
_KEPT_AT_ONCE = 32
"""Exchanges waiting for the tape for each that is written at a stretch: they hold memory, and must not become ever more."""
_AHEAD_PER_USER = 16


@dataclass(frozen=True)
class Share:
    """Which part of a plan a worker drives: every ``workers``-th session, every ``workers``-th user."""

    worker: int = 0
    workers: int = 1


@dataclass(frozen=True)
class Opening:
    """Where a window opens that does so ``window_start_s`` after ``start_s``, an instant of the monotonic clock.

    An instant has fewer digits left for fractions than a time since the start. So a time that is made an instant, and that a time
    again, may come out a little less, and what is due as the window opens would fall into the warm-up.
    """

    start_s: float
    window_start_s: float

    def is_before(self, due_s: float) -> bool:
        """Whether what is due then belongs to the warm-up; both instants are rounded in the same way."""
        return due_s < self.start_s + self.window_start_s

    def counted_s(self, due_s: float) -> float:
        """``due_s``, of what does not belong to the warm-up: so that its time since the start is in the window too."""
        opens_s = self.start_s + self.window_start_s
        return max(due_s, opens_s if opens_s - self.start_s >= self.window_start_s else math.nextafter(opens_s, math.inf))


class _Run:
    """A session under way: its turn, and the next turn's request once that is written."""

    __slots__ = ("next_request", "session", "turn", "user")

    def __init__(self, session: SessionPlan, user: int | None = None) -> None:
        self.session = session
        self.user = user
        self.turn = 0
        self.next_request: bytes | None = None


class Driver:
    """Drives one share from ``start_s`` (an instant of the monotonic clock) until every request has ended."""

    def __init__(
        self, plan: LoadPlan, share: Share, options: LoadOptions, writer: RequestWriter, address: Address, tape: Tape
    ) -> None:
        self._plan = plan
        self._share = share
        self._options = options
        self._writer = writer
        self._tape = tape
        self._users = len(range(share.worker, plan.users, share.workers))
        self._to_come: set[int] = set()
        per_user = None if plan.open_loop else _AHEAD_PER_USER * self._users
        warmup = plan.warmup_sessions(share.worker, share.workers)
        measured = plan.sessions(share.worker, share.workers)
        if plan.open_loop:
            # All warm-up arrivals precede all measured ones: one queue, in order.
            self._warmup = Upcoming(iter(()), writer, 0)
            self._measured = Upcoming(chain(warmup, measured), writer, _AHEAD_BYTES)
        else:
            self._warmup = Upcoming(warmup, writer, _AHEAD_BYTES, per_user)
            self._measured = Upcoming(measured, writer, _AHEAD_BYTES, per_user)
        self._loop = asyncio.get_running_loop()
        self._agenda = Agenda(self._loop)
        self._inflow = new_inflow(self._loop)
        self._pool = Pool(self._loop, self._inflow, address, self._ended)
        self._patience = Patience(options, plan.workload)
        self._runs: dict[Exchange, _Run] = {}
        self._to_write: deque[_Run] = deque()
        self._to_keep: deque[Exchange] = deque()
        self._writing = False
        self._start_s = self._deadline_s = 0.0
        self._opening = Opening(0.0, plan.window_start_s)
        self._end_s = float("inf")
        self._accepting = True
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._beat_count = 0
        self._counts = [0, 0, 0]
        self.exchanges: list[Exchange] = []
        self.beats = Beats()
        """How late the event loop was, from the window's start on."""
        self.clock = WallClock()
        """Where the wall clock, of which the kernel's timestamps are, has stood."""
        self.stamps = self._inflow.stamps and address.tls is None
        """Whether the kernel says when what is read had arrived."""
        self.cpu = CpuMeter()
        """Of the window: neither an idle warm-up nor a long drain makes a full core look free."""
        self.finished_s: float | None = None
        """From when on nothing was begun because ``finish`` was called (monotonic); None when it was not, or too late."""
        self.stopped_s: float | None = None
        """When the load was stopped before its end (monotonic); None when it was not."""

    @property
    def is_accepting(self) -> bool:
        """Whether requests are still begun."""
        return self._accepting

    @property
    def connect_failures(self) -> int:
        """Connections that could not be made."""
        return self._pool.connect_failures

    @property
    def resent(self) -> int:
        """Requests sent a second time, because the server had already closed the idle connection they were sent on."""
        return self._pool.resent

    @property
    def is_precise(self) -> bool:
        """Whether arrivals are timed more finely than a millisecond."""
        return self._agenda.is_precise

    def catch_up(self) -> None:
        """Read all that has arrived by now."""
        self._inflow.catch_up()
        self.clock.sample()

    def progress(self) -> Progress:
        """How far it is, now."""
        finished, failed, reads = self._counts
        return Progress(len(self._runs), finished, failed, reads + sum(len(exchange.reads) for exchange in self._runs))

    def prepare(self) -> None:
        """Write requests ahead, before the clock starts."""
        self._warmup.write_ahead()
        self._measured.write_ahead()

    async def drive(self, start_s: float) -> None:
        """Run the share; returns when its last request has ended or it was stopped. An error in any callback is raised."""
        self._loop.set_exception_handler(self._broke)
        self._start_s = start_s
        self._opening = Opening(start_s, self._plan.window_start_s)
        window_end_s = self._plan.window_end_s
        if window_end_s is not None:
            self._end_s = start_s + window_end_s
            self._agenda.at(self._end_s, self._window_ends)
        if self._plan.open_loop:
            self._plan_arrival()
        else:
            for user in range(self._share.worker, self._plan.users, self._share.workers):
                self._agenda.at(start_s, partial(self._user_ready, user))
        self._agenda.at(start_s + self._plan.window_start_s, self._window_begins)
        self._agenda.at(start_s, self._beat)
        await self._over
        self.cpu.end()
        self._agenda.close()
        self._pool.close()
        self._inflow.close()
        for exchange in self._to_keep:
            self._tape.keep(exchange)
        self.clock.sample()
        # Connections that were closed hear of it in the loop's next turn.
        await asyncio.sleep(0)

    def finish(self, at_s: float) -> None:
        """Let the window end at ``at_s`` (monotonic; now, when that has passed): what is in flight then is awaited as always."""
        if self._accepting and not self._over.done():
            self._end_s = self.finished_s = min(self._end_s, max(at_s, monotonic()))
            self._agenda.at(self._end_s, self._window_ends)

    def stop(self) -> None:
        """Begin nothing more, cancel what is in flight."""
        if not self._over.done():
            self.stopped_s = monotonic()
            self._accepting = False
            self._cancel_all()

    def _broke(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # A fault of this program must end the load at once and be seen, not leave it hanging or a request unrecorded.
        if not self._over.done():
            self._over.set_exception(context.get("exception") or RuntimeError(context["message"]))

    def _plan_arrival(self) -> None:
        ready = self._measured.peek()
        if ready is not None and ready.session.arrival_s is not None:
            self._agenda.at(self._start_s + ready.session.arrival_s, self._arrive)

    def _arrive(self, due_s: float, _now_s: float) -> None:
        ready = self._measured.pop()
        if ready is not None and self._accepting:
            self._begin(_Run(ready.session), due_s, ready.request)
            self._plan_arrival()

    def _user_ready(self, user: int, due_s: float, _now_s: float) -> None:
        if not self._accepting or due_s >= self._end_s:
            return
        joins_s = self._joins_s(user, due_s)
        if joins_s is not None and joins_s > due_s:
            self._to_come.add(user)
            self._agenda.at(joins_s, partial(self._user_joins, user))
            return
        ready = (self._warmup if self._opening.is_before(due_s) else self._measured).pop() if joins_s is not None else None
        if ready is not None:
            self._begin(_Run(ready.session, user), due_s, ready.request)
            return
        # Its time is over, or no session is left: this user goes home, and the last one ends the load.
        self._users -= 1
        if joins_s is not None:
            # For those who were still to come there is none left either.
            self._users -= len(self._to_come)
            self._to_come.clear()
        self._check_over()

    def _user_joins(self, user: int, due_s: float, now_s: float) -> None:
        if user in self._to_come:
            self._to_come.remove(user)
            self._user_ready(user, due_s, now_s)

    def _joins_s(self, user: int, at_s: float) -> float | None:
        """Since or from when (monotonic) the user is there, at ``at_s`` or next; None when it does not come any more."""
        attendance = self._plan.attendance
        span = attendance.next_span(user, at_s - self._start_s) if attendance is not None else None
        return None if span is None else self._start_s + span.from_s

    def _is_there(self, user: int, at_s: float) -> bool:
        joins_s = self._joins_s(user, at_s)
        return joins_s is not None and joins_s <= at_s

    def _begin(self, run: _Run, due_s: float, request: bytes) -> None:
        warmup = self._opening.is_before(due_s)
        scheduled_s = due_s if warmup else self._opening.counted_s(due_s)
        exchange = Exchange(run.session, run.turn, scheduled_s, request, warmup=warmup)
        self.exchanges.append(exchange)
        self._runs[exchange] = run
        run.next_request = None
        if run.turn + 1 < len(run.session.turns):
            self._to_write.append(run)
        self._pool.begin(exchange)
        self._write_soon()

    def _write_soon(self) -> None:
        if not self._writing:
            self._writing = True
            self._loop.call_soon(self._write_ahead)

    def _write_ahead(self) -> None:
        """Write one request between other things, so that none has to be written at the moment it is due.

        Before that what has ended goes to the tape: when many end at once their successors do not wait for it.
        """
        if self._to_keep:
            for _ in range(1 + len(self._to_keep) // _KEPT_AT_ONCE):
                self._tape.keep(self._to_keep.popleft())
            more = True
        elif self._to_write:
            run = self._to_write.popleft()
            if run.next_request is None and run.turn + 1 < len(run.session.turns):
                run.next_request = self._writer.request(run.session, run.turn + 1)
            more = True
        else:
            more = self._accepting and (self._warmup.write_one() or self._measured.write_one())
        self._writing = more
        if more:
            self._loop.call_soon(self._write_ahead)

    def _ended(self, exchange: Exchange) -> None:
        run = self._runs.pop(exchange)
        # First what comes next, then the book-keeping: a user's next request does not wait for it.
        if self._accepting:
            self._go_on(run, exchange)
        exchange.request = b""
        self._counts[0] += 1
        self._counts[1] += exchange.failed
        self._counts[2] += len(exchange.reads)
        self._to_keep.append(exchange)
        self._write_soon()
        self._check_over()

    def _go_on(self, run: _Run, exchange: Exchange) -> None:
        ended_s = self.clock.arrival_s(exchange.end_s, exchange.end_stamp, exchange.sent_s)
        if not exchange.failed and run.turn + 1 < len(run.session.turns):
            request = run.next_request or self._writer.request(run.session, run.turn + 1)
            run.turn += 1
            run.next_request = None
            pause_s = run.session.turns[run.turn].pause_s

            def next_turn(due_s: float, now_s: float) -> None:
                if run.user is not None and not self._is_there(run.user, due_s):
                    # Who has left begins nothing more, the rest of a session included.
                    self._user_ready(run.user, due_s, now_s)
                elif self._accepting and due_s < self._end_s:
                    self._begin(run, due_s, request)

            self._at(ended_s + pause_s, next_turn)
        elif run.user is not None:
            think_s = run.session.think_s
            # A server that is gone is not hammered by users who never wait.
            pause_s = max(think_s, self._options.failure_pause_s, retry_after_s(exchange, time())) if exchange.failed else think_s
            self._at(ended_s + pause_s, partial(self._user_ready, run.user))

    def _at(self, due_s: float, task: Task) -> None:
        now_s = monotonic()
        if due_s <= now_s:
            task(due_s, now_s)
        else:
            self._agenda.at(due_s, task)

    def _window_begins(self, _due_s: float, _now_s: float) -> None:
        if self._accepting:
            self.cpu.begin()

    def _window_ends(self, due_s: float, _now_s: float) -> None:
        if not self._accepting:
            return
        self._accepting = False
        self.cpu.end()
        drain_s = self._options.drain_timeout_s
        self._deadline_s = due_s + (float("inf") if drain_s is None else drain_s)
        self._check_over()

    def _beat(self, due_s: float, now_s: float) -> None:
        if now_s - self._start_s >= self._plan.window_start_s:
            self.beats.note(due_s - self._start_s, now_s - self._start_s, in_window=self._accepting)
        self._beat_count += 1
        self.clock.sample()
        if self._beat_count % _SWEEP_EVERY == 0:
            self._sweep(now_s)
        # From now, not from due: a loop that was held up is not asked for all the beats it missed.
        self._agenda.at(now_s + HEARTBEAT_S, self._beat)

    def _sweep(self, now_s: float) -> None:
        """End what has timed out, and everything once the drain is over."""
        if not self._accepting and now_s >= self._deadline_s > 0:
            self._cancel_all()
            return
        for exchange in list(self._runs):
            over = self._patience.is_over(exchange, now_s, opening=self._pool.is_opening(exchange))
            if over is not None:
                self._pool.end(exchange, *over)

    def _cancel_all(self) -> None:
        for exchange in list(self._runs):
            self._pool.end(exchange, WireEnd.CANCELLED, "cancelled")
        self._check_over()

    def _check_over(self) -> None:
        exhausted = not self._plan.open_loop and self._users == 0
        if not self._runs and (not self._accepting or exhausted) and not self._over.done():
            self._over.set_result(None)
