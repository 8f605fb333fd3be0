"""HTTP/1.1 on one connection: parse requests, hand them on one at a time, write bytes at once."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from typing import Protocol, cast

import httptools

MAX_BODY_BYTES = 64 * 2**20
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nserver: llmperf-sim\r\nx-llmperf-simulated: 1\r\n"
    b"content-type: text/event-stream; charset=utf-8\r\nvary: Origin\r\ntransfer-encoding: chunked\r\n\r\n"
)


class Handler(Protocol):
    """What a connection hands requests to."""

    def handle(self, connection: Connection, method: str, path: str, body: bytes) -> None:
        """Answer now or later, and call ``connection.done`` when the answer is complete."""

    def opened(self, connection: Connection) -> None:
        """A client connected."""

    def closed(self, connection: Connection) -> None:
        """The client went away, or the connection was cut."""


def response(status: int, body: bytes, content_type: str = "application/json") -> bytes:
    """A complete response."""
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nserver: llmperf-sim\r\nx-llmperf-simulated: 1\r\n"
        f"content-type: {content_type}\r\nvary: Origin\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Connection(asyncio.Protocol):
    """One client connection; a pipelined request waits until the one before it is answered."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._fd = -1
        self._path = b""
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._expects_continue = False
        self._keep_alive = True
        self._queue: deque[tuple[str, str, bytes, bool]] = deque()
        self._busy = False
        self.on_close: Callable[[], None] | None = None
        """What the answer in progress wants to know when the client goes away."""

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._fd = self._transport.get_extra_info("socket").fileno()
        self._handler.opened(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.write(response(400, b"Invalid HTTP request received.", "text/plain; charset=utf-8"))
            self.close()

    def connection_lost(self, _exc: Exception | None) -> None:
        self._transport = None
        self._fd = -1
        self._handler.closed(self)
        if self.on_close is not None:
            on_close, self.on_close = self.on_close, None
            on_close()

    # httptools' side

    def on_message_begin(self) -> None:
        self._path = b""
        self._body = []
        self._body_bytes = 0
        self._expects_continue = False

    def on_url(self, url: bytes) -> None:
        self._path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"expect" and value.lower() == b"100-continue":
            self._expects_continue = True

    def on_headers_complete(self) -> None:
        if self._expects_continue:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > MAX_BODY_BYTES:
            self.write(response(413, b""))
            self.close()
            return
        self._body.append(body)

    def on_message_complete(self) -> None:
        method = self._parser.get_method().decode()
        path = self._path.partition(b"?")[0].decode("latin-1")
        self._queue.append((method, path, b"".join(self._body), self._parser.should_keep_alive()))
        self._next()

    # the handler's side

    def _next(self) -> None:
        while self._queue and not self._busy and self._transport is not None:
            method, path, body, self._keep_alive = self._queue.popleft()
            self._busy = True
            self._handler.handle(self, method, path, body)

    def done(self) -> None:
        """The answer is complete: take the next request, or close if the client asked for that."""
        self._busy = False
        self.on_close = None
        if not self._keep_alive:
            self.close()
        else:
            self._next()

    def reply(self, status: int, body: bytes, content_type: str = "application/json") -> None:
        """Answer with a complete response."""
        self.write(response(status, body, content_type))
        self.done()

    def write(self, data: bytes) -> None:
        """Send now: the event loop would send at the end of its round, after everybody else's tokens."""
        transport = self._transport
        if transport is None:
            return
        if transport.get_write_buffer_size() == 0:
            try:
                sent = os.write(self._fd, data)
            except BlockingIOError:
                sent = 0
            except OSError:
                transport.abort()
                return
            if sent == len(data):
                return
            data = data[sent:]
        transport.write(data)

    def close(self) -> None:
        """Close once everything written has been sent."""
        if self._transport is not None:
            self._transport.close()

    def cut(self) -> None:
        """Break the connection without another byte."""
        if self._transport is not None:
            self._transport.abort()
