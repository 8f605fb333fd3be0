"""The paced server of ``paced/`` (Go): built once, started for a while, asked for the truth about what it wrote.

Instants are seconds of the monotonic clock, which the server and this process share.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, time
from urllib.request import Request, urlopen

import numpy as np
from numpy.typing import NDArray

from pytest_llmperf.deploy.base import Endpoint
from pytest_llmperf.load.plan import LoadPlan
from pytest_llmperf.load.prompts import FIRST_TOKEN_ID, session_tokens

Floats = NDArray[np.float64]

SOURCE = Path(__file__).with_name("paced")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "pytest-llmperf" / "bench"
"""Outside the checkout: what is built or installed for benchmarks only."""

_IDS_IN_KEY = 6
_ROW = np.dtype([("id", "<u8"), ("arrived_ns", "<i8"), ("read_ns", "<i8"), ("first", "<i8"), ("tokens", "<i8")])


def why_not() -> str:
    """Why there is no paced server on this machine; empty where there is one."""
    if not sys.platform.startswith("linux"):
        return "the paced server of tests/perf/paced is for Linux (epoll, kernel receive timestamps)"
    return "" if shutil.which("go") else "no Go toolchain: the paced server of tests/perf/paced cannot be built"


@dataclass(frozen=True)
class Truth:
    """What the server did, a row a request in the order in which they were read."""

    id: NDArray[np.uint64]
    arrived_s: Floats
    """When the kernel had received the request."""
    read_s: Floats
    """When the server had read it."""
    written: NDArray[np.int64]
    """How many of its tokens have been written."""
    start: NDArray[np.int64]
    """Shape (n,): where its tokens begin in ``wrote_s``."""
    wrote_s: Floats
    """The instant just before each token was given to the kernel; of some tokens it may be one write."""
    lost: int
    """Requests that did not fit in."""
    queued: int
    """Writes that the kernel did not take at once, because the client did not read."""

    @property
    def first_s(self) -> Floats:
        """When each request's first token was written, shape (n,)."""
        return self.wrote_s[self.start]

    @property
    def ttft_s(self) -> Floats:
        """From a request's arrival in the server's kernel to the write of its first token, shape (n,)."""
        return self.first_s - self.arrived_s


class Paced:
    """A running server."""

    def __init__(self, port: int, pid: int) -> None:
        self.port = port
        self.pid = pid

    def path(self, mode: str, ttft_ms: float, itl_ms: float, events: int = 1) -> str:
        """The path that names a pace."""
        return f"/{mode}/{ttft_ms:g}/{itl_ms:g}/{events}"

    def endpoint(self, mode: str, ttft_ms: float, itl_ms: float, events: int = 1) -> Endpoint:
        """The server at a pace: ``even``, ``spread`` or ``step``; ``itl_ms`` between writes of so many ``events`` each."""
        return Endpoint(f"http://127.0.0.1:{self.port}{self.path(mode, ttft_ms, itl_ms, events)}", "m")

    def reset(self) -> None:
        """Forget what was seen so far."""
        with urlopen(Request(f"http://127.0.0.1:{self.port}/truth/reset", method="POST")):
            return

    def truth(self) -> Truth:
        """Everything since the start or the last reset."""
        with urlopen(f"http://127.0.0.1:{self.port}/truth") as answer:
            data: bytes = answer.read()
        n_rows, n_tokens, lost, queued = np.frombuffer(data, np.int64, 4).tolist()
        rows = np.frombuffer(data, _ROW, n_rows, offset=32)
        wrote = np.frombuffer(data, np.int64, n_tokens, offset=32 + rows.nbytes)
        return Truth(
            id=rows["id"],
            arrived_s=rows["arrived_ns"] / 1e9,
            read_s=rows["read_ns"] / 1e9,
            written=rows["tokens"],
            start=rows["first"],
            wrote_s=wrote / 1e9,
            lost=lost,
            queued=queued,
        )

    def floor_s(self, mode: str, streams: int, seconds: float = 3.0) -> float:
        """CPU seconds a read that a program takes which reads streams of this server (TTFT 20 ms, ITL 10 ms) and keeps nothing.

        In Go, one system call a read: what the kernel takes, and what no client can go below.
        """
        arguments = "floor", str(self.port), self.path(mode, 20, 10), str(streams), str(seconds)
        done = subprocess.run([built(), *arguments], capture_output=True, text=True, check=True)
        seen: dict[str, float] = json.loads(done.stdout)
        return seen["cpu_s"] / seen["reads"]

    def cpu_s(self) -> float:
        """CPU seconds it has used so far, to a hundredth."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def running() -> Iterator[Paced]:
    """A server that lives as long as the block. It ends itself when this process is gone."""
    with subprocess.Popen([built()], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield Paced(int(process.stdout.readline()), process.pid)
        finally:
            process.stdin.close()
            process.wait(10)


def built() -> Path:
    """The program, built where this source was not built before."""
    sources = sorted(SOURCE.iterdir())
    digest = hashlib.sha256(b"\0".join(path.name.encode() + b"\0" + path.read_bytes() for path in sources)).hexdigest()[:16]
    program = CACHE / f"paced-{digest}"
    if not program.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        # Under a name of its own until it is whole: two sessions may build at once.
        partial = CACHE / f"paced-{digest}.{os.getpid()}"
        environment = {**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "-buildvcs=false", "CGO_ENABLED": "0"}
        subprocess.run(["go", "build", "-o", str(partial), "."], cwd=SOURCE, env=environment, check=True)
        partial.replace(program)
    return program


def server_ids(plan: LoadPlan, content_seed: int, numbers: Sequence[int]) -> NDArray[np.uint64]:
    """By which ids the server knows the first requests of measured sessions: their first six tokens, three digits each."""
    ids = np.zeros(len(numbers), np.uint64)
    for row, number in enumerate(numbers):
        for token in session_tokens(plan.session(number), content_seed, 0, _IDS_IN_KEY).tolist():
            ids[row] = ids[row] * np.uint64(1000) + np.uint64(token + FIRST_TOKEN_ID)
    return ids


def monotonic_of_wall(wall_s: float) -> float:
    """An instant of the wall clock on the monotonic one, as the two are now."""
    before = monotonic()
    now = time()
    return wall_s - now + (before + monotonic()) / 2
