"""Connections to one server: idle ones are used again, and whenever none is idle another one is opened."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from urllib.parse import urlsplit

from pytest_llmperf.errors import LoadError, Where
from pytest_llmperf.load.exchange import Exchange, WireEnd
from pytest_llmperf.load.wire import Connection

_PROBE_S = 2.0

_NO_FILES, _NO_PORT = "too many open files", "no local port left"
CLIENT_FAULTS = frozenset({f"connect {_NO_FILES}", f"connect {_NO_PORT}"})
"""Errors of connecting that are this machine's and not the server's."""

_REASONS = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "reset",
    errno.ETIMEDOUT: "timeout",
    errno.EHOSTUNREACH: "host unreachable",
    errno.ENETUNREACH: "network unreachable",
    errno.EMFILE: _NO_FILES,
    errno.EADDRNOTAVAIL: _NO_PORT,
}


@dataclass(frozen=True)
class Address:
    """Where to connect: resolved once, before the clock starts. ``tls_name`` is the certificate's name, None for plain."""

    family: socket.AddressFamily
    sockaddr: tuple[str, int] | tuple[str, int, int, int]
    tls_name: str | None


def resolve(base_url: str) -> Address:
    """An address of a URL's host, the first that takes connections where it has several. Raises ``LoadError``."""
    url = urlsplit(base_url)
    place = Where(key=f"{url.scheme}://{url.netloc.rpartition('@')[2]}")
    if url.scheme not in {"http", "https"} or not url.hostname:
        raise LoadError("not an http or https URL", where=place)
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        found = socket.getaddrinfo(url.hostname, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise LoadError(f"the host cannot be resolved: {error.strerror}", where=place) from None
    tls_name = url.hostname if url.scheme == "https" else None
    addresses = [Address(family, sockaddr, tls_name) for family, _, _, _, sockaddr in found]  # type: ignore[arg-type]
    # "localhost" is ::1 first on many machines, where a server that listens on 127.0.0.1 is not.
    return next((address for address in addresses if len(addresses) > 1 and _listens(address)), addresses[0])


def _listens(address: Address) -> bool:
    with socket.socket(address.family, socket.SOCK_STREAM) as sock:
        sock.settimeout(_PROBE_S)
        return sock.connect_ex(address.sockaddr) == 0


class Pool:
    """Sends exchanges, each on a connection of its own for as long as it lasts; never waits for a free one."""

    def __init__(self, loop: asyncio.AbstractEventLoop, address: Address, on_end: Callable[[Exchange], None]) -> None:
        self._loop = loop
        self._address = address
        self._on_end = on_end
        self._tls = ssl.create_default_context() if address.tls_name is not None else None
        self._idle: list[Connection] = []
        self._busy: dict[Exchange, Connection] = {}
        self._opening: dict[Exchange, asyncio.Task[None]] = {}
        self.connect_failures = 0
        self.resent = 0

    def is_opening(self, exchange: Exchange) -> bool:
        """Whether the exchange still waits for its connection."""
        return exchange in self._opening

    def begin(self, exchange: Exchange) -> None:
        """Send on an idle connection, the one used last (the least likely to have been closed), else on a fresh one."""
        exchange.begun_s = monotonic()
        if self._idle:
            connection = self._idle.pop()
            self._busy[exchange] = connection
            exchange.connected_s = exchange.begun_s
            connection.send(exchange)
        else:
            self._open(exchange)

    def end(self, exchange: Exchange, end: WireEnd, error: str) -> None:
        """End an exchange in flight from outside: a timeout, the end of the run. Its connection is closed."""
        task = self._opening.pop(exchange, None)
        if task is not None:
            task.cancel()
        connection = self._busy.pop(exchange, None)
        if connection is not None:
            connection.drop()
        if end is WireEnd.CONNECT_FAILED:
            self.connect_failures += 1
        exchange.end, exchange.error, exchange.end_s = end, error, monotonic()
        self._on_end(exchange)

    def close(self) -> None:
        """Close the idle connections; none must be busy."""
        for connection in self._idle:
            connection.drop()
        self._idle.clear()

    # What a connection says.

    def finished(self, connection: Connection, exchange: Exchange) -> None:
        """Its exchange has ended."""
        del self._busy[exchange]
        if connection.reusable:
            self._idle.append(connection)
        else:
            connection.drop()
        self._on_end(exchange)

    def stale(self, exchange: Exchange) -> None:
        """It was closed before the response's first byte; a fresh one is not ``served`` and so cannot be stale again."""
        del self._busy[exchange]
        self.resent += 1
        exchange.restart()
        self._open(exchange)

    def lost(self, connection: Connection) -> None:
        """It was closed while idle."""
        if connection in self._idle:
            self._idle.remove(connection)

    def _open(self, exchange: Exchange) -> None:
        task = self._loop.create_task(self._connect(exchange))
        task.add_done_callback(raise_fault)
        self._opening[exchange] = task

    async def _connect(self, exchange: Exchange) -> None:
        sock: socket.socket | None = None
        try:
            sock = socket.socket(self._address.family, socket.SOCK_STREAM)
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.sock_connect(sock, self._address.sockaddr)
            plain = sock if self._tls is None else None
            _, connection = await self._loop.create_connection(
                lambda: Connection(self, plain), sock=sock, ssl=self._tls, server_hostname=self._address.tls_name
            )
        except asyncio.CancelledError:
            if sock is not None:
                sock.close()
            raise
        except OSError as error:
            if sock is not None:
                sock.close()
            self._connect_failed(exchange, error)
            return
        del self._opening[exchange]
        self._busy[exchange] = connection
        exchange.connected_s = monotonic()
        connection.send(exchange)

    def _connect_failed(self, exchange: Exchange, error: OSError) -> None:
        if isinstance(error, ssl.SSLCertVerificationError):
            reason = "certificate not trusted"
        elif isinstance(error, ssl.SSLError):
            reason = "tls"
        else:
            reason = _REASONS.get(error.errno or 0, errno.errorcode.get(error.errno or 0, type(error).__name__))
        self.end(exchange, WireEnd.CONNECT_FAILED, f"connect {reason}")


def raise_fault(task: asyncio.Task[None]) -> None:
    """Hand a fault of this program to the loop's exception handler: an unwatched task would keep it to itself."""
    if not task.cancelled() and (error := task.exception()) is not None:
        raise error
