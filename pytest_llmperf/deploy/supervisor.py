"""A program that stands between a session and its engine: it starts the engine, keeps its log and sees that all of it ends.

Run by its path with ``python -I``, from the standard library alone: nothing of the user's environment may change it, and the
engine must get that environment as it is. It reads one JSON line, an ``Order``, and then waits. The engine and everything that
descends from it are ended when standard input is closed (by whoever wants the end, or by the death of the session), on
SIGTERM, and when the engine's own first process ends. Standard output tells in JSON lines: ``{"pid": N}`` or
``{"error": TEXT}``, then ``{"status": N}`` once that process ended, then ``{"left": [PID, ...]}``: what could not be ended.
Standard error is the log, a file.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import selectors
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic

LOG_HEAD_BYTES = 2**20
LOG_TAIL_BYTES = 4 * 2**20
LOG_BYTES = 16 * 2**20
"""How long a log may be before only its beginning and end are kept."""
MASK = b"***"
TELLING_BYTES = 8
"""So much of a secret's beginning is not shown either, where the log ends in it."""
KILL_WAIT_S = 10.0
_WAIT_S = 0.5
_READ_BYTES = 2**16
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
IS_LINUX = sys.platform == "linux"


@dataclass(frozen=True)
class Order:
    """What to run: ``environment`` is added to the supervisor's own; ``grace_s`` is between SIGTERM and SIGKILL."""

    command: tuple[str, ...]
    environment: dict[str, str]
    secrets: tuple[str, ...]
    grace_s: float


class BoundedLog:
    """A log file that holds no secret and never more than ``LOG_BYTES``: of a longer one, its beginning and its end."""

    def __init__(self, descriptor: int, secrets: Sequence[str]) -> None:
        self._descriptor = descriptor
        # The longest first: one may be the beginning of another.
        self._secrets = sorted((secret.encode() for secret in secrets), key=len, reverse=True)
        self._secret = re.compile(b"|".join(map(re.escape, self._secrets)) or rb"(?!)")
        self._held = b""
        self._left_out = 0

    def write(self, data: bytes) -> None:
        """Take what the engine said. An end that may become a secret waits for what follows, however long that takes."""
        data = self._held + data
        shown, at = b"", 0
        while True:
            match = self._secret.search(data, at)
            unfinished_at = self._unfinished(data, at)
            if match is None or unfinished_at <= match.start():
                break
            shown += data[at : match.start()] + MASK
            at = match.end()
        self._held = data[unfinished_at:]
        self._append(shown + data[at:unfinished_at])

    def close(self) -> None:
        """Nothing follows any more: write what has waited, unless it is so much of a secret that it tells something."""
        held, self._held = self._held, b""
        self._append(held if len(held) < TELLING_BYTES else MASK)

    def _unfinished(self, data: bytes, start: int) -> int:
        """The first place from which all the rest is the beginning of a secret; where there is none, the end."""
        first = len(data)
        for secret in self._secrets:
            at = data.find(secret[:1], max(start, len(data) - len(secret) + 1))
            while at != -1 and not secret.startswith(data[at:]):
                at = data.find(secret[:1], at + 1)
            first = min(first, at) if at != -1 else first
        return first

    def _append(self, data: bytes) -> None:
        size = os.lseek(self._descriptor, 0, os.SEEK_END)
        while data:
            data = data[os.write(self._descriptor, data) :]
        if size > LOG_BYTES:
            self._shorten()

    def _shorten(self) -> None:
        size = os.lseek(self._descriptor, 0, os.SEEK_END)
        end = os.pread(self._descriptor, LOG_TAIL_BYTES, size - LOG_TAIL_BYTES)
        self._left_out += size - LOG_HEAD_BYTES - len(end)
        os.ftruncate(self._descriptor, LOG_HEAD_BYTES)
        os.lseek(self._descriptor, 0, os.SEEK_END)
        os.write(self._descriptor, b"\n... about %d bytes are left out here ...\n" % self._left_out + end)


