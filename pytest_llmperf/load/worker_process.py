"""A worker process as the engine sees it: what it was told, what it has said, how it ended."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
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
