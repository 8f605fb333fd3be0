"""Lines of progress from xdist's workers, which have no terminal, to the controller, which has.

They travel as datagrams on the loopback: a worker never waits for anybody, what finds no room is lost, and whatever ends either
side leaves nothing behind. A token in front of each line tells a worker's from anybody else's.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from threading import Thread

HOST = "127.0.0.1"
_TOKEN_BYTES = 16
_LONGEST = 4096
"""Bytes of a line. More than anybody reads; and what is lost beyond it is only shown."""
_END_S = 2.0


class Relay:
    """In the controller: hands every line that a worker says to ``say``, from a thread of its own, until it is closed."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._token = secrets.token_hex(_TOKEN_BYTES)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((HOST, 0))
        # A daemon: where pytest dies without a word, nobody waits for it.
        self._thread = Thread(target=self._listen, name="llmperf-relay", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """What a worker needs to be heard; plain text, as xdist carries it."""
        return f"{self._socket.getsockname()[1]}:{self._token}"

    def close(self) -> None:
        """Say what has arrived until now, and listen no longer. Safe to call twice."""
        if self._thread.is_alive():
            with suppress(OSError):
                self._socket.sendto(self._token.encode(), self._socket.getsockname())
            self._thread.join(_END_S)
        self._socket.close()

    def _listen(self) -> None:
        token = self._token.encode()
        while True:
            try:
                said = self._socket.recv(_LONGEST)
            except OSError:  # closed
                return
            if not said.startswith(token):
                continue
            if said == token:
                return
            with suppress(OSError):  # whoever read along has gone; pytest itself will hear of it
                self._say(said[len(token) :].decode(errors="replace"))


class RelayReporter:
    """In a worker: what ``ProgressLine`` writes to instead of a terminal."""

    isatty = False

    def __init__(self, address: str) -> None:
        port, _, token = address.partition(":")
        self._token = token.encode()
        self._controller = (HOST, int(port))
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def ensure_newline(self) -> None:
        """Every line is one of its own."""

    def write_line(self, text: str) -> None:
        """Send it off. Nobody may be there to hear it."""
        with suppress(OSError):
            self._socket.sendto((self._token + text.strip().encode())[:_LONGEST], self._controller)

    def flush(self) -> None:
        """Nothing is held back."""
