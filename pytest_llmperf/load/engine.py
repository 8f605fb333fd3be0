"""The engine: starts the workers, gives them one clock, gathers what they measured. Nothing it starts outlives it."""

from __future__ import annotations

import math
import os
import secrets
import selectors
import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from pytest_llmperf.deploy.base import Endpoint
from pytest_llmperf.errors import LoadError
from pytest_llmperf.load.achieved import achieved
from pytest_llmperf.load.cores import available_cores
from pytest_llmperf.load.crew_size import crew_size
from pytest_llmperf.load.ctrl_c import CtrlC
from pytest_llmperf.load.log import lost_log, merged_log
from pytest_llmperf.load.messages import Done, Failed, Finish, Go, Job, Message, Progress, Ready, Seen, Stop
from pytest_llmperf.load.notes import counting_notes
from pytest_llmperf.load.options import LoadOptions, LoadProgress
from pytest_llmperf.load.plan import LoadPlan
from pytest_llmperf.load.pool import CLIENT_FAULTS
from pytest_llmperf.load.records import ClientHealth, LoadResult, Outcome, RequestLog
from pytest_llmperf.load.sightings import sighting_of
from pytest_llmperf.load.watch import Watch
from pytest_llmperf.load.worker_process import SpareWorkers, WorkerProcess

__all__ = ["LoadOptions", "LoadProgress", "run_load"]

_HEAD_START_S = 0.05
"""Between the word to start and the start: longer than a message takes to every worker."""
_TICK_S = 0.5

DEFAULT_OPTIONS = LoadOptions()

OnProgress = Callable[[LoadProgress], None]


def run_load(
    plan: LoadPlan,
    endpoint: Endpoint,
    options: LoadOptions = DEFAULT_OPTIONS,
    on_progress: OnProgress | None = None,
    watch: Watch | None = None,
    spare: SpareWorkers | None = None,
) -> LoadResult:
    """Drive a plan against an endpoint and return everything measured. Blocks until the last request has ended.

    ``on_progress`` is called about twice a second. ``watch`` is called every ``options.look_every_s`` until the planned end with
    everything seen so far. When it returns True the window ends there: nothing more is begun, what is in flight is finished and
    counted, and ``stopped_s`` of the result says when that was; it is not called again. What it raises ends the load at once
    and is raised here. ``spare`` are workers that were started before, for a load that is not to wait for its own.

    Ctrl-C ends the load, not the measurement: requests in flight are recorded
    as cancelled and the result says ``interrupted``; the caller decides whether to raise ``KeyboardInterrupt`` again. A second
    Ctrl-C raises it at once. A worker that dies interrupts the load as well; its own records are lost, and the arrivals it was
    due to make (open loop) are recorded as cancelled with the error ``worker lost``.

    Raises ``LoadError`` when the options cannot be, no worker could start or none is left.
    """
    with _Crew(plan, endpoint, options, watch, spare or SpareWorkers()) as crew:
        crew.start()
        crew.gather(on_progress)
        return crew.result()


