"""A request to the API server: with timeouts, again while the server restarts, with fresh credentials where old ones expired."""

from __future__ import annotations

import builtins
import http.client
import json
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Event, Lock
from time import monotonic
from typing import Any, Self
from urllib.parse import urlencode
from weakref import WeakSet

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    TimeoutError,
)

from pytest_llmperf.deploy.base import Progress
from pytest_llmperf.deploy.kubernetes.api.credentials import Credentials
from pytest_llmperf.deploy.kubernetes.api.refusals import Asked, LoginError, UnreachableError, is_permission, read_status, refusal
from pytest_llmperf.errors import DeployError
from pytest_llmperf.secrets import HiddenBytes

CONNECT_S = 5.0
ANSWER_S = 20.0
RESTART_S = 60.0
"""How long an API server may be away: it is restarted, upgraded, or another one takes over."""
_SETTLING_S = 10.0
"""How long a server that does not say whether it is ready may refuse what it allows later."""
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0
_LONGEST_ASKED_PAUSE_S = 10.0
_TOO_MANY = 429
BUSY = {_TOO_MANY, 502, 503, 504}
"""Answers of a server, or of what stands before it, that may have another one later."""
_NO_ANSWER = (HTTPError, OSError)
"""What is raised when a request has none."""
_CONNECTIONS = 8
"""Kept open; more are made where they are needed."""
_CHUNK_BYTES = 2**16
_TLS_HINT = (
    "The kubeconfig's certificate-authority-data must be that of the server's certificate, and the URL's host one of its names "
    "(or tls-server-name)."
)
_HINT = "Does `kubectl get --raw /readyz` answer with the same kubeconfig? A VPN, a tunnel or a proxy may be needed."


@dataclass(frozen=True)
class Request:
    """What is sent, and how people name it."""

    asked: Asked
    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    body: Mapping[str, Any] | None = None
    content_type: str = "application/json"
    accept: str = "application/json"
    answer_s: float = ANSWER_S
    """How long the server may be silent."""

    @property
    def target(self) -> str:
        """The path with its query."""
        return f"{self.path}?{urlencode(self.query)}" if self.query else self.path

    @property
    def content(self) -> bytes | None:
        """The body's bytes. JSON is YAML too, which is what server-side apply takes."""
        return None if self.body is None else HiddenBytes(json.dumps(self.body).encode())


_READY = Request(Asked("get", "readyz"), "GET", "/readyz", accept="*/*")


@dataclass(frozen=True)
class Answer:
    """What the API server said yes with."""

    body: bytes
    date: str
    """The server's clock."""


@dataclass
class Attempts:
    """How often something was tried, and whether it is worth another: within ``patience_s`` from the first failure on."""

    on_trouble: Progress
    closed: Event
    patience_s: float = RESTART_S
    is_cut_off: bool = False
    """An attempt may have been carried out, and nobody knows."""
    is_denied: bool = False
    """A server that is ready has said that this user may not."""
    pause_s: float = _FIRST_PAUSE_S
    since: float | None = None

    def wait(self, error: DeployError, asked_s: float = 0.0) -> None:
        """Pause before the next. Raises ``error`` where there is none."""
        now = monotonic()
        if self.since is None:
            self.since = now
        pause_s = max(self.pause_s, min(asked_s, _LONGEST_ASKED_PAUSE_S))
        is_final = isinstance(error, UnreachableError) and error.is_final
        if is_final or self.closed.is_set() or now + pause_s > self.since + self.patience_s:
            raise error from None
        self.on_trouble(f"{error.what}; trying again")
        self.closed.wait(pause_s)
        self.pause_s = min(2 * self.pause_s, _LONGEST_PAUSE_S)

    def over(self) -> None:
        """It has worked."""
        if self.since is not None:
            self.on_trouble(f"the API server answers again, after {monotonic() - self.since:.0f} s")
        self.since, self.pause_s = None, _FIRST_PAUSE_S


class Stream:
    """An answer that goes on, until the server ends it."""

    def __init__(self, response: urllib3.BaseHTTPResponse, server: str) -> None:
        self._response = response
        self._server = server

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._response.close()

    def lines(self) -> Iterator[bytes]:
        """Line by line. Raises ``UnreachableError`` where the connection breaks; half a line then counts for nothing."""
        rest = b""
        try:
            for chunk in self._response.stream(_CHUNK_BYTES):
                *whole, rest = (rest + chunk).split(b"\n")
                yield from filter(None, whole)
        except _NO_ANSWER as error:
            raise _trouble(error, self._server) from None