class Supervisor:
    """One engine: its first process, whatever descends from it, and its log."""

    def __init__(self, order: Order, log: BoundedLog) -> None:
        self._order = order
        self._log = log
        self._parent = os.getppid()
        self._asked_to_end = False
        self._status: int | None = None
        self._selector = selectors.DefaultSelector()
        self._selector.register(0, selectors.EVENT_READ)
        self._wake_on_signals()
        self._process = self._start()
        assert self._process.stdout is not None
        self._output = self._process.stdout.fileno()
        os.set_blocking(self._output, False)
        self._selector.register(self._output, selectors.EVENT_READ)

    @property
    def pid(self) -> int:
        """The engine's first process, and its group."""
        return self._process.pid

    def run(self) -> None:
        """Until the engine's end is wanted or has come; then until nothing of it is left."""
        while not self._asked_to_end and self._status is None:
            self._look(_WAIT_S)
            self._reap()
            # An input that somebody else holds open as well does not close with the parent.
            self._asked_to_end |= os.getppid() != self._parent
        left = self._end()
        self._log.close()
        _tell(left=left)

    def _wake_on_signals(self) -> None:
        reading, writing = os.pipe()
        for end in (reading, writing):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(writing)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._on_term)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._wake = reading
        self._selector.register(reading, selectors.EVENT_READ)

    def _on_term(self, *_: object) -> None:
        self._asked_to_end = True

    def _start(self) -> subprocess.Popen[bytes]:
        libc = ctypes.CDLL(None) if IS_LINUX else None
        if libc is not None:
            # Orphans of the engine, in whatever session, become our children: so none is overlooked.
            libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)

        def in_the_child() -> None:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            if libc is not None:
                libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))

        return subprocess.Popen(
            self._order.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **self._order.environment},
            start_new_session=True,
            preexec_fn=in_the_child,  # noqa: PLW1509  (there is one thread here)
        )

    def _look(self, seconds: float) -> None:
        """Take what there is to read."""
        for key, _ in self._selector.select(seconds):
            if key.fd == self._output:
                self._pump()
            elif key.fd == self._wake:
                os.read(self._wake, _READ_BYTES)
            elif not os.read(0, _READ_BYTES):
                self._asked_to_end = True
                self._selector.unregister(0)

    def _pump(self) -> None:
        try:
            data = os.read(self._output, _READ_BYTES)
        except BlockingIOError:
            return
        if data:
            self._log.write(data)
        else:
            self._selector.unregister(self._output)

    def _reap(self) -> bool:
        """Take note of children that ended; whether one is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self.pid:
                self._status = self._process.returncode = os.waitstatus_to_exitcode(status)
                self._drain()  # whoever hears of its end finds its last words in the log
                _tell(status=self._status)

    def _end(self) -> list[int]:
        """SIGTERM, then SIGKILL, to all that is left; and what is left even then."""
        for number, wait_s in ((signal.SIGTERM, self._order.grace_s), (signal.SIGKILL, KILL_WAIT_S)):
            deadline = monotonic() + wait_s
            signalled: set[int] = set()
            while self._is_anything_left():
                # In every round: SIGKILL of a parent brings its children to light, and some may have been born meanwhile.
                signalled |= self._signal(number, signalled if number == signal.SIGTERM else set())
                if (left_s := deadline - monotonic()) <= 0:
                    break
                self._look(min(left_s, 0.05))
        self._drain()
        return self._left() if self._is_anything_left() else []

    def _is_anything_left(self) -> bool:
        if self._reap():
            return True
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True

    def _signal(self, number: int, already: set[int]) -> set[int]:
        """Signal the group, and those who left it; each once, but for SIGKILL: two SIGTERM mean 'at once' to many a server."""
        left = [pid for pid in self._left() if pid not in already]
        for pid in left:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        return set(left)

    def _left(self) -> list[int]:
        """The processes that descend from the engine and have not ended; where /proc does not tell, its group as one."""
        if not IS_LINUX:
            return [-self.pid]
        return descendants(os.getpid())

    def _drain(self) -> None:
        """The last words: what is in the pipe when its writers have gone."""
        while self._output in self._selector.get_map():
            if not any(key.fd == self._output for key, _ in self._selector.select(0)):
                break
            self._pump()


def descendants(ancestor: int) -> list[int]:
    """The processes below ``ancestor`` that have not ended, as /proc tells."""
    children: dict[int, list[int]] = {}
    for pid, (parent, _) in processes().items():
        children.setdefault(parent, []).append(pid)
    found: list[int] = []
    generation = [ancestor]
    while generation:
        generation = [child for pid in generation for child in children.get(pid, ())]
        found += generation
    return found


def processes() -> dict[int, tuple[int, int]]:
    """Parent and group of every process that has not ended, as /proc tells."""
    found: dict[int, tuple[int, int]] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                # The name in parentheses may hold anything: what follows the last one is fields.
                state, parent, group, *_ = file.read().rpartition(b")")[2].split()
        except (OSError, ValueError):
            continue
        if state not in (b"Z", b"X"):
            found[int(name)] = (int(parent), int(group))
    return found


def _tell(**message: object) -> None:
    try:
        os.write(1, (json.dumps(message) + "\n").encode())
    except BrokenPipeError:
        return  # nobody is left to hear it


def main() -> int:
    """Run the order that standard input holds."""
    line = b""
    while not line.endswith(b"\n"):
        if not (more := os.read(0, _READ_BYTES)):
            return 1
        line += more
    given = json.loads(line)
    order = Order(tuple(given["command"]), given["environment"], tuple(given["secrets"]), given["grace_s"])
    try:
        supervisor = Supervisor(order, BoundedLog(2, order.secrets))
    except OSError as error:
        _tell(error=error.strerror or str(error))
        return 1
    _tell(pid=supervisor.pid)
    supervisor.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