class _Crew:
    """The workers of one load."""

    def __init__(
        self, plan: LoadPlan, endpoint: Endpoint, options: LoadOptions, watch: Watch | None, spare: SpareWorkers
    ) -> None:
        if options.workers is not None and options.workers < 1:
            raise LoadError(f"{options.workers} workers cannot drive a load: it takes 1 or more")
        if not options.look_every_s > 0:
            raise LoadError(f"a load cannot be looked at every {options.look_every_s:g} seconds: it takes more than 0")
        self._plan = plan
        self._endpoint = endpoint
        self._options = options
        self._watch = watch
        self._spare = spare
        self._watched_s = float("-inf")
        self._finish_s: float | None = None
        self._notes: list[str] = []
        self._workers: list[WorkerProcess] = []
        self._selector = selectors.DefaultSelector()
        self._start_s = self._started_at = 0.0
        self._interrupted_s: float | None = None
        self._content_seed = secrets.randbits(64) if options.content_seed is None else options.content_seed

    def __enter__(self) -> _Crew:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.end()
        self._selector.close()

    def start(self) -> None:
        """Start every worker, wait until all are ready, and give them the instant at which to begin."""
        options = self._options
        crew = crew_size(self._plan, options.workers, options.cores if options.cores is not None else available_cores())
        self._notes += [crew.note] if crew.note else []
        for index in range(crew.workers):
            worker = self._spare.take(index)
            self._workers.append(worker)
            self._selector.register(worker.inbox.fd, selectors.EVENT_READ, worker)
            watched = self._watch is not None
            worker.tell(Job(self._plan, self._endpoint, options, self._content_seed, index, crew.workers, watched))
        while not all(worker.is_ready for worker in self._workers):
            for worker, message in self._receive(None):
                if message is None:
                    raise LoadError(f"{worker.fate()} before the load began")
        self._start_s = time.monotonic() + _HEAD_START_S
        self._started_at = time.time() + (self._start_s - time.monotonic())
        for worker in self._workers:
            worker.tell(Go(self._start_s))

    def gather(self, on_progress: OnProgress | None) -> None:
        """Listen until every worker has reported or died; Ctrl-C makes them report early."""
        told_s = time.monotonic()
        with CtrlC() as ctrl_c:
            self._selector.register(ctrl_c.fd, selectors.EVENT_READ)
            while not all(worker.inbox.at_end for worker in self._workers):
                for worker, message in self._receive(_TICK_S):
                    if message is None and worker.done is None:
                        self._notes.append(worker.fate())
                        self._interrupt()
                if ctrl_c.is_pressed:
                    self._interrupt()
                    continue
                self._look()
                if on_progress is not None and time.monotonic() - told_s >= _TICK_S:
                    told_s = time.monotonic()
                    on_progress(self._progress())
            self._selector.unregister(ctrl_c.fd)

    def _interrupt(self) -> None:
        if self._interrupted_s is None:
            self._interrupted_s = time.monotonic()
            for worker in self._workers:
                worker.tell(Stop())

    def _look(self) -> None:
        """Let whoever watches see what is new to all workers, and end the load when that is enough."""
        if self._watch is None or self._finish_s is not None or self._interrupted_s is not None:
            return
        now_s = min(worker.view.now_s for worker in self._workers)
        if not self._watched_s < now_s < self._planned_end_s:
            return
        self._watched_s = now_s
        if self._watch(sighting_of([worker.view for worker in self._workers], now_s)):
            self._finish_s = time.monotonic() + _HEAD_START_S
            for worker in self._workers:
                worker.tell(Finish(self._finish_s))

    @property
    def _planned_end_s(self) -> float:
        return math.inf if self._plan.window_end_s is None else self._plan.window_end_s

    def _receive(self, timeout_s: float | None) -> list[tuple[WorkerProcess, Message | None]]:
        """What has come from the workers; None for one whose output has ended. Raises ``LoadError`` for one that gave up."""
        received: list[tuple[WorkerProcess, Message | None]] = []
        for key, _ in self._selector.select(timeout_s):
            if key.data is None:
                os.read(key.fd, 1)
                continue
            worker: WorkerProcess = key.data
            for message in worker.inbox.receive():
                match message:
                    case Ready():
                        worker.is_ready = True
                    case Progress():
                        worker.progress = message
                    case Seen():
                        worker.view.take(message)
                    case Done():
                        worker.done = message
                        if self._watch is not None:
                            worker.view.complete(message.log)
                    case Failed(what):
                        raise LoadError(what)
                    case _:
                        raise LoadError(f"load worker {worker.index} said {type(message).__name__} out of turn")
                received.append((worker, message))
            if worker.inbox.at_end:
                self._selector.unregister(worker.inbox.fd)
                received.append((worker, None))
        return received

    def _progress(self) -> LoadProgress:
        elapsed_s = max(0.0, time.monotonic() - self._start_s)
        seen = [worker.progress for worker in self._workers]
        return LoadProgress(
            elapsed_s=elapsed_s,
            duration_s=self._plan.window_end_s if self._finish_s is None else self._finish_s - self._start_s,
            warming_up=elapsed_s < self._plan.window_start_s,
            in_flight=sum(p.in_flight for p in seen),
            finished=sum(p.finished for p in seen),
            failed=sum(p.failed for p in seen),
            output_tokens=sum(p.reads for p in seen),
        )

    def result(self) -> LoadResult:
        """Everything measured, merged."""
        reports = [worker.done for worker in self._workers if worker.done is not None]
        if not reports:
            raise LoadError("no load worker is left: " + "; ".join(self._notes), hint="Nothing that was measured is left.")
        finished_s = self._last_s(done.finished_s for done in reports)
        interrupted_s = self._last_s(done.stopped_s for done in reports)
        ended_s = min((instant_s for instant_s in (finished_s, interrupted_s) if instant_s is not None), default=None)
        was_enough = finished_s is not None and finished_s == ended_s and finished_s < self._planned_end_s
        lost = [
            _lost(self._plan, worker.index, len(self._workers), ended_s)
            for worker in self._workers
            if worker.done is None and self._plan.open_loop
        ]
        log = merged_log([*(done.log for done in reports), *lost])
        window_end_s = _window_end_s(self._plan, log, ended_s)
        return LoadResult(
            log,
            self._health(reports, log, window_end_s),
            self._started_at,
            self._plan.window_start_s,
            window_end_s=window_end_s,
            interrupted=self._interrupted_s is not None,
            planned_end_s=self._plan.window_end_s,
            stopped_s=finished_s if was_enough else None,
        )

    def _health(self, reports: Sequence[Done], log: RequestLog, window_end_s: float) -> ClientHealth:
        """What the workers say of themselves, and what the log says of them."""
        workers = tuple(done.health for done in reports)
        counting = counting_notes(self._plan.workload, self._endpoint, log)
        told = dict.fromkeys([*(note for done in reports for note in done.notes), *counting])
        if self._finish_s is None and self._interrupted_s is None:
            told |= dict.fromkeys(_shortfall(self._plan, log))
        return ClientHealth(
            workers=workers,
            planned_requests=len(log),
            sent_requests=int(np.count_nonzero(~np.isnan(log.sent_s))),
            notes=(*self._notes, *told),
            unreachable_requests=sum(
                outcome == Outcome.CONNECT_FAILED and error not in CLIENT_FAULTS
                for outcome, error in zip(log.outcome, log.error, strict=True)
            ),
            lost_workers=len(self._workers) - len(reports),
            started_workers=len(self._workers),
            achieved=achieved(self._plan, log, workers, self._plan.window_start_s, window_end_s),
        )

    def _last_s(self, instants_s: Iterable[float | None]) -> float | None:
        """The last of the workers' instants, in seconds since the run's start; None where no worker has one."""
        return max((instant_s - self._start_s for instant_s in instants_s if instant_s is not None), default=None)


