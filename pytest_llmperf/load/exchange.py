"""One request and what came back, as it happens: instants and bytes, nothing decoded."""

from __future__ import annotations

import os
from array import array
from enum import IntEnum
from tempfile import TemporaryFile

from pytest_llmperf.load.plan import SessionPlan

NAN = float("nan")


class WireEnd(IntEnum):
    """How an exchange ended as far as HTTP can tell; what the body says is decoded later."""

    COMPLETE = 0
    CLOSED = 1
    """The connection was closed in order before the response was whole."""
    RESET = 2
    CONNECT_FAILED = 3
    TIMEOUT = 4
    BAD_HTTP = 5
    CANCELLED = 6


class Exchange:
    """A request on its way. Instants are of the monotonic clock, ``nan`` until they have come.

    Mutable and slotted: this is the hot path's record; ``load.decode`` makes the frozen one from it.
    """

    __slots__ = (
        "begun_s",
        "body",
        "connected_s",
        "end",
        "end_s",
        "error",
        "first_byte_s",
        "planned_output_tokens",
        "planned_prompt_tokens",
        "read_s",
        "read_sizes",
        "reads",
        "received_bytes",
        "request",
        "scheduled_s",
        "sent_s",
        "session",
        "status",
        "turn",
        "warmup",
    )

    def __init__(self, session: SessionPlan, turn: int, scheduled_s: float, request: bytes, *, warmup: bool) -> None:
        self.session = session.id
        self.turn = turn
        self.warmup = warmup
        self.planned_prompt_tokens = session.turns[turn].prompt_tokens
        self.planned_output_tokens = session.turns[turn].output_tokens
        self.scheduled_s = scheduled_s
        self.request = request
        self.begun_s = self.connected_s = self.sent_s = self.first_byte_s = self.end_s = NAN
        self.status = 0
        self.end = WireEnd.CANCELLED
        self.error = ""
        self.received_bytes = 0
        self.reads: list[bytes] = []
        self.read_s: list[float] | array[float] = []
        self.read_sizes: array[int] = array("Q")
        self.body = Span(0, 0)

    @property
    def failed(self) -> bool:
        """Whether HTTP alone says that it failed."""
        return self.end is not WireEnd.COMPLETE or not 200 <= self.status < 300

    def restart(self) -> None:
        """Forget a first attempt on a connection the server had already given up."""
        self.connected_s = self.sent_s = self.first_byte_s = NAN


class Span:
    """Where a body lies in the tape."""

    __slots__ = ("size", "start")

    def __init__(self, start: int, size: int) -> None:
        self.start = start
        self.size = size


class Tape:
    """The bodies of finished exchanges, in an unnamed temporary file.

    The page cache holds it while there is memory, the disk when there is not: a long run does not grow the process by a
    few hundred bytes a token.
    """

    def __init__(self) -> None:
        self._file = TemporaryFile(prefix="llmperf-", buffering=0)  # noqa: SIM115  (closed by close())
        self._size = 0

    def keep(self, exchange: Exchange) -> None:
        """Move the exchange's body out of memory."""
        body = b"".join(exchange.reads)
        exchange.read_sizes = array("Q", map(len, exchange.reads))
        exchange.read_s = array("d", exchange.read_s)
        exchange.reads = []
        exchange.body = Span(self._size, len(body))
        view = memoryview(body)
        while view:
            view = view[self._file.write(view) :]
        self._size += len(body)

    def read(self, exchange: Exchange) -> bytes:
        """The exchange's body. The place at which the next one is written stays where it is."""
        parts: list[bytes] = []
        place, left = exchange.body.start, exchange.body.size
        while left:
            part = os.pread(self._file.fileno(), left, place)
            if not part:
                raise EOFError("the tape ends before the body does")
            parts.append(part)
            place += len(part)
            left -= len(part)
        return b"".join(parts)

    def close(self) -> None:
        """The file is gone."""
        self._file.close()
