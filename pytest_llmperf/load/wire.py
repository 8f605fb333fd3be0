"""HTTP/1.1 on one connection: the request goes out, reads come back with the instant of each. Nothing is decoded here."""

from __future__ import annotations

import asyncio
import socket
from abc import ABC, abstractmethod
from time import monotonic
from typing import Any, Protocol, cast

import httptools

from pytest_llmperf.load.exchange import Exchange, WireEnd
from pytest_llmperf.load.inflow import Inflow
from pytest_llmperf.load.wall_clock import NO_STAMP, STAMP

STALE_S = 0.5
"""A server that had closed an idle connection is heard of within a round trip after sending. Later it has given up a request."""
_READ_BYTES = 2**14
_STAMP_SPACE = socket.CMSG_SPACE(STAMP.size)
_OK = 200
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})


class ConnectionOwner(Protocol):
    """Who is told what becomes of a connection."""

    def finished(self, connection: Connection, exchange: Exchange) -> None:
        """The exchange has ended, well or not; ``connection.reusable`` says whether another may follow."""
        ...

    def stale(self, exchange: Exchange) -> None:
        """A reused connection turned out to be closed before the response's first byte: send again on a fresh one."""
        ...

    def lost(self, connection: Connection) -> None:
        """The connection was closed with no exchange on it."""
        ...


