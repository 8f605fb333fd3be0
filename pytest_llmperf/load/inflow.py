"""Which plain sockets have something to read, and the kernel's own word on when it came.

On Linux all connections are in one epoll of their own, which the event loop sees as a single file: when it fires, everything
that is ready is read in one go, at a fraction of what a callback of the loop for each costs. Elsewhere the loop watches each.
"""

from __future__ import annotations

import asyncio
import select
import socket
import sys
from collections.abc import Callable
from typing import Protocol

from pytest_llmperf.load.wall_clock import STAMP

OnReady = Callable[[], None]

_SO_TIMESTAMPNS = 35
"""Of ``asm-generic/socket.h``; Python has no name for it."""
_READABLE, _ROOM = 1, 4
"""``EPOLLIN`` and ``EPOLLOUT``, which Python names on Linux only."""
_BATCH = 64
"""Connections served in one go: some 0.3 ms, so that what is due meanwhile is not late."""


class Inflow(Protocol):
    """Calls ``on_ready`` of each connection for as long as there is something to read or an end to hear of."""

    stamps: bool
    """Whether the kernel says when each read arrived."""

    def await_open(self, sock: socket.socket, on_open: OnReady) -> None:
        """Call ``on_open`` when a connecting socket stands or cannot; ``add`` or ``remove`` is to follow at once."""
        ...

    def add(self, sock: socket.socket, on_ready: OnReady) -> None:
        """Begin to watch a connected socket."""
        ...

    def await_room(self, sock: socket.socket, on_room: OnReady | None) -> None:
        """Call ``on_room`` for as long as there is room to write; None: no longer."""
        ...

    def remove(self, sock: socket.socket) -> None:
        """Watch it no longer: it is closed next."""
        ...

    def catch_up(self) -> None:
        """Read all that has arrived by now."""
        ...

    def close(self) -> None:
        """Watch nothing any more."""
        ...


def new_inflow(loop: asyncio.AbstractEventLoop, *, own_epoll: bool = True) -> Inflow:
    """The best this platform has; ``own_epoll`` False takes the loop's watching also where there is better."""
    if own_epoll and sys.platform == "linux" and STAMP.size == 16:
        return EpollInflow(loop)
    return LoopInflow(loop)


class EpollInflow:
    """An epoll of its own, and sockets that timestamp what they receive."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._epoll = select.epoll()
        self._poll = self._epoll.poll
        self._on_ready: dict[int, OnReady] = {}
        self._on_room: dict[int, OnReady] = {}
        # The kernel begins to take timestamps a little after the first socket asks for them. This one asks ahead of all.
        self._first = socket.socket()
        self.stamps = _takes_stamps(self._first)
        loop.add_reader(self._epoll.fileno(), self._serve)

    def await_open(self, sock: socket.socket, on_open: OnReady) -> None:
        self._on_room[sock.fileno()] = on_open
        self._epoll.register(sock.fileno(), _ROOM)

    def add(self, sock: socket.socket, on_ready: OnReady) -> None:
        if self.stamps:
            sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._on_ready[sock.fileno()] = on_ready
        watch = self._epoll.register if self._on_room.pop(sock.fileno(), None) is None else self._epoll.modify
        watch(sock.fileno(), _READABLE)

    def await_room(self, sock: socket.socket, on_room: OnReady | None) -> None:
        if on_room is not None:
            self._on_room[sock.fileno()] = on_room
        elif self._on_room.pop(sock.fileno(), None) is None:
            return
        self._epoll.modify(sock.fileno(), _READABLE | (_ROOM if on_room is not None else 0))

    def remove(self, sock: socket.socket) -> None:
        # An epoll forgets a file that is closed by itself.
        self._on_ready.pop(sock.fileno(), None)
        self._on_room.pop(sock.fileno(), None)

    def catch_up(self) -> None:
        # As often as it takes to come round to each: a server that never pauses must not keep this going for ever.
        for _ in range(len(self._on_ready) // _BATCH + 1):
            if not self._serve():
                return

    def _serve(self) -> bool:
        """Serve what is ready until nothing is, or so much was that others must have their turn; which of the two it was."""
        on_ready, left = self._on_ready, _BATCH
        while left > 0:
            ready = self._poll(0, _BATCH)
            if not ready:
                return False
            left -= len(ready)
            for fd, events in ready:
                # What an earlier one of these did may have closed this one.
                if events & _ROOM and fd in self._on_room:
                    self._on_room[fd]()
                if events != _ROOM and fd in on_ready:
                    on_ready[fd]()
        return True

    def close(self) -> None:
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        self._first.close()


class LoopInflow:
    """The event loop's own watching; nobody says when a read arrived but the client's clock."""

    stamps = False

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def await_open(self, sock: socket.socket, on_open: OnReady) -> None:
        self._loop.add_writer(sock.fileno(), on_open)

    def add(self, sock: socket.socket, on_ready: OnReady) -> None:
        self._loop.remove_writer(sock.fileno())
        self._loop.add_reader(sock.fileno(), on_ready)

    def await_room(self, sock: socket.socket, on_room: OnReady | None) -> None:
        if on_room is not None:
            self._loop.add_writer(sock.fileno(), on_room)
        else:
            self._loop.remove_writer(sock.fileno())

    def remove(self, sock: socket.socket) -> None:
        self._loop.remove_reader(sock.fileno())
        self._loop.remove_writer(sock.fileno())

    def catch_up(self) -> None:
        """Without timestamps nothing has arrived before it was read."""

    def close(self) -> None:
        """Nothing is held."""


def _takes_stamps(sock: socket.socket) -> bool:
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    except OSError:
        return False
    return True
