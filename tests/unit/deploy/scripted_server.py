"""A real HTTP server on the loopback that answers each path as it is told: servers that misbehave."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

Reply = tuple[int, object]
MODELS: Reply = (200, {"data": [{"id": "m-one"}, {"id": "m-two"}]})
COMPLETION: Reply = (200, {"choices": [{"text": "x"}]})
GOOD: Mapping[str, Sequence[Reply]] = {
    "/health": [(200, "")],
    "/v1/models": [MODELS],
    "/v1/completions": [COMPLETION],
    "/version": [(200, {"version": "1.2.3"})],
}


class ScriptedServer(ThreadingHTTPServer):
    """Each path's replies in order, the last one for ever; 404 for a path that has none."""

    def __init__(self, script: Mapping[str, Sequence[Reply]], certificate: Path | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self._scheme = "http"
        if certificate is not None:
            self._scheme = "https"
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(certificate)
            # A handshake belongs to its connection's thread: one that fails must not stop the server.
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.replies = {path: list(replies) for path, replies in script.items()}
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.server_address[1]}"

    def next_reply(self, path: str) -> Reply:
        self.asked.append(path)
        replies = self.replies.get(path, [(404, "no such path")])
        return replies.pop(0) if len(replies) > 1 else replies[0]


class _Handler(BaseHTTPRequestHandler):
    server: ScriptedServer

    def _answer(self) -> None:
        asked = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, body = self.server.next_reply(self.path)
        if body == "echo the credential":
            body = f"bad credential: {self.headers['Authorization']} {self.headers['X-Tenant']}"
        if isinstance(body, str) and body in {"no stream_options", "no continuous_usage_stats"}:
            refused = body.removeprefix("no ").encode() in asked
            status, body = (400, "extra fields not permitted") if refused else COMPLETION
        content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        if isinstance(body, str) and body.startswith("<html>"):
            self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = _answer  # noqa: N815  (names that http.server gives)

    def log_message(self, *_: object) -> None:
        """Nothing: the test says what it saw."""


@contextmanager
def scripted_server(certificate: Path | None = None, /, **script: Sequence[Reply]) -> Iterator[ScriptedServer]:
    """A good server, but for the paths named: ``health=[(503, "loading"), (200, "")]``; ``v1__models`` is ``/v1/models``.

    Over TLS where there is a ``certificate`` (a file with its key).
    """
    changed = {"/" + name.replace("__", "/"): replies for name, replies in script.items()}
    with ScriptedServer({**GOOD, **changed}, certificate) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(10)
