"""Opening a connection: the packet that asks for it leaves when the request is begun, with no turn of the event loop between.

How long the client then let a connection wait that stood already is the kernel's to say: it knows when it last heard of the
server. So a client that is busy opening many connections is not taken for a server that is slow to accept them.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
import sys
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from pytest_llmperf.load.wire import Connection, ConnectionOwner, PlainConnection, TlsConnection

if TYPE_CHECKING:
    from pytest_llmperf.load.exchange import Exchange
    from pytest_llmperf.load.inflow import Inflow
    from pytest_llmperf.load.pool import Address

_UNDER_WAY = frozenset({0, errno.EINPROGRESS, errno.EWOULDBLOCK})
_INFO_BYTES = 60
_ESTABLISHED = 1
_UNKNOWN = float("nan")


class _Since:
    """Where ``struct tcp_info`` says how many milliseconds ago something came, to a tick of the kernel (1 to 10 ms)."""

    DATA, ACKNOWLEDGEMENT = 52, 56


class DialOwner(ConnectionOwner, Protocol):
    """Who is told what comes of it."""

    def opened(self, exchange: Exchange, connection: Connection) -> None:
        """The connection stands, and nothing has been sent on it."""
        ...

    def not_opened(self, exchange: Exchange, error: OSError) -> None:
        """It cannot be had. Never told before ``begin`` has returned."""
        ...


class Dial:
    """The opening of one connection, which an exchange waits for."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, inflow: Inflow, address: Address, owner: DialOwner, exchange: Exchange
    ) -> None:
        self._loop = loop
        self._inflow = inflow
        self._address = address
        self._owner = owner
        self._exchange = exchange
        self._sock: socket.socket | None = None
        self._watched = False
        self._later: asyncio.Task[None] | asyncio.Handle | None = None

    def begin(self) -> None:
        """Ask for it at this very moment. A server on the same machine has then often answered already."""
        try:
            self._sock = sock = socket.socket(self._address.family, socket.SOCK_STREAM)
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            fault = sock.connect_ex(self._address.sockaddr)
        except OSError as error:
            self._close()
            self._later = self._loop.call_soon(self._fail, error)
            return
        if fault not in _UNDER_WAY:
            self._close()
            self._later = self._loop.call_soon(self._fail, OSError(fault, os.strerror(fault)))
        elif self._address.tls is not None:
            self._later = task = self._loop.create_task(self._secure(sock))
            task.add_done_callback(self._secured)
        elif _stands(sock):
            self._owner.opened(self._exchange, PlainConnection(self._owner, sock, self._inflow))
        else:
            self._watched = True
            self._inflow.await_open(sock, self._answered)

    def cancel(self) -> None:
        """It is not wanted any more."""
        if self._later is not None:
            # A handshake's socket is the loop's to let go of: it is closed when that has been.
            self._later.cancel()
        else:
            self._close()

    def _answered(self) -> None:
        sock = self._sock
        assert sock is not None
        if fault := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._fail(OSError(fault, os.strerror(fault)))
            return
        self._exchange.opening_delay_s = _waited_s(sock, _Since.ACKNOWLEDGEMENT)
        self._owner.opened(self._exchange, PlainConnection(self._owner, sock, self._inflow))

    async def _secure(self, sock: socket.socket) -> None:
        """The handshake is the loop's work. Its last step waits for the server's last word as the first did for its first."""
        made: TlsConnection
        try:
            await self._answer(sock)
            delay_s = _waited_s(sock, _Since.ACKNOWLEDGEMENT)
            _, made = await self._loop.create_connection(
                lambda: TlsConnection(self._owner), sock=sock, ssl=self._address.tls, server_hostname=self._address.tls_name
            )
        except OSError as error:
            self._fail(error)
            return
        # The server may have said more since (TLS 1.3's tickets); then it is at least what has passed on this side.
        last_s = max(_waited_s(sock, _Since.DATA), monotonic() - made.made_s)
        self._exchange.opening_delay_s = delay_s + last_s
        self._owner.opened(self._exchange, made)

    def _secured(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            self._close()
        raise_fault(task)

    async def _answer(self, sock: socket.socket) -> None:
        answered = self._loop.create_future()
        self._loop.add_writer(sock.fileno(), _settle, answered)
        try:
            await answered
        finally:
            self._loop.remove_writer(sock.fileno())
        if fault := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(fault, os.strerror(fault))

    def _fail(self, error: OSError) -> None:
        self._close()
        self._owner.not_opened(self._exchange, error)

    def _close(self) -> None:
        if self._sock is not None:
            if self._watched:
                self._inflow.remove(self._sock)
            self._sock.close()
            self._sock = None


def raise_fault(task: asyncio.Task[None]) -> None:
    """Hand a fault of this program to the loop's exception handler: an unwatched task would keep it to itself."""
    if not task.cancelled() and (error := task.exception()) is not None:
        raise error


def _settle(answered: asyncio.Future[None]) -> None:
    if not answered.done():
        answered.set_result(None)


def _stands(sock: socket.socket) -> bool:
    info = _info(sock)
    return bool(info) and info[0] == _ESTABLISHED


def _waited_s(sock: socket.socket, since: int) -> float:
    """How long ago what ``since`` names came from the server; nan where nobody says."""
    info = _info(sock)
    return float(struct.unpack_from("@I", info, since)[0]) / 1000 if info else _UNKNOWN


def _info(sock: socket.socket) -> bytes:
    """The beginning of ``struct tcp_info``, which is the same on every Linux; empty elsewhere."""
    if sys.platform == "linux":
        with suppress(OSError):
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
            return info if len(info) == _INFO_BYTES else b""
    return b""
