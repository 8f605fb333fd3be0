"""One load process: ``python -m pytest_llmperf.load.worker``, spoken to over its standard input and output.

It ends with its parent, however that ends: the end of its input means that the parent is gone.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import sys
from collections.abc import Generator
from time import monotonic

from pytest_llmperf.deploy.headers import credentials
from pytest_llmperf.errors import LlmperfError, LoadError
from pytest_llmperf.load.dial import raise_fault
from pytest_llmperf.load.driver import Driver, Share
from pytest_llmperf.load.exchange import Tape
from pytest_llmperf.load.health import worker_health
from pytest_llmperf.load.log import log_of
from pytest_llmperf.load.lookout import Lookout
from pytest_llmperf.load.messages import Done, Failed, Finish, Go, Inbox, Job, Outbox, Ready, Seen, Stop, send
from pytest_llmperf.load.pool import resolve
from pytest_llmperf.load.prompts import request_writer

_PROGRESS_S = 0.5
_SLICE_S = 0.0005
_PARENT_GONE = 1


def main() -> int:
    """Serve one job. The exit status is 0 when the job was reported on, 1 when the parent went away."""
    # A terminal's Ctrl-C reaches every process of its group; whether to stop is the parent's to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Whatever a library prints must not end up between two messages.
    out = os.dup(1)
    os.dup2(2, 1)
    inbox = Inbox(0)
    job = inbox.wait()
    if not isinstance(job, Job):
        return _PARENT_GONE
    try:
        return _serve(job, inbox, out)
    except BrokenPipeError:
        return _PARENT_GONE
    except LlmperfError as error:
        send(out, Failed(str(error)))
        return 0


def _serve(job: Job, inbox: Inbox, out: int) -> int:
    _raise_open_files()
    loop, notes = _event_loop()
    tape = Tape()
    try:
        done = loop.run_until_complete(_drive(job, inbox, out, tape, notes))
    finally:
        loop.close()
        tape.close()
    if done is None:
        return _PARENT_GONE
    send(out, done)
    return 0


async def _drive(job: Job, inbox: Inbox, out: int, tape: Tape, notes: tuple[str, ...]) -> Done | None:
    plan = job.plan
    writer = request_writer(plan.workload, job.endpoint, job.content_seed, plan.seed)
    driver = Driver(plan, Share(job.worker, job.workers), job.options, writer, resolve(job.endpoint), tape)
    driver.prepare()
    send(out, Ready())
    go = inbox.wait()
    if not isinstance(go, Go):
        return None
    # From here on nothing may stop the process for longer than a read takes: what exists now is never collected.
    gc.collect()
    gc.freeze()
    gc.disable()
    loop = asyncio.get_running_loop()
    loop.add_reader(inbox.fd, _listen, inbox, driver)
    outbox = Outbox(loop, out)
    telling = [loop.create_task(_tell(driver, outbox))]
    if job.watched:
        lookout = Lookout(driver.exchanges, tape.read, driver.clock, start_s=go.start_s, workload=plan.workload)
        telling.append(loop.create_task(_tell_sights(driver, lookout, outbox, go.start_s, job.options.look_every_s)))
    for task in telling:
        task.add_done_callback(raise_fault)
    await driver.drive(go.start_s)
    for task in telling:
        task.cancel()
    loop.remove_reader(inbox.fd)
    outbox.close()
    if not driver.is_precise:
        notes = (*notes, "arrivals are timed to a millisecond: this platform has no timerfd")
    if not driver.stamps:
        notes = (*notes, "answers are timed when the client read them: the kernel's receive timestamps are not to be had here")
    if driver.resent:
        what = "times a request was sent again: the server had closed its idle connection without saying so"
        notes = (*notes, f"worker {job.worker}: {driver.resent} {what}")
    if tape.note:
        notes = (*notes, tape.note)
    log = log_of(
        driver.exchanges,
        tape.read,
        driver.clock,
        start_s=go.start_s,
        worker=job.worker,
        workload=plan.workload,
        secrets=credentials(job.endpoint.api_key, job.endpoint.headers),
    )
    health = worker_health(job.worker, driver.exchanges, log, driver.beats, driver.cpu.share, driver.connect_failures)
    return Done(log, health, driver.finished_s, driver.stopped_s, notes)


def _listen(inbox: Inbox, driver: Driver) -> None:
    for message in inbox.receive():
        match message:
            case Finish(at_s):
                driver.finish(at_s)
            case Stop():
                driver.stop()
            case _:
                raise LoadError(f"a load worker was told {type(message).__name__} out of turn")
    if inbox.at_end:
        # Nobody is left to report to; the load must not go on.
        os._exit(_PARENT_GONE)


async def _tell(driver: Driver, outbox: Outbox) -> None:
    while True:
        await asyncio.sleep(_PROGRESS_S)
        outbox.send(driver.progress())


async def _tell_sights(driver: Driver, lookout: Lookout, outbox: Outbox, start_s: float, every_s: float) -> None:
    """Look at the same instants as every other worker, for as long as it matters: while requests are still begun."""
    number = 0
    while driver.is_accepting:
        # A look that took longer than the time between two does not make for a queue of them.
        number = max(number + 1, int((monotonic() - start_s) / every_s))
        due_s = start_s + number * every_s
        # A loop's timer may be early by a millisecond, and a look must not be before its time.
        while (left_s := due_s - monotonic()) > 0:
            await asyncio.sleep(left_s)
        # By the kernel's clock what has arrived has happened, read or not.
        driver.catch_up()
        outbox.send(await _in_slices(lookout.look(due_s)))


async def _in_slices(steps: Generator[None, None, Seen]) -> Seen:
    """Run steps to their end, but never for long at a stretch: what is read meanwhile must not wait."""
    began_s = monotonic()
    while True:
        try:
            next(steps)
        except StopIteration as over:
            seen: Seen = over.value
            return seen
        if monotonic() - began_s > _SLICE_S:
            await asyncio.sleep(0)
            began_s = monotonic()


def _event_loop() -> tuple[asyncio.AbstractEventLoop, tuple[str, ...]]:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop(), ("uvloop is not available: asyncio's own loop was used",)
    return uvloop.new_event_loop(), ()


def _raise_open_files() -> None:
    """An open loop opens as many connections as it needs; the usual limit of 1,024 is for interactive programs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2**20 if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (ValueError, OSError):
            # macOS refuses what its kernel cannot give; connections past the old limit fail and say so.
            return


if __name__ == "__main__":
    sys.exit(main())
