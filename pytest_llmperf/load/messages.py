"""What parent and workers say to each other over pipes: pickled records, each preceded by its length."""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from pytest_llmperf.deploy.base import Endpoint
from pytest_llmperf.load.options import LoadOptions
from pytest_llmperf.load.plan import LoadPlan
from pytest_llmperf.load.records import RequestLog, WorkerHealth

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


@dataclass(frozen=True)
class Go:
    """To a worker: the instant (monotonic clock, one for all processes) at which the run starts."""

    start_s: float


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


@dataclass(frozen=True)
class Failed:
    """From a worker: it cannot do its work, and why."""

    what: str


@dataclass(frozen=True)
class Done:
    """From a worker, last: everything it measured."""

    log: RequestLog = field(repr=False)
    health: WorkerHealth
    stopped_s: float | None
    notes: tuple[str, ...] = ()


Message = Job | Go | Stop | Ready | Progress | Failed | Done


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
    data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    view = memoryview(_LENGTH.pack(len(data)) + data)
    while view:
        view = view[os.write(fd, view) :]
