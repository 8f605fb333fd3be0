"""Ctrl-C as an event to wait for. Raised anywhere, as Python does by itself, it could tear a message from a worker in two."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType


class CtrlC:
    """While entered (in the main thread: elsewhere none arrives): the first Ctrl-C makes ``fd`` readable, a second one raises."""

    def __init__(self) -> None:
        self.is_pressed = False
        self.fd, self._write = os.pipe()
        # Where Ctrl-C is ignored (a background process) it stays ignored.
        self._catches = (
            threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
        )

    def __enter__(self) -> CtrlC:
        if self._catches:
            self._previous = signal.signal(signal.SIGINT, self._pressed)
        return self

    def __exit__(self, *_: object) -> None:
        if self._catches:
            signal.signal(signal.SIGINT, self._previous)
        os.close(self.fd)
        os.close(self._write)

    def _pressed(self, _number: int, _frame: FrameType | None) -> None:
        if self.is_pressed:
            raise KeyboardInterrupt
        self.is_pressed = True
        os.write(self._write, b"!")
