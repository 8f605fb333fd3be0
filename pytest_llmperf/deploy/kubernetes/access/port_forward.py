"""A port of this machine that leads to a port of pods, by way of the API server.

Every connection has a websocket of its own, so that what befalls one does not befall the others, and goes to one of the pods
that are ready at that moment. The work is done by a process of its own (``port_forward_process``), which asks this one only which
pods there are and with what credentials.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from tempfile import TemporaryFile
from threading import Event, Lock, Thread
from time import monotonic, perf_counter
from typing import TYPE_CHECKING

from pytest_llmperf.deploy.kubernetes.access.port_forward_messages import HOST, Aim, Order
from pytest_llmperf.deploy.kubernetes.api.credentials import Credentials
from pytest_llmperf.errors import DeployError, LlmperfError
from pytest_llmperf.secrets import HiddenBytes, masked_text

if TYPE_CHECKING:
    from pytest_llmperf.deploy.kubernetes.api.client import KubeApi

START_S = 30.0
END_S = 5.0
SPARES = 8
"""Tunnels that are open already when a connection comes: opening one takes several times as long as a request's way."""
ROUND_TRIPS = 50
ROUND_TRIPS_S = 0.3
"""No more round trips are begun after this."""
_ANSWER_S = 5.0
_LOG_TAIL_BYTES = 4096
_INHERITED = (
    "HOME",
    "LD_LIBRARY_PATH",
    "OPENSSL_CONF",
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONHOME",
    "PYTHONUSERBASE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TMPDIR",
)
"""All that its process needs of the environment: what Python starts with, the system's authorities, a place for a key."""


@dataclass(frozen=True)
class RoundTrip:
    """How long requests take that ask for nothing, over a connection that is open, and how long opening one takes."""

    p50_s: float
    p99_s: float
    opening_s: float
    count: int


class PortForward:
    """``url`` leads to the pods' ``port`` until it is closed. ``pods`` says which of them are ready now; threads may call it."""

    def __init__(
        self,
        api: KubeApi,
        namespace: str,
        pods: Callable[[], Sequence[str]],
        port: int,
        *,
        spares: int = SPARES,
    ) -> None:
        """Start it. Raises ``DeployError`` where that cannot be done."""
        self._api = api
        self._pods = pods
        self._port = 0
        self._error = ""
        self._failures = 0
        self._last_failure = ""
        self._is_closed = False
        self._telling = Lock()
        self._settled = Event()
        self._log = TemporaryFile()  # noqa: SIM115  (closed with the rest)
        order = replace(order_of(api.credentials, namespace, port), spares=spares)
        self._process = _start(self._log.fileno())
        self._listener = Thread(target=self._listen, name="llmperf-port-forward", daemon=True)
        self._listener.start()
        try:
            self._tell(HiddenBytes(order.line()))
            self._settled.wait(START_S)
            if not self._port:
                why = self._error or self.lost() or f"its process did not start within {START_S:.0f} s"
                raise DeployError(f"the port-forward to {namespace!r} cannot be started: {why}")
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{HOST}:{self._port}"

    @property
    def process_id(self) -> int:
        """The process that does the work."""
        return self._process.pid

    @property
    def failures(self) -> str | None:
        """What went wrong on the way since it was started, the last of it in full; None where nothing did."""
        if (end := self.lost()) is not None:
            return end
        if not self._failures:
            return None
        count = "a connection" if self._failures == 1 else f"{self._failures} connections"
        return f"the port-forward lost {count}, the last for this reason: {self._last_failure}"

    def lost(self) -> str | None:
        """How its process ended, or None while it runs."""
        if self._is_closed or (code := self._process.poll()) is None:
            return None
        return f"the port-forward's process ended with status {code}{self._last_words()}"

    def round_trip(self, path: str = "/health") -> RoundTrip | None:
        """Asked through it for a path whose answer costs nothing. None where no server answers."""
        try:
            return round_trip(HOST, self._port, path)
        except OSError:
            return None

    def close(self) -> None:
        """End it, with all connections. Safe to call twice."""
        with self._telling:
            if self._is_closed:
                return
            self._is_closed = True
            assert self._process.stdin is not None
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        # It may be asking an API server that is away, and ends when that has been settled.
        self._listener.join(END_S)
        self._log.close()

    def __enter__(self) -> PortForward:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _listen(self) -> None:
        """What the process says, until it has ended."""
        assert self._process.stdout is not None
        with self._process.stdout as said:
            for line in said:
                message = json.loads(line)
                if "asks" in message:
                    self._tell(HiddenBytes(self._aim().line()))
                elif "failed" in message:
                    self._failures, self._last_failure = self._failures + 1, masked_text(message["failed"])
                else:
                    self._port, self._error = message.get("listens", 0), masked_text(message.get("error", ""))
                    self._settled.set()
        self._settled.set()

    def _aim(self) -> Aim:
        try:
            pods = tuple(self._pods())  # asked first: where credentials have expired, they are read anew for this
            return Aim(pods, self._api.credentials.headers(), self._api.credentials.certificate)
        except LlmperfError as error:
            return Aim(error=error.what)

    def _tell(self, line: HiddenBytes) -> None:
        with self._telling:
            if self._is_closed:
                return
            assert self._process.stdin is not None
            # A process that has gone is noticed elsewhere.
            with suppress(BrokenPipeError):
                self._process.stdin.write(line)
                self._process.stdin.flush()

    def _last_words(self) -> str:
        size = os.fstat(self._log.fileno()).st_size
        tail = os.pread(self._log.fileno(), _LOG_TAIL_BYTES, max(0, size - _LOG_TAIL_BYTES))
        lines = tail.decode(errors="replace").strip().splitlines()
        return f": {masked_text(lines[-1])}" if lines else ""


