"""An HTTP server on the loopback that answers as it is told: an API server that restarts, forgets, breaks off."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

from pytest_llmperf.deploy.kubernetes.api.client import KubeApi
from pytest_llmperf.deploy.kubernetes.api.credentials import Credentials
from pytest_llmperf.deploy.kubernetes.api.transport import Transport


@dataclass(frozen=True)
class Reply:
    """One answer. ``is_cut``: none, the connection is closed; ``lines``: a watch, that ``stays`` open, or ``breaks`` off."""

    status: int = 200
    body: object = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    is_cut: bool = False
    lines: Sequence[object] | None = None
    stays: bool = False
    breaks: bool = False


CUT = Reply(is_cut=True)


def status(code: int, reason: str, message: str, **details: object) -> Reply:
    """A refusal as the API server writes it."""
    return Reply(code, {"kind": "Status", "code": code, "reason": reason, "message": message, "details": details})


@dataclass(frozen=True)
class Heard:
    """A request as it came."""

    method: str
    path: str
    authorization: str
    body: Any


class ScriptedApi(ThreadingHTTPServer):
    """The replies in their order, the last one for ever; where there is a ``watched``, that is what watches get."""

    daemon_threads = True

    def __init__(self, replies: Sequence[Reply], certificate: Path | None = None, watched: Reply | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.scheme = "http"
        if certificate is not None:
            self.scheme = "https"
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(certificate)
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.replies = list(replies)
        self.watched = watched
        self.heard: list[Heard] = []
        self.ended = Event()

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: object) -> None:
        """Nothing: a client that hangs up, or wants TLS, is what the tests are about."""

    def next_reply(self, path: str) -> Reply:
        if self.watched is not None and "watch=true" in path:
            return self.watched
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]

    @property
    def asked(self) -> list[str]:
        """Method and path of each request."""
        return [f"{one.method} {one.path.partition('?')[0]}" for one in self.heard]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ScriptedApi

    def _answer(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = json.loads(content) if content else None
        self.server.heard.append(Heard(self.command, self.path, self.headers.get("Authorization", ""), body))
        reply = self.server.next_reply(self.path)
        if reply.is_cut:
            self.close_connection = True
        elif reply.lines is not None:
            self._stream(reply, reply.lines)
        else:
            self._send(reply)

    def _send(self, reply: Reply) -> None:
        content = reply.body.encode() if isinstance(reply.body, str) else json.dumps(reply.body).encode()
        self.send_response(reply.status)
        for name, value in {**reply.headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _stream(self, reply: Reply, lines: Sequence[object]) -> None:
        self.send_response(reply.status)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for line in lines:
            text = json.dumps(line).encode() + b"\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(text), text))
        self.wfile.flush()
        if reply.breaks:
            self.close_connection = True
        elif reply.stays:
            self.server.ended.wait()
            self.close_connection = True
        else:
            self.wfile.write(b"0\r\n\r\n")

    do_GET = do_POST = do_PATCH = do_DELETE = _answer  # noqa: N815  (names that http.server gives)

    def log_message(self, *_: object) -> None:
        """Nothing: the test says what it saw."""


@contextmanager
def scripted_api(*replies: Reply, certificate: Path | None = None, watched: Reply | None = None) -> Iterator[ScriptedApi]:
    """One that serves until the block ends."""
    with ScriptedApi(replies, certificate, watched) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.ended.set()
            server.shutdown()
            thread.join(10)


class Tokens:
    """What the library's configuration says of who asks."""

    def __init__(self, token: str) -> None:
        self.token = token

    def auth_settings(self) -> Mapping[str, Mapping[str, str]]:
        """As the library's does."""
        return {"BearerToken": {"value": f"Bearer {self.token}"}}


def credentials(url: str, token: str = "t0ken-0123456789", tls: ssl.SSLContext | None = None) -> Credentials:
    """Those of a server at ``url``."""
    return Credentials(url, "here", False, tls, None, None, "Log in again.", Tokens(token))


def api_at(url: str, told: list[str] | None = None, *later: Credentials, tls: ssl.SSLContext | None = None) -> KubeApi:
    """The API server at ``url``; ``later`` is what reading the credentials anew gives, time after time."""
    first = credentials(url, tls=tls)
    found = iter(later)
    heard: list[str] = [] if told is None else told
    return KubeApi(Transport(lambda: next(found, first), first, heard.append))
