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

from pytest_llmperf.deploy.base import Endpoint
from pytest_llmperf.errors import LoadError, Where
from pytest_llmperf.load.dial import Dial
from pytest_llmperf.load.exchange import Exchange, WireEnd
from pytest_llmperf.load.inflow import Inflow
from pytest_llmperf.load.wire import Connection

_PROBE_S = 2.0

_NO_FILES, _NO_PORT = "too many open files", "no local port left"
TIMEOUT = "timeout connect"
CLIENT_FAULTS = frozenset({f"connect {_NO_FILES}", f"connect {_NO_PORT}"})
"""Errors of connecting that are this machine's and not the server's."""

_REASONS = {
    errno.ECONNREFUSED: "refused",
    errno.EHOSTUNREACH: "host unreachable",
    errno.ENETUNREACH: "network unreachable",
    errno.EMFILE: _NO_FILES,
    errno.EADDRNOTAVAIL: _NO_PORT,
}


@dataclass(frozen=True)
class Address:
    """Where to connect: resolved once, before the clock starts. ``tls`` and the certificate's name are None for plain."""

    family: socket.AddressFamily
    sockaddr: tuple[str, int] | tuple[str, int, int, int]
    tls: ssl.SSLContext | None = None
    tls_name: str | None = None


def resolve(endpoint: Endpoint) -> Address:
    """An address of an endpoint's host, the first that takes connections where it has several. Raises ``LoadError``."""
    url = urlsplit(endpoint.base_url)
    place = Where(key=f"{url.scheme}://{url.netloc.rpartition('@')[2]}")
    if url.scheme not in {"http", "https"} or not url.hostname:
        raise LoadError("not an http or https URL", where=place)
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        found = socket.getaddrinfo(url.hostname, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise LoadError(f"the host cannot be resolved: {error.strerror}", where=place) from None
    tls, tls_name = (_tls_context(endpoint, place), url.hostname) if url.scheme == "https" else (None, None)
    addresses = [Address(family, sockaddr, tls, tls_name) for family, _, _, _, sockaddr in found]  # type: ignore[arg-type]
    # "localhost" is ::1 first on many machines, where a server that listens on 127.0.0.1 is not.
    return next((address for address in addresses if len(addresses) > 1 and _listens(address)), addresses[0])


def _tls_context(endpoint: Endpoint, place: Where) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=endpoint.ca_file)
    except OSError as error:
        reason = error.strerror if not isinstance(error, ssl.SSLError) else "it holds no certificate"
        raise LoadError(f"certificates cannot be read from {endpoint.ca_file}: {reason}", where=place) from None
    if not endpoint.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _listens(address: Address) -> bool:
    with socket.socket(address.family, socket.SOCK_STREAM) as sock:
        sock.settimeout(_PROBE_S)
        return sock.connect_ex(address.sockaddr) == 0


class Pool:
    """Sends exchanges, each on a connection of its own for as long as it lasts; never waits for a free one."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, inflow: Inflow, address: Address, on_end: Callable[[Exchange], None]
    ) -> None:
        self._loop = loop
        self._address = address
        self._on_end = on_end
        self._inflow = inflow
        self._idle: list[Connection] = []
        self._busy: dict[Exchange, Connection] = {}
        self._opening: dict[Exchange, Dial] = {}
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
        dial = self._opening.pop(exchange, None)
        if dial is not None:
            dial.cancel()
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

    # What a dial says.

    def opened(self, exchange: Exchange, connection: Connection) -> None:
        """Its connection stands."""
        del self._opening[exchange]
        self._busy[exchange] = connection
        exchange.connected_s = monotonic()
        connection.send(exchange)

    def not_opened(self, exchange: Exchange, error: OSError) -> None:
        """It cannot have one."""
        if isinstance(error, ssl.SSLCertVerificationError):
            reason = "connect certificate not trusted"
        elif isinstance(error, ssl.SSLError):
            reason = "connect tls"
        elif error.errno == errno.ETIMEDOUT:
            reason = TIMEOUT
        elif isinstance(error, ConnectionResetError):
            # Where it happens during the handshake it has no number.
            reason = "connect reset"
        else:
            reason = f"connect {_REASONS.get(error.errno or 0, errno.errorcode.get(error.errno or 0, type(error).__name__))}"
        self.end(exchange, WireEnd.CONNECT_FAILED, reason)

    def _open(self, exchange: Exchange) -> None:
        dial = self._opening[exchange] = Dial(self._loop, self._inflow, self._address, self, exchange)
        dial.begin()
