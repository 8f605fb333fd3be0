"""SIGTERM, SIGHUP and Ctrl-C in a session that deploys on a cluster: each ends it in order, and none cuts its teardown short.

pytest dies at once on SIGTERM (a CI's cancelled job) and SIGHUP (a lost terminal), and everything would go on standing; a second
Ctrl-C would break off what takes it away. Therefore, of all these signals together:

* the first is a Ctrl-C: the test ends, what stands is taken down. During the teardown of one cell it waits until that is done.
* the second, and the first that comes when the session ends anyway, is only told of;
* the third gives up: what still stands is found by the next session, and by ``pytest-llmperf gc``.

xdist's controller passes nothing on: its workers hear that it ends, send themselves a Ctrl-C after 5 seconds and are killed after
10. What they could not take down in that time the controller does (``end_session``).
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType
from typing import Any

import pytest

from pytest_llmperf.deploy.base import say_nothing
from pytest_llmperf.errors import LlmperfError

GIVE_UP = 3
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_AFTER_THIS = "the session ends when this deployment is taken down"
_TEARING_DOWN = f"taking down what was deployed; signal number {GIVE_UP} gives up, and leaves it to `pytest-llmperf gc`"
_GIVEN_UP = "given up: `pytest-llmperf gc` removes what still stands"


class Termination:
    """What the signals do in this process. Only the main thread can listen; in another one nothing is changed."""

    def __init__(self, tell: Callable[[str], None], stop: Callable[[str], None]) -> None:
        """``stop`` lets no further test begin, and takes why. ``tell`` is called from the handler: it must write at once."""
        self._tell = tell
        self._stop = stop
        self._process = os.getpid()
        self._previous: dict[signal.Signals, Any] = {}
        self._count = 0
        self._undisturbed = 0
        self._is_put_off = False
        self._is_ending = False

    def listen(self) -> None:
        """Take the signals over, but for those that are ignored (``nohup``)."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _ENDING:
            if number not in self._previous and (before := signal.getsignal(number)) not in {signal.SIG_IGN, None}:
                self._previous[number] = before
                signal.signal(number, self._signalled)

    def restore(self) -> None:
        """Give the signals back."""
        for number, before in self._previous.items():
            if signal.getsignal(number) == self._signalled:
                signal.signal(number, before)
        self._previous.clear()

    def end(self) -> None:
        """The session ends, for whatever reason: from here on a signal has nothing to end but the teardown."""
        self._is_ending = True

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """While entered the first signal waits: what is begun here (taking one cell down) is finished before the session ends."""
        self._undisturbed += 1
        try:
            yield
        except LlmperfError as error:
            if self._takes_up():
                self._tell(str(error))  # the interruption would hide it
                raise KeyboardInterrupt from error
            raise
        finally:
            self._undisturbed -= 1
        if self._takes_up():
            raise KeyboardInterrupt

    def _takes_up(self) -> bool:
        """Whether a signal was put off, which now is not any more."""
        was_put_off, self._is_put_off = self._is_put_off, False
        self._is_ending |= was_put_off
        return was_put_off

    def _signalled(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            # A child that was forked, and is not to outlive its signal.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self._count += 1
        if self._count >= GIVE_UP:
            self._tell(_GIVEN_UP)
            raise KeyboardInterrupt
        if self._is_ending:
            self._tell(_TEARING_DOWN)
        elif self._undisturbed:
            self._is_put_off = True
            self._tell(_AFTER_THIS)
        else:
            self._is_ending = True
            self._interrupt(number)

    def _interrupt(self, number: int) -> None:
        """As Ctrl-C does: a load that runs has a handler of its own for that, which loses nothing of what it measured."""
        # A load whose own processes were signalled too may fail before it can tell: then the session ends after this test.
        self._stop(f"ended by {signal.Signals(number).name}")
        ctrl_c = signal.getsignal(signal.SIGINT)
        if number != signal.SIGINT and callable(ctrl_c) and ctrl_c != self._signalled:
            signal.raise_signal(signal.SIGINT)
        else:
            raise KeyboardInterrupt


_STASH = pytest.StashKey[Termination]()


def termination_of(config: pytest.Config) -> Termination:
    """The session's; one that has not been told to ``listen`` does nothing."""
    if _STASH not in config.stash:
        config.stash[_STASH] = Termination(say_nothing, say_nothing)
    return config.stash[_STASH]


def listen(session: pytest.Session) -> None:
    """Take the signals over until pytest ends. To be called when the session starts: standard error is not captured then."""
    config = session.config
    if hasattr(config, "workerinput"):
        tell = say_nothing  # the controller tells
    else:
        error = os.dup(2)
        config.add_cleanup(lambda: os.close(error))
        tell = partial(_write, error)
    termination = config.stash[_STASH] = Termination(tell, partial(setattr, session, "shouldstop"))
    config.add_cleanup(termination.restore)
    termination.listen()


def _write(descriptor: int, text: str) -> None:
    with suppress(OSError):  # a terminal that is gone
        os.write(descriptor, f"\npytest-llmperf: {text}\n".encode())
