"""Serve a simulated deployment on a port until the process is told to stop."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Callable

import uvloop

from pytest_llmperf.errors import LlmperfError
from pytest_llmperf.sim.app import App
from pytest_llmperf.sim.http import Connection
from pytest_llmperf.sim.spec import SimSpec

_PARENT_CHECK_S = 0.5


def serve(spec: SimSpec, host: str, port: int, on_listening: Callable[[int], None], *, parent_pid: int | None = None) -> None:
    """Serve until SIGTERM or SIGINT, or until ``parent_pid`` is gone; ``on_listening`` gets the port.

    The port is open at once and /health answers 503 until the cold start is over.
    Raises ``ConfigError`` for a spec that cannot run, ``LlmperfError`` where the port cannot be taken.
    """
    spec.resolve()
    uvloop.run(_serve(spec, host, port, on_listening, parent_pid))


async def _serve(spec: SimSpec, host: str, port: int, on_listening: Callable[[int], None], parent_pid: int | None) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    app = App(spec)
    try:
        server = await loop.create_server(lambda: Connection(app), host, port, backlog=4096)
    except OSError as error:
        raise LlmperfError(
            f"the simulator cannot listen on {host}:{port}: {error.strerror or error}",
            hint="Take another port, or 0 for one that is free.",
        ) from None
    for number in (signal.SIGTERM, signal.SIGINT):  # not before: uvloop does not give them back to whoever cannot serve
        loop.add_signal_handler(number, stop.set)
    _calm_the_collector()
    on_listening(server.sockets[0].getsockname()[1])
    background = [asyncio.create_task(app.start_up())]
    if parent_pid is not None:
        background.append(asyncio.create_task(_watch_parent(parent_pid, stop)))
    try:
        await stop.wait()
    finally:
        for task in background:
            task.cancel()
        server.close()
        app.close()
        await asyncio.gather(*background, return_exceptions=True)


def _calm_the_collector() -> None:
    """Collections of garbage would make tokens late."""
    # What exists now lives as long as the process.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


async def _watch_parent(parent_pid: int, stop: asyncio.Event) -> None:
    """Ends the server when its parent is gone: an orphan is given to another parent, or the pid stops existing."""
    ours = os.getppid() == parent_pid
    while True:
        if ours and os.getppid() != parent_pid:
            break
        try:
            os.kill(parent_pid, 0)
        except ProcessLookupError:
            break
        except PermissionError:
            pass
        await asyncio.sleep(_PARENT_CHECK_S)
    stop.set()
