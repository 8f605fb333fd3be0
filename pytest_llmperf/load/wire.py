"""HTTP/1.1 on one connection: the request goes out, reads come back with the instant of each. Nothing is decoded here."""

from __future__ import annotations

import asyncio
import socket
from time import monotonic
from typing import Any, Protocol, cast

import httptools

from pytest_llmperf.load.exchange import Exchange, WireEnd

STALE_S = 0.5
"""A server that had closed an idle connection is heard of within a round trip after sending. Later it has given up a request."""


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


class Connection(asyncio.Protocol):
    """One connection, at most one exchange at a time."""

    __slots__ = (
        "_complete",
        "_exchange",
        "_framed",
        "_headers_done",
        "_now_s",
        "_owner",
        "_parser",
        "_sock",
        "_transport",
        "reusable",
        "served",
    )

    def __init__(self, owner: ConnectionOwner, sock: socket.socket | None) -> None:
        """``sock`` is the plain socket beneath, None under TLS."""
        self._owner = owner
        self._sock = sock
        self._transport: asyncio.Transport | None = None
        self._parser: Any = httptools.HttpResponseParser(self)
        self._exchange: Exchange | None = None
        self._now_s = 0.0
        self._complete = self._headers_done = self._framed = False
        self.reusable = False
        self.served = 0
        """Exchanges that have ended well on this connection."""

    def send(self, exchange: Exchange) -> None:
        """Send the request at this very moment."""
        self._exchange = exchange
        self._complete = self._headers_done = self._framed = False
        self.reusable = False
        assert self._transport is not None
        request, exchange.request = exchange.request, exchange.request if self.served else b""
        if self._sock is None or self._transport.get_write_buffer_size():
            exchange.sent_s = monotonic()
            self._transport.write(request)
            return
        # A transport writes at the end of the loop's turn; in a burst that is late. The first write goes to the socket itself.
        exchange.sent_s = monotonic()
        try:
            sent = self._sock.send(request)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self.abort()
            return
        if sent < len(request):
            self._transport.write(request[sent:])

    def abort(self) -> None:
        """Close at once; ``connection_lost`` follows from the loop."""
        self.reusable = False
        if self._transport is not None:
            self._transport.abort()

    def drop(self) -> None:
        """Close at once and say nothing to the owner: the exchange's end is already known."""
        self._exchange = None
        self.abort()

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast and no check: uvloop's transports keep the interface without being its subclasses.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._now_s = monotonic()
        exchange = self._exchange
        if exchange is None:
            # Bytes nobody asked for (a server's 408 on an idle connection): the connection is of no use any more.
            self.abort()
            return
        exchange.received_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._end(WireEnd.BAD_HTTP, "malformed http")
            self.abort()
            return
        if self._complete:
            self.served += 1
            self._end(WireEnd.COMPLETE, "")

    def connection_lost(self, exc: Exception | None) -> None:
        exchange, self.reusable = self._exchange, False
        # The parser refers to this object: without the collector only this frees the pair.
        self._parser = self._transport = self._sock = None
        if exchange is None:
            self._owner.lost(self)
            return
        self._now_s = monotonic()
        if self.served and exchange.first_byte_s != exchange.first_byte_s and self._now_s - exchange.sent_s < STALE_S:
            self._exchange = None
            self._owner.stale(exchange)
        elif exc is not None:
            when = "before a response" if not self._headers_done else "mid-response"
            self._end(WireEnd.RESET, f"reset {when}")
        elif self._headers_done and not self._framed:
            # Neither a length nor chunks: the body ends where the connection does.
            self._end(WireEnd.COMPLETE, "")
        else:
            when = "before a response" if not self._headers_done else "mid-response"
            self._end(WireEnd.CLOSED, f"closed {when}")

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self._exchange is not None:
            self._exchange.first_byte_s = self._now_s

    def on_header(self, name: bytes, _value: bytes) -> None:
        if name.lower() in {b"content-length", b"transfer-encoding"}:
            self._framed = True

    def on_headers_complete(self) -> None:
        self._headers_done = True
        if self._exchange is not None:
            self._exchange.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        exchange = self._exchange
        if exchange is not None:
            exchange.read_s.append(self._now_s)
            exchange.reads.append(body)

    def on_message_complete(self) -> None:
        # Asked later than here, the parser has forgotten the headers and says no.
        self.reusable = self._parser.should_keep_alive()
        self._complete = True

    def _end(self, end: WireEnd, error: str) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.end, exchange.error, exchange.end_s = end, error, self._now_s
            self._owner.finished(self, exchange)
