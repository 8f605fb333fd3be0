"""A real HTTP server whose pages behave as a test says, by their paths; it remembers what it was asked."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Pages(ThreadingHTTPServer):
    """``/page`` counts up, ``/bad`` answers 500, ``/endless`` never ends, ``/silent`` says nothing, ``/drip`` says a header
    now and then for ever, others are not there."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[str, str | None]] = []
        self.ended = threading.Event()
        self.lines = b""

    def url(self, path: str) -> str:
        """Of one of its pages."""
        return f"http://127.0.0.1:{self.server_port}{path}"


class _Handler(BaseHTTPRequestHandler):
    server: Pages
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("authorization")))
        match self.path:
            case "/page":
                self._send(200, b"vllm:num_requests_running %d\n" % len(self.server.asked) + self.server.lines)
            case "/gpus":
                self._send(200, self.server.lines)
            case "/bad":
                self._send(500, b"sorry, secret-token is not known")
            case "/endless":
                self.send_response(200)
                self.end_headers()
                with suppress(ConnectionError):
                    while not self.server.ended.is_set():
                        self.wfile.write(b"x" * 65536)
            case "/silent":
                self.server.ended.wait(30)
            case "/drip":
                self.send_response(200)
                with suppress(ConnectionError):
                    while not self.server.ended.wait(0.01):
                        self.send_header("x", "y")
                        self.flush_headers()
            case _:
                self._send(404, b"")

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextmanager
def pages_server() -> Iterator[Pages]:
    """A server that lives as long as the block."""
    with Pages() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.ended.set()
        server.shutdown()
        thread.join()