class Connection(ABC):
    """One connection, at most one exchange at a time. What carries the bytes is a subclass's."""

    def __init__(self, owner: ConnectionOwner) -> None:
        self._owner = owner
        self._pieces: list[bytes] = []
        # The parser calls this once a chunk: a method of a list costs it a fraction of one that is written in Python.
        self.on_body = self._pieces.append
        self._parser: Any = httptools.HttpResponseParser(self)
        self._feed: Any = self._parser.feed_data
        self._exchange: Exchange | None = None
        self._now_s = 0.0
        self._stamp = NO_STAMP
        self._unsent = b""
        self._complete = self._headers_done = self._framed = False
        self.reusable = False
        self.served = 0
        """Exchanges that have ended well on this connection."""

    def send(self, exchange: Exchange) -> None:
        """Send the request at this very moment."""
        self._exchange = exchange
        self._complete = self._headers_done = self._framed = False
        self.reusable = False
        request, exchange.request = exchange.request, exchange.request if self.served else b""
        exchange.sent_s = monotonic()
        self._write(request)

    def drop(self) -> None:
        """Close at once and say nothing to the owner: the exchange's end is already known."""
        self._exchange = None
        self._close()

    @abstractmethod
    def _write(self, data: bytes) -> None:
        """Send as much as goes at once, and the rest as soon as it can go."""

    @abstractmethod
    def _close(self) -> None:
        """Close at once; ``_closed`` may or may not follow."""

    # What the bytes' carrier says.

    def _received(self, data: bytes) -> None:
        """Take in what was read at ``_now_s`` and stamped ``_stamp``."""
        exchange = self._exchange
        if exchange is None:
            # Bytes nobody asked for (a server's 408 on an idle connection): the connection is of no use any more.
            self._close()
            return
        exchange.received_bytes += len(data)
        malformed = False
        try:
            self._feed(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            malformed, self.reusable = True, False
        if pieces := self._pieces:
            # What the read just made holds of the body; its chunks make no difference any more.
            exchange.reads.add(pieces[0] if len(pieces) == 1 else b"".join(pieces), self._now_s, self._stamp)
            pieces.clear()
        if self._complete:
            # A server that answers before it has read all of a request still waits for the rest.
            self.reusable = self.reusable and not self._unsent
            self.served += 1
            self._end(WireEnd.COMPLETE, "")
        elif malformed:
            self._end(WireEnd.BAD_HTTP, "malformed http")

    def _closed(self, error: Exception | None) -> None:
        """The connection is gone: closed in order, or by an error."""
        exchange, self.reusable = self._exchange, False
        # The parser refers to this object: without the collector only this frees the pair.
        self._parser = self._feed = None
        if exchange is None:
            self._owner.lost(self)
            return
        self._now_s, self._stamp = monotonic(), NO_STAMP
        when = "mid-response" if self._headers_done else "before a response"
        if self.served and exchange.first_byte_s != exchange.first_byte_s and self._now_s - exchange.sent_s < STALE_S:
            self._exchange = None
            self._owner.stale(exchange)
        elif error is not None:
            self._end(WireEnd.RESET, f"reset {when}")
        elif self._headers_done and not self._framed:
            # Neither a length nor chunks: the body ends where the connection does.
            self._end(WireEnd.COMPLETE, "")
        else:
            self._end(WireEnd.CLOSED, f"closed {when}")

    def _end(self, end: WireEnd, error: str) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.end, exchange.error, exchange.end_s, exchange.end_stamp = end, error, self._now_s, self._stamp
            self._owner.finished(self, exchange)

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self._complete:
            raise ValueError("there is more than the response")
        exchange = self._exchange
        if exchange is not None and exchange.first_byte_s != exchange.first_byte_s:
            exchange.first_byte_s, exchange.first_stamp = self._now_s, self._stamp

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in _FRAMING:
            self._framed = True
        elif name == b"retry-after" and self._exchange is not None:
            self._exchange.retry_after = value

    def on_headers_complete(self) -> None:
        self._headers_done = True
        if self._exchange is not None:
            self._exchange.status = self._parser.get_status_code()

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() < _OK:
            # An interim response (RFC 9110, section 15.2): the real one follows.
            self._headers_done = False
            return
        # Asked later than here, the parser has forgotten the headers and says no.
        self.reusable = self._parser.should_keep_alive()
        self._complete = True


class PlainConnection(Connection):
    """Over a connected socket, read and written at once, without a transport between."""

    def __init__(self, owner: ConnectionOwner, sock: socket.socket, inflow: Inflow) -> None:
        super().__init__(owner)
        self._sock: socket.socket | None = sock
        self._inflow = inflow
        self._receive = sock.recvmsg
        self._fault: OSError | None = None
        inflow.add(sock, self._readable)

    def _readable(self) -> None:
        try:
            data, notes, _, _ = self._receive(_READ_BYTES, _STAMP_SPACE)
        except BlockingIOError:
            return
        except OSError as error:
            self._gone(error)
            return
        self._now_s = monotonic()
        if data:
            self._stamp = notes[0][2] if notes else NO_STAMP
            self._received(data)
        else:
            self._gone(self._fault)

    def _gone(self, error: OSError | None) -> None:
        self._close()
        self._closed(error)

    def _write(self, data: bytes) -> None:
        assert self._sock is not None
        try:
            sent = self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            # Closed by the server, who may have answered first: what there is to read comes out in its turn, then the end.
            self._fault, sent = error, len(data)
        if self._unsent or sent < len(data):
            self._unsent = data[sent:]
            self._inflow.await_room(self._sock, self._write_rest if self._unsent else None)

    def _write_rest(self) -> None:
        self._write(self._unsent)

    def _close(self) -> None:
        self.reusable = False
        if self._sock is not None:
            self._inflow.remove(self._sock)
            self._sock.close()
            self._sock = None


class TlsConnection(Connection, asyncio.Protocol):
    """Over one of the loop's transports, which does the encryption; nobody but the client's clock says when a read arrived."""

    def __init__(self, owner: ConnectionOwner) -> None:
        super().__init__(owner)
        self._transport: asyncio.Transport | None = None
        self.made_s = 0.0
        """When the handshake was over."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.made_s = monotonic()
        # A cast and no check: uvloop's transports keep the interface without being its subclasses.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._now_s = monotonic()
        self._received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._closed(exc)

    def _write(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)

    def _close(self) -> None:
        self.reusable = False
        if self._transport is not None:
            self._transport.abort()
