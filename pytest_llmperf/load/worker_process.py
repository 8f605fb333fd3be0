"""A worker process as the engine sees it: what it was told, what it has said, how it ended."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from pytest_llmperf.load.messages import Done, Inbox, Message, Progress, send
from pytest_llmperf.load.sightings import WorkerView

_KILL_AFTER_S = 5.0


class WorkerProcess:
    """One worker process and the two pipes to it."""

    def __init__(self, index: int, errors: IO[bytes]) -> None:
        self.index = index
        self._errors = errors
        root = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        # -P: a file of the user's working directory must not shadow a module of the worker. A group of its own: no Ctrl-C.
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "pytest_llmperf.load.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "PYTHONPATH": path},
            process_group=0,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._to = self.process.stdin.fileno()
        self.inbox = Inbox(self.process.stdout.fileno())
        self.is_ready = False
        self.progress = Progress(0, 0, 0, 0)
        self.view = WorkerView()
        self.done: Done | None = None

    def tell(self, message: Message) -> None:
        """Send; a worker that is gone is noticed by the end of its output."""
        try:
            send(self._to, message)
        except BrokenPipeError:
            return

    def fate(self) -> str:
        """How it ended, with the last of what it said to its standard error."""
        code = self.process.wait(_KILL_AFTER_S)
        how = f"was killed by signal {-code}" if code < 0 else f"exited with status {code}"
        self._errors.seek(0)
        tail = self._errors.read().decode(errors="replace").strip().splitlines()[-15:]
        return f"load worker {self.index} {how}" + ("".join(f"\n    {line}" for line in tail) if tail else "")

    def end(self) -> None:
        """Leave no process and no open pipe."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        self._errors.close()


class SpareWorkers:
    """Workers that were started while nothing was to be driven yet, so that the next load need not wait for them.

    They end by themselves when the process dies that holds the other end of their input.
    """

    def __init__(self) -> None:
        self._workers: list[WorkerProcess] = []

    def warm(self, count: int) -> None:
        """Have so many of them."""
        while len(self._workers) < count:
            self._workers.append(_started(0))

    def take(self, index: int) -> WorkerProcess:
        """One of them, now the load's worker ``index``; a new one where none is left that lives."""
        while self._workers:
            worker = self._workers.pop()
            if worker.process.poll() is None:
                worker.index = index
                return worker
            worker.end()
        return _started(index)

    def close(self) -> None:
        """End those that nobody took. Safe to call twice."""
        while self._workers:
            self._workers.pop().end()


def _started(index: int) -> WorkerProcess:
    return WorkerProcess(index, TemporaryFile())  # closed by its ``end``
