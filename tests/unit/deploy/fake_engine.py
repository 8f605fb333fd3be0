"""A program that serves like an engine, or fails like one: ``python fake_engine.py --port N [what is wrong with it]``."""

from __future__ import annotations

import argparse
import errno
import json
import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path


class _Handler(BaseHTTPRequestHandler):
    options: argparse.Namespace

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        options = self.options
        if options.api_key and self.headers["Authorization"] != f"Bearer {options.api_key}":
            self._reply(401, {"error": "no key"})
        elif self.path == "/v1/models":
            self._reply(200, {"data": [{"id": options.served_model}]})
        elif self.path == "/v1/completions" and options.die_on_completion:
            print("CUDA error: out of memory", flush=True)
            os._exit(3)
        elif self.path == "/health" and options.core is not None and not Path(f"/proc/{options.core}").exists():
            self._reply(503, {})
        else:
            self._reply(200, {"version": "9.9", "choices": [{"text": "x"}]})

    do_GET = do_POST = _answer  # noqa: N815  (names that http.server gives)

    def _reply(self, status: int, body: object) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _child(pid_file: str, *, deaf: bool) -> None:
    """A process in a session of its own that outlives whoever started it; a ``deaf`` one ignores SIGTERM."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            if deaf:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            path = Path(pid_file)
            path.with_suffix(".new").write_text(str(os.getpid()))
            path.with_suffix(".new").rename(path)
            while True:
                signal.pause()
        os._exit(0)
    os.wait()
    while not Path(pid_file).exists():
        time.sleep(0.01)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--served-model", default="llama-3.1-8b")
    parser.add_argument("--api-key", default="")
    parser.add_argument("--say", action="append", default=[])
    parser.add_argument("--say-variable", default="")
    parser.add_argument("--exit", type=int)
    parser.add_argument("--hang", action="store_true")
    parser.add_argument("--deaf", action="store_true", help="ignore SIGTERM")
    parser.add_argument("--daemon", default="", help="where the pid of a child that left the group is written")
    parser.add_argument("--taken-once", default="", help="a file: while it is not there, the port is said to be taken")
    parser.add_argument("--taken-always", action="store_true", help="the port is said to be taken, whatever else happens")
    parser.add_argument("--die-on-completion", action="store_true")
    parser.add_argument("--core", type=int, help="/health answers 503 once this process has gone")
    return parser.parse_args()


def main() -> None:
    options = _options()
    if options.deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if options.daemon:
        _child(options.daemon, deaf=options.deaf)
    for text in (*options.say, os.environ.get(options.say_variable, "")):
        print(text, flush=True)
    if options.taken_once and not Path(options.taken_once).exists():
        Path(options.taken_once).touch()
        sys.exit(os.strerror(errno.EADDRINUSE))
    if options.taken_always:
        print(os.strerror(errno.EADDRINUSE), flush=True)
    if options.exit is not None:
        sys.exit(options.exit)
    while options.hang:
        signal.pause()
    _Handler.options = options
    HTTPServer(("127.0.0.1", options.port), _Handler).serve_forever()


if __name__ == "__main__":
    main()
