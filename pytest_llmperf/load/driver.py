"""One worker's share of a plan, driven: sessions begin when due or when a user is ready; every request is followed to its end."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from itertools import chain
from time import monotonic
from typing import Any

from pytest_llmperf.load.agenda import Agenda, Task
from pytest_llmperf.load.exchange import Exchange, Tape, WireEnd
from pytest_llmperf.load.health import HEARTBEAT_S, CpuMeter
from pytest_llmperf.load.messages import Progress
from pytest_llmperf.load.options import LoadOptions
from pytest_llmperf.load.plan import LoadPlan, SessionPlan
from pytest_llmperf.load.pool import Address, Pool
from pytest_llmperf.load.prompts import RequestWriter
from pytest_llmperf.load.upcoming import Upcoming

_SWEEP_EVERY = 5
"""Heartbeats between looks for timeouts: they are accurate to 50 ms."""
_AHEAD_BYTES = 256 * 2**20
_AHEAD_PER_USER = 16


@dataclass(frozen=True)
class Share:
    """Which part of a plan a worker drives: every ``workers``-th session, every ``workers``-th user."""

    worker: int = 0
    workers: int = 1


class _Run:
    """A session under way: its turn, and the next turn's request once that is written."""

    __slots__ = ("next_request", "session", "turn")

    def __init__(self, session: SessionPlan) -> None:
        self.session = session
        self.turn = 0
        self.next_request: bytes | None = None


class Driver:
    """Drives one share from ``start_s`` (an instant of the monotonic clock) until every request has ended."""

    def __init__(
        self, plan: LoadPlan, share: Share, options: LoadOptions, writer: RequestWriter, address: Address, tape: Tape
    ) -> None:
        self._plan = plan
        self._options = options
        self._writer = writer
        self._tape = tape
        self._users = len(range(share.worker, plan.users, share.workers))
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
        self._pool = Pool(self._loop, address, self._ended)
        self._runs: dict[Exchange, _Run] = {}
        self._to_write: deque[_Run] = deque()
        self._writing = False
        self._start_s = self._deadline_s = 0.0
        self._end_s = float("inf")
        self._accepting = True
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._beats = 0
        self._counts = [0, 0, 0]
        self.exchanges: list[Exchange] = []
        self.loop_lags_s: list[float] = []
        """Of each heartbeat from the window's start to its end."""
        self.drain_lags_s: list[float] = []
        """Of each one after that."""
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
        window_end_s = self._plan.window_end_s
        if window_end_s is not None:
            self._end_s = start_s + window_end_s
            self._agenda.at(self._end_s, self._window_ends)
        if self._plan.open_loop:
            self._plan_arrival()
        else:
            for _ in range(self._users):
                self._agenda.at(start_s, self._user_ready)
        self._agenda.at(start_s + self._plan.window_start_s, self._window_begins)
        self._agenda.at(start_s, self._beat)
        await self._over
        self.cpu.end()
        self._agenda.close()
        self._pool.close()
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

    def _user_ready(self, due_s: float, _now_s: float) -> None:
        if not self._accepting or due_s >= self._end_s:
            return
        in_warmup = due_s - self._start_s < self._plan.window_start_s
        ready = (self._warmup if in_warmup else self._measured).pop()
        if ready is not None:
            self._begin(_Run(ready.session), due_s, ready.request)
            return
        # No session is left: this user goes home, and the last one ends the load.
        self._users -= 1
        self._check_over()

    def _begin(self, run: _Run, due_s: float, request: bytes) -> None:
        exchange = Exchange(run.session, run.turn, due_s, request, warmup=due_s - self._start_s < self._plan.window_start_s)
        self.exchanges.append(exchange)
        self._runs[exchange] = run
        run.next_request = None
        if run.turn + 1 < len(run.session.turns):
            self._to_write.append(run)
        self._pool.begin(exchange)
        if not self._writing:
            self._writing = True
            self._loop.call_soon(self._write_ahead)

    def _write_ahead(self) -> None:
        """Write one request between other things, so that none has to be written at the moment it is due."""
        if self._to_write:
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
        self._tape.keep(exchange)
        self._check_over()

    def _go_on(self, run: _Run, exchange: Exchange) -> None:
        if not exchange.failed and run.turn + 1 < len(run.session.turns):
            request = run.next_request or self._writer.request(run.session, run.turn + 1)
            run.turn += 1
            run.next_request = None
            pause_s = run.session.turns[run.turn].pause_s

            def next_turn(due_s: float, _now_s: float) -> None:
                if self._accepting and due_s < self._end_s:
                    self._begin(run, due_s, request)

            self._at(exchange.end_s + pause_s, next_turn)
        elif not self._plan.open_loop:
            think_s = self._plan.think_time_s
            # A server that is gone is not hammered by users who never wait.
            pause_s = max(think_s, self._options.failure_pause_s) if exchange.failed else think_s
            self._at(exchange.end_s + pause_s, self._user_ready)

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
            (self.loop_lags_s if self._accepting else self.drain_lags_s).append(now_s - due_s)
        self._beats += 1
        if self._beats % _SWEEP_EVERY == 0:
            self._sweep(now_s)
        # From now, not from due: a loop that was held up is not asked for all the beats it missed.
        self._agenda.at(now_s + HEARTBEAT_S, self._beat)

    def _sweep(self, now_s: float) -> None:
        """End what has timed out, and everything once the drain is over."""
        if not self._accepting and now_s >= self._deadline_s > 0:
            self._cancel_all()
            return
        options, total_s = self._options, self._plan.workload.timeout
        for exchange in list(self._runs):
            if self._pool.is_opening(exchange) and now_s - exchange.begun_s >= options.connect_timeout_s:
                self._pool.end(exchange, WireEnd.CONNECT_FAILED, "connect timeout")
            elif now_s - exchange.begun_s >= total_s:
                self._pool.end(exchange, WireEnd.TIMEOUT, "timeout total")
            elif options.idle_timeout_s is not None and exchange.reads and now_s - exchange.read_s[-1] >= options.idle_timeout_s:
                self._pool.end(exchange, WireEnd.TIMEOUT, "timeout idle")

    def _cancel_all(self) -> None:
        for exchange in list(self._runs):
            self._pool.end(exchange, WireEnd.CANCELLED, "cancelled")
        self._check_over()

    def _check_over(self) -> None:
        exhausted = not self._plan.open_loop and self._users == 0
        if not self._runs and (not self._accepting or exhausted) and not self._over.done():
            self._over.set_result(None)
