"""What parent and workers say to each other over pipes: pickled records, each preceded by its length."""

from __future__ import annotations

import asyncio
import os
import pickle
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pytest_llmperf.deploy.base import Endpoint
from pytest_llmperf.load.options import LoadOptions
from pytest_llmperf.load.plan import LoadPlan
from pytest_llmperf.load.records import Ints, RequestLog, WorkerHealth

_LENGTH = struct.Struct("!Q")


@dataclass(frozen=True)
class Job:
    """To a worker, first: what to do. Travels by pipe, so the endpoint's key is in no argument and no environment."""

    plan: LoadPlan
    endpoint: Endpoint
    options: LoadOptions
    content_seed: int
    worker: int
    workers: int
    watched: bool = False
    """Whether to tell, while the load runs, what becomes of the requests (``Seen``)."""


@dataclass(frozen=True)
class Go:
    """To a worker: the instant (monotonic clock, one for all processes) at which the run starts."""

    start_s: float


@dataclass(frozen=True)
class Finish:
    """To a worker: begin nothing from this instant on (monotonic clock, one for all processes), finish what is in flight."""

    at_s: float


@dataclass(frozen=True)
class Stop:
    """To a worker: cancel what is in flight and report."""


@dataclass(frozen=True)
class Ready:
    """From a worker: its requests are written, it can start."""


@dataclass(frozen=True)
class Progress:
    """From a worker, twice a second: how far it is."""

    in_flight: int
    finished: int
    failed: int
    reads: int


ROW = np.dtype(
    [
        ("scheduled_s", np.float64),
        ("session", np.int64),
        ("turn", np.int32),
        ("sent_s", np.float64),
        ("first_token_s", np.float64),
        ("last_token_s", np.float64),
        ("end_s", np.float64),
        ("output_tokens", np.int64),
        ("failed", np.bool_),
        ("warmup", np.bool_),
    ]
)
"""What is told of one request. Times and counts as in a ``Sighting``; session and turn as in the log."""


@dataclass(frozen=True)
class Seen:
    """From a worker of a load that is watched, at every look: the requests of which there is news, each as it is now.

    ``row`` numbers the worker's requests in the order they were begun, shape (k,); ``state`` is of shape (k,) and ``ROW``.
    Nothing that happened after ``now_s`` (seconds since the run's start) is told, and everything that happened until then is.
    """

    now_s: float
    row: Ints
    state: NDArray[np.void]


@dataclass(frozen=True)
class Failed:
    """From a worker: it cannot do its work, and why."""

    what: str


@dataclass(frozen=True)
class Done:
    """From a worker, last: everything it measured."""

    log: RequestLog = field(repr=False)
    health: WorkerHealth
    finished_s: float | None
    """When it stopped beginning requests because it was told to finish (monotonic clock); None when it was not."""
    stopped_s: float | None
    """When it was stopped (monotonic clock); None when it was not."""
    notes: tuple[str, ...] = ()


Message = Job | Go | Finish | Stop | Ready | Progress | Seen | Failed | Done


class Inbox:
    """Messages out of a pipe, from whatever pieces they arrive in."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._buffer = bytearray()
        self.at_end = False

    def receive(self) -> Iterator[Message]:
        """Read once (waits on a blocking pipe) and yield the messages that are whole; ``at_end`` after the last."""
        data = os.read(self.fd, 2**20)
        self.at_end = not data
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            stop = _LENGTH.size + length
            if len(self._buffer) < stop:
                return
            message: Message = pickle.loads(bytes(memoryview(self._buffer)[_LENGTH.size : stop]))
            del self._buffer[:stop]
            yield message

    def wait(self) -> Message | None:
        """The next message of a blocking pipe on which one comes at a time; None when the other side is gone."""
        while not self.at_end:
            for message in self.receive():
                return message
        return None


def send(fd: int, message: Message) -> None:
    """Write a message whole. Raises ``BrokenPipeError`` when the other side is gone."""
    view = memoryview(_packed(message))
    while view:
        view = view[os.write(fd, view) :]


def _packed(message: Message) -> bytes:
    data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(data)) + data


class Outbox:
    """Messages into a pipe whose reader may be busy: what the pipe cannot take yet waits here and holds nobody up."""

    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int) -> None:
        self._loop = loop
        self._fd = fd
        self._buffer = bytearray()
        os.set_blocking(fd, False)

    def send(self, message: Message) -> None:
        """Write as much as fits now, the rest when there is room. Raises ``BrokenPipeError`` when the other side is gone."""
        waiting = bool(self._buffer)
        self._buffer += _packed(message)
        if not waiting:
            self._write()

    def _write(self) -> None:
        while self._buffer:
            try:
                del self._buffer[: os.write(self._fd, self._buffer)]
            except BlockingIOError:
                self._loop.add_writer(self._fd, self._write)
                return
        self._loop.remove_writer(self._fd)

    def close(self) -> None:
        """Wait until all is written; after this the pipe is written to by ``send``."""
        self._loop.remove_writer(self._fd)
        os.set_blocking(self._fd, True)
        while self._buffer:
            del self._buffer[: os.write(self._fd, self._buffer)]
