"""One request and what came back, as it happens: instants and bytes, nothing decoded."""

from __future__ import annotations

import os
from array import array
from enum import IntEnum
from tempfile import TemporaryFile, gettempdir
from typing import NamedTuple

import numpy as np

from pytest_llmperf.load.plan import SessionPlan
from pytest_llmperf.load.records import Floats, Ints
from pytest_llmperf.load.wall_clock import NO_STAMP

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


class Reads:
    """What has been read of one response's body: one instant (monotonic, as the client read it), size and timestamp a read.

    Buffers that grow: kept as one object a read they would cost more than all else that is done for it.
    """

    __slots__ = ("body", "read_s", "sizes", "stamps")

    def __init__(self) -> None:
        self.body = bytearray()
        self.read_s = array("d")
        self.sizes = array("q")
        self.stamps = bytearray()

    def __len__(self) -> int:
        return len(self.sizes)

    def add(self, piece: bytes, at_s: float, stamp: bytes) -> None:
        """What one more read held."""
        self.body += piece
        self.read_s.append(at_s)
        self.sizes.append(len(piece))
        self.stamps += stamp

    def head(self, count: int) -> bytes:
        """What the first ``count`` reads held."""
        return bytes(self.body[: sum(self.sizes[:count])])


_NOTHING = Reads()


class Exchange:
    """A request on its way. Instants are of the monotonic clock as the client read it, ``nan`` until they have come.

    Mutable and slotted: this is the hot path's record; ``load.decode`` makes the frozen one from it.
    """

    __slots__ = (
        "begun_s",
        "connected_s",
        "end",
        "end_s",
        "end_stamp",
        "error",
        "first_byte_s",
        "first_stamp",
        "has_token",
        "opening_delay_s",
        "planned_output_tokens",
        "planned_prompt_tokens",
        "reads",
        "received_bytes",
        "request",
        "retry_after",
        "scheduled_s",
        "sent_s",
        "session",
        "span",
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
        self.opening_delay_s = 0.0
        """For how long the client left a connection waiting that stood already; nan where nobody says."""
        self.status = 0
        self.end = WireEnd.CANCELLED
        self.error = ""
        self.received_bytes = 0
        self.retry_after = b""
        self.has_token = False
        self.reads = Reads()
        self.first_stamp = self.end_stamp = NO_STAMP
        self.span = Span(0, 0, 0)

    @property
    def failed(self) -> bool:
        """Whether HTTP alone says that it failed."""
        return self.end is not WireEnd.COMPLETE or not 200 <= self.status < 300

    def restart(self) -> None:
        """Forget a first attempt on a connection the server had already given up."""
        self.connected_s = self.sent_s = self.first_byte_s = NAN


class Span:
    """Where a capture lies in the tape: ``size`` bytes of body, then what belongs to each of ``reads`` reads."""

    __slots__ = ("reads", "size", "start")

    def __init__(self, start: int, size: int, reads: int) -> None:
        self.start = start
        self.size = size
        self.reads = reads


class Capture(NamedTuple):
    """What was read of one response's body: one instant, timestamp (16 bytes) and size a read."""

    body: bytes
    read_s: Floats
    stamps: bytes
    sizes: Ints


class Tape:
    """What was read of finished exchanges, in an unnamed temporary file.

    The page cache holds it while there is memory, the disk when there is not: a long run does not grow the process by a
    few hundred bytes a token. A disk that takes no more loses nothing: what is read from then on stays in memory.
    """

    def __init__(self) -> None:
        self._file = TemporaryFile(prefix="llmperf-", buffering=0)  # noqa: SIM115  (closed by close())
        self._size = 0
        self.note = ""
        """Why what is read stays in memory; empty while it need not."""

    def keep(self, exchange: Exchange) -> None:
        """Move what was read out of memory; nothing when that was done, or the disk takes no more."""
        if self.note or not exchange.reads:
            return
        reads = exchange.reads
        data = b"".join((reads.body, reads.read_s, reads.sizes, reads.stamps))
        view = memoryview(data)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            # The tape ends before this one, of which a part may have been written.
            why = f"{gettempdir()} takes no more ({error.strerror})"
            self.note = f"answers were kept in memory: {why}; TMPDIR names another place for them"
            return
        exchange.span, exchange.reads = Span(self._size, len(reads.body), len(reads)), _NOTHING
        self._size += len(data)

    def read(self, exchange: Exchange) -> Capture:
        """What was read of an exchange that has ended. The place at which the next is written stays where it is."""
        self.keep(exchange)
        if exchange.reads:
            return _in_memory(exchange.reads)
        body, reads = exchange.span.size, exchange.span.reads
        data = self._bytes(exchange.span.start, body + reads * (8 + 8 + len(NO_STAMP)))
        read_s = np.frombuffer(data, np.float64, reads, body)
        sizes = np.frombuffer(data, np.int64, reads, body + 8 * reads)
        return Capture(data[:body], read_s, data[body + 16 * reads :], sizes)

    def _bytes(self, place: int, left: int) -> bytes:
        parts: list[bytes] = []
        while left:
            part = os.pread(self._file.fileno(), left, place)
            if not part:
                raise EOFError("the tape ends before the capture does")
            parts.append(part)
            place += len(part)
            left -= len(part)
        return b"".join(parts)

    def close(self) -> None:
        """The file is gone."""
        self._file.close()


def _in_memory(reads: Reads) -> Capture:
    """A capture of its own: what a ``Reads`` hands out of its buffers would keep them from being changed."""
    read_s, sizes = np.array(reads.read_s, np.float64), np.array(reads.sizes, np.int64)
    return Capture(bytes(reads.body), read_s, bytes(reads.stamps), sizes)
