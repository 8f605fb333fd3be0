"""A chatbot that is not OpenAI-compatible, on the loopback: one path, a Bearer token, its own JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

PATH = "/api/prediction/chat"
TOKEN = "cb-s3cret-token"
ANSWER = ["Our ", "café ", "opens ", "at nine."]


class Chatbot(ThreadingHTTPServer):
    """Keeps what it was asked: path, headers and body of each accepted request."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, elsewhere: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.elsewhere = elsewhere
        self.asked: list[tuple[str, dict[str, str], Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def questions(self) -> list[str]:
        return [body["question"] for _, _, body in self.asked]


class _Handler(BaseHTTPRequestHandler):
    server: Chatbot
    protocol_version = "HTTP/1.1"
    # Else the second write of an answer waits for the acknowledgement of the first.
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._json(405 if self.path == PATH else self.server.elsewhere, {"detail": "Not Found"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path, _, how = self.path.partition("?")
        if path != PATH:
            self._json(self.server.elsewhere, {"detail": "Not Found"})
        elif self.headers["Authorization"] != f"Bearer {TOKEN}":
            self._json(401, {"detail": f"not welcome: {self.headers['Authorization']}"})
        else:
            self.server.asked.append((self.path, dict(self.headers), json.loads(body)))
            getattr(self, f"_{how or 'whole'}")()

    def _whole(self) -> None:
        self._json(200, {"data": {"answers": [{"text": "".join(ANSWER)}]}})

    def _counted(self) -> None:
        self._json(200, {"data": {"answers": [{"text": "".join(ANSWER)}]}, "meta": {"in": 11, "out": 7}})

    def _events(self) -> None:
        events = [b"event: metadata\ndata: {}\n\n", *(b'data: {"delta": %b}\n\n' % json.dumps(word).encode() for word in ANSWER)]
        self._chunks("text/event-stream", events)

    def _text(self) -> None:
        self._chunks("text/plain", [word.encode() for word in ANSWER])

    def _json(self, status: int, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _chunks(self, content_type: str, chunks: list[bytes]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for chunk in [*chunks, b""]:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            self.wfile.flush()

    def log_message(self, *_: object) -> None:
        """Nothing: the test says what it saw."""


@contextmanager
def chatbot(elsewhere: int = 404) -> Iterator[Chatbot]:
    """A chatbot that lives as long as the block; paths but its own are answered with the status ``elsewhere``."""
    with Chatbot(elsewhere) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(10)