class _Connections:
    """Those that are open, so that they can be cut while somebody waits for their answers."""

    def __init__(self) -> None:
        self.closed = Event()
        self._open: WeakSet[HTTPConnection] = WeakSet()
        self._turn = Lock()

    def opened(self, connection: HTTPConnection) -> None:
        """One more."""
        with self._turn:
            self._open.add(connection)
        if self.closed.is_set():
            _cut(connection)

    def cut(self) -> None:
        """Break all of them, and those that are opened from now on."""
        self.closed.set()
        with self._turn:
            known = list(self._open)
        for connection in known:
            _cut(connection)

    def pool_classes(self) -> dict[str, type[urllib3.HTTPConnectionPool]]:
        """What makes a pool's connections, by the URL's scheme."""
        opened = self.opened

        class Plain(HTTPConnection):
            def connect(self) -> None:
                super().connect()
                opened(self)

        class Secure(HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                opened(self)

        class PlainPool(urllib3.HTTPConnectionPool):
            ConnectionCls = Plain

        class SecurePool(urllib3.HTTPSConnectionPool):
            ConnectionCls = Secure

        return {"http": PlainPool, "https": SecurePool}


def _cut(connection: HTTPConnection) -> None:
    """Break a connection, whichever thread reads from it."""
    sock: socket.socket | None = connection.sock
    if sock is not None:
        # TLS's own shutdown would take the session from under the reader's hands.
        with suppress(OSError):
            socket.socket.shutdown(sock, socket.SHUT_RDWR)


@dataclass(eq=False)
class Transport:
    """Connections to one API server, for many threads. ``load`` reads the credentials anew."""

    load: Callable[[], Credentials]
    credentials: Credentials
    on_trouble: Progress
    _connections: _Connections = field(default_factory=_Connections)
    _turn: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        self._pool = self._made_pool()

    def another(self, on_trouble: Progress) -> Transport:
        """One with the same credentials, and connections of its own."""
        return Transport(self.load, self.credentials, on_trouble)

    def close(self) -> None:
        """Close all connections; whoever waits for an answer has none."""
        self._connections.cut()
        self._pool.clear()

    def attempts(self, patience_s: float | None = None) -> Attempts:
        """Patience with this server: for ``RESTART_S`` where nothing else is said."""
        return Attempts(self.on_trouble, self._connections.closed, RESTART_S if patience_s is None else patience_s)

    def ask(self, request: Request, patience_s: float | None = None) -> Answer:
        """The answer. Raises what ``refusals`` makes of a no; tries again for ``patience_s`` while nobody answers."""
        attempts = self.attempts(patience_s)
        while True:
            try:
                response = self._send(request, preload=True)
                if self._is_premature(response, request, attempts):
                    continue
            except _NO_ANSWER as error:
                attempts.wait(_trouble(error, self.credentials.server))
                attempts.is_cut_off |= not _is_unconnected(error)
                continue
            if response.status in BUSY or _is_passing(response):
                attempts.wait(refusal(read_status(response.status, response.data), request.asked), _asked_pause_s(response))
                # A gateway, or a database, that gave up waiting: the request may be carried out all the same.
                attempts.is_cut_off |= response.status != _TOO_MANY
                continue
            attempts.over()
            _check(response, request, is_repeated=attempts.is_cut_off)
            return Answer(response.data, response.headers.get("Date", ""))

    def open(self, request: Request, silence_s: float) -> Stream:
        """An answer that goes on; it breaks after ``silence_s`` without a byte. A server that is away is not waited for."""
        attempts = self.attempts()
        try:
            while self._is_premature(response := self._send(request, preload=False), request, attempts):
                pass
            _check(response, request)
        except _NO_ANSWER as error:
            raise _trouble(error, self.credentials.server) from None
        if (sock := _socket(response)) is not None:
            sock.settimeout(silence_s)
        return Stream(response, self.credentials.server)

    def _is_premature(self, response: urllib3.BaseHTTPResponse, request: Request, attempts: Attempts) -> bool:
        """Whether a refusal may be that of a server that has just started: at first it knows of nobody's permissions.

        It then says that it is not ready; one that is ready is asked a second time. Pauses where that is of use.
        """
        if response.status != 403 or attempts.is_denied or not is_permission(status := read_status(403, response.data)):
            return False
        ready = self._once(_READY, self.credentials, preload=True).status
        if ready == 200:
            attempts.is_denied = True
            return True
        if ready < 500 and attempts.since is not None and monotonic() > attempts.since + _SETTLING_S:
            return False
        attempts.wait(refusal(status, request.asked))
        return True

    def _send(self, request: Request, *, preload: bool) -> urllib3.BaseHTTPResponse:
        """Send it; once more, with credentials read anew, where they have expired."""
        credentials = self.credentials
        response = self._once(request, credentials, preload=preload)
        if response.status != 401:
            return response
        response.drain_conn()
        self._log_in_again(credentials)
        response = self._once(request, self.credentials, preload=preload)
        if response.status == 401:
            response.drain_conn()
            known = self.credentials
            what = f"{known.server} does not accept the credentials of the context {known.context!r} (any more)"
            raise LoginError(what, hint=known.login, state="401 Unauthorized")
        return response

    def _log_in_again(self, failed: Credentials) -> None:
        """Read the credentials anew, unless another thread has done so meanwhile."""
        with self._turn:
            if self.credentials is failed:
                former = self._pool
                self.credentials = self.load()
                self._pool = self._made_pool()
                former.clear()

    def _made_pool(self) -> urllib3.PoolManager:
        known = self.credentials
        kept: dict[str, Any] = {"num_pools": 2, "maxsize": _CONNECTIONS}
        if known.tls is not None:
            kept["ssl_context"] = known.tls
            # Else what the context says (insecure-skip-tls-verify) would be overruled.
            kept["cert_reqs"] = known.tls.verify_mode
        if known.server_name is not None:
            kept["server_hostname"] = known.server_name
        pool = urllib3.PoolManager(**kept) if known.proxy is None else urllib3.ProxyManager(known.proxy, **kept)
        pool.pool_classes_by_scheme = self._connections.pool_classes()
        return pool

    def _once(self, request: Request, credentials: Credentials, *, preload: bool) -> urllib3.BaseHTTPResponse:
        headers = {"Accept": request.accept, "User-Agent": "pytest-llmperf", **credentials.headers()}
        if request.body is not None:
            headers["Content-Type"] = request.content_type
        return self._pool.request(
            request.method,
            credentials.server + request.target,
            body=request.content,
            headers=headers,
            timeout=urllib3.Timeout(connect=min(CONNECT_S, request.answer_s), read=request.answer_s),
            retries=False,
            preload_content=preload,
        )


def _socket(response: urllib3.BaseHTTPResponse) -> socket.socket | None:
    """Through which a response comes; None of one that has come."""
    connection = response.connection
    return connection.sock if isinstance(connection, HTTPConnection) else None


def _is_unconnected(error: Exception) -> bool:
    """Whether nothing was sent."""
    return isinstance(error, NewConnectionError | ConnectTimeoutError)


def _trouble(error: Exception, server: str) -> UnreachableError:
    """The error of a server that did not answer, as people know it."""
    cause = _root(error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return _final(f"{server}: its certificate is not to be trusted: {cause.verify_message or cause}", _TLS_HINT)
    if isinstance(cause, ssl.SSLError) and "WRONG_VERSION_NUMBER" in str(cause):
        return _final(f"{server} does not speak TLS", "Is it the API server's URL? A proxy's may want http://.")
    if isinstance(error, NameResolutionError):
        why = "its name cannot be resolved"
    elif isinstance(cause, ConnectionRefusedError):
        why = "connection refused"
    elif isinstance(error, TimeoutError) or isinstance(cause, builtins.TimeoutError):
        why = "no answer in time"
    elif isinstance(cause, ConnectionError | ProtocolError | http.client.IncompleteRead):
        why = "the connection was cut"
    else:
        why = str(cause).strip() or type(cause).__name__
    return UnreachableError(f"{server} cannot be reached: {why}", hint=_HINT)


def _final(what: str, hint: str) -> UnreachableError:
    error = UnreachableError(what, hint=hint)
    error.is_final = True
    return error


def _root(error: BaseException) -> BaseException:
    """What lies at the bottom of an exception that others were made of."""
    context = None if error.__suppress_context__ else error.__context__
    inner = error.__cause__ or getattr(error, "reason", None) or context
    return _root(inner) if isinstance(inner, BaseException) else error


def _check(response: urllib3.BaseHTTPResponse, request: Request, *, is_repeated: bool = False) -> None:
    if response.status >= 300:
        error = refusal(read_status(response.status, response.data), request.asked)
        error.is_repeated = is_repeated
        raise error


def _is_passing(response: urllib3.BaseHTTPResponse) -> bool:
    """An error of the server's that goes by: its database has a new leader."""
    return response.status == 500 and b"etcdserver: " in response.data


def _asked_pause_s(response: urllib3.BaseHTTPResponse) -> float:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isdecimal() else 0.0