def _lost(plan: LoadPlan, worker: int, workers: int, ended_s: float | None) -> RequestLog:
    """The rows of a worker that died: what it was due to make until the load ended."""
    until_s = ended_s if ended_s is not None else plan.window_end_s or 0.0
    due = [
        session
        for sessions in (plan.warmup_sessions(worker, workers), plan.sessions(worker, workers))
        for session in sessions
        if session.arrival_s is not None and session.arrival_s <= until_s
    ]
    return lost_log(due, worker=worker, ended_s=until_s)


def _shortfall(plan: LoadPlan, log: RequestLog) -> tuple[str, ...]:
    """What to note of a closed loop that was over before it had made the requests (or sessions) that were asked for."""
    made = len(np.unique(log.session[~log.warmup]))
    if plan.open_loop or plan.max_sessions is None or made >= plan.max_sessions:
        return ()
    what = "requests" if plan.workload.turns is None else "sessions"
    return (f"{made:,} of {plan.max_sessions:,} {what} were made: the load was over before",)


def _window_end_s(plan: LoadPlan, log: RequestLog, stopped_s: float | None) -> float:
    """Where counting ends: as planned; where the load was stopped; where a bounded closed loop had its last answer."""
    end_s = plan.window_end_s
    if stopped_s is not None:
        end_s = stopped_s if end_s is None else min(stopped_s, end_s)
    elif not plan.open_loop and plan.max_sessions is not None and len(log):
        last_s = float(np.max(log.end_s))
        end_s = last_s if end_s is None else min(last_s, end_s)
    return max(plan.window_start_s, end_s if end_s is not None else plan.window_start_s)