def order_of(credentials: Credentials, namespace: str, port: int) -> Order:
    """What its process is to know of the way to the API server. Raises ``DeployError`` for one that it cannot go."""
    configuration, tls = credentials.configuration, credentials.tls
    if (credentials.proxy or "").startswith("https:"):
        hint = "Reach the deployment in another way: --llmperf-reach, or --llmperf-url."
        raise DeployError("a port-forward cannot go through a proxy that is itself spoken to by TLS (https://)", hint=hint)
    # Without an authority of its own the system's are trusted, which that process finds by itself.
    trusted = tls.get_ca_certs(binary_form=True) if tls is not None and configuration.ssl_ca_cert else []
    return Order(
        server=credentials.server,
        namespace=namespace,
        port=port,
        server_name=credentials.server_name,
        proxy=credentials.proxy,
        authorities="".join(map(ssl.DER_cert_to_PEM_cert, trusted)),
        certificate=credentials.certificate,
        verify=tls is None or tls.verify_mode != ssl.CERT_NONE,
    )


def round_trip(host: str, port: int, path: str) -> RoundTrip:
    """Ask a server for one thing again and again. Raises ``OSError`` where it does not answer."""
    request = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()
    began_s = perf_counter()
    with socket.create_connection((host, port), _ANSWER_S) as opened:
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # The first one waits for the connection: it stands here before it does over there.
        first_s = _asked(opened, request) - began_s
        trips_s: list[float] = []
        stop_s = monotonic() + ROUND_TRIPS_S
        while len(trips_s) < ROUND_TRIPS and (not trips_s or monotonic() < stop_s):
            began_s = perf_counter()
            trips_s.append(_asked(opened, request) - began_s)
    trips_s.sort()
    p50_s, p99_s = (trips_s[ceil(quantile * len(trips_s)) - 1] for quantile in (0.5, 0.99))
    return RoundTrip(p50_s, p99_s, max(0.0, first_s - p50_s), len(trips_s))


def _asked(opened: socket.socket, request: bytes) -> float:
    """When the answer's first byte was there; all of the answer is, when this returns."""
    opened.sendall(request)
    held = _received(opened)
    arrived_s = perf_counter()
    while b"\r\n\r\n" not in held:
        held += _received(opened)
    head, _, body = held.partition(b"\r\n\r\n")
    fields = dict(line.partition(b":")[::2] for line in head.lower().split(b"\r\n"))
    if b"content-length" in fields:
        wanted = int(fields[b"content-length"])
        while len(body) < wanted:
            body += _received(opened)
    elif fields.get(b"transfer-encoding", b"").strip() == b"chunked":
        while not body.endswith(b"0\r\n\r\n"):
            body += _received(opened)
    else:
        raise ConnectionError("nobody can say where the answer ends")
    return arrived_s


def _received(opened: socket.socket) -> bytes:
    data = opened.recv(65_536)
    if not data:
        raise ConnectionError("the server closed the connection")
    return data


def _start(log: int) -> subprocess.Popen[bytes]:
    # -P: a file of the user's working directory must not shadow a module of it. A session of its own: no Ctrl-C.
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "pytest_llmperf.deploy.kubernetes.access.port_forward_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        env=environment_of(os.environ),
        start_new_session=True,
    )


def environment_of(environ: Mapping[str, str]) -> dict[str, str]:
    """What its process has in its environment. The rest is none of its business: tokens, above all."""
    inherited = {name: environ[name] for name in _INHERITED if environ.get(name)}
    root = str(Path(__file__).parents[4])
    return {**inherited, "PYTHONPATH": os.pathsep.join(filter(None, [root, environ.get("PYTHONPATH")]))}
