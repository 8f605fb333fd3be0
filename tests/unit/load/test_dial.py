"""Connections are asked for when a request is begun, and who made it wait for one is told apart."""

from __future__ import annotations

import asyncio
import resource
import socket
import sys
from collections.abc import Coroutine, Iterator
from contextlib import closing
from itertools import count
from typing import Any

import numpy as np
import pytest

from pytest_llmperf.deploy.base import Endpoint
from pytest_llmperf.experiment.profile import bursts
from pytest_llmperf.load.exchange import Exchange, WireEnd
from pytest_llmperf.load.inflow import new_inflow
from pytest_llmperf.load.plan import SessionPlan, TurnPlan
from pytest_llmperf.load.pool import Pool, resolve
from tests.unit.load.conftest import PacedServer
from tests.unit.load.loads import outcomes, run

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux's kernel says when a connection stood")
both_ways = pytest.mark.parametrize("own_epoll", [True, False])
REQUEST = b"GET / HTTP/1.1\r\n\r\n"


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A server that takes one connection, and more only after it was asked to."""
    with closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        yield sock


class Dialled:
    """A pool, and the exchanges that ended."""

    def __init__(self, port: int, *, own_epoll: bool) -> None:
        loop = asyncio.get_running_loop()
        self.inflow = new_inflow(loop, own_epoll=own_epoll)
        self.ended: list[Exchange] = []
        self._numbers = count()
        self._over = loop.create_future()
        self.pool = Pool(loop, self.inflow, resolve(Endpoint(f"http://127.0.0.1:{port}", "m")), self._on_end)

    def _on_end(self, exchange: Exchange) -> None:
        self.ended.append(exchange)
        if not self._over.done():
            self._over.set_result(None)

    def begin(self) -> Exchange:
        session = SessionPlan(next(self._numbers), False, None, (TurnPlan(8, 6),))
        exchange = Exchange(session, 0, 0.0, REQUEST, warmup=False)
        self.pool.begin(exchange)
        return exchange

    async def over(self) -> None:
        """The next one has ended."""
        await asyncio.wait_for(self._over, 20)

    def close(self, *exchanges: Exchange) -> None:
        for exchange in exchanges:
            self.pool.end(exchange, WireEnd.CANCELLED, "cancelled")
        self.pool.close()
        self.inflow.close()


def within(body: Coroutine[Any, Any, None]) -> None:
    asyncio.run(body)


@linux
@both_ways
def test_a_server_on_this_machine_has_the_request_when_begin_returns(listener: socket.socket, own_epoll: bool) -> None:
    async def body() -> None:
        dialled = Dialled(listener.getsockname()[1], own_epoll=own_epoll)
        exchange = dialled.begin()
        # The event loop has not had a turn since.
        assert not dialled.pool.is_opening(exchange)
        accepted, _ = listener.accept()
        with closing(accepted):
            assert accepted.recv(100) == REQUEST
        assert exchange.begun_s < exchange.connected_s <= exchange.sent_s
        assert exchange.opening_delay_s == 0.0
        dialled.close(exchange)

    within(body())


@linux
@both_ways
def test_a_server_that_takes_a_connection_late_is_not_the_clients_delay(listener: socket.socket, own_epoll: bool) -> None:
    async def body() -> None:
        dialled = Dialled(listener.getsockname()[1], own_epoll=own_epoll)
        taken = [dialled.begin()]
        while not dialled.pool.is_opening(taken[-1]):
            taken.append(dialled.begin())
        waits = taken.pop()
        for _ in taken:
            listener.accept()[0].close()
        # The kernel asks again after a second, and is answered.
        answered, _ = await asyncio.get_running_loop().run_in_executor(None, listener.accept)
        with closing(answered):
            assert await asyncio.get_running_loop().run_in_executor(None, answered.recv, 100) == REQUEST
        assert not dialled.pool.is_opening(waits)
        assert waits.opening_delay_s < (waits.connected_s - waits.begun_s) / 2
        dialled.close(waits)

    within(body())


@both_ways
def test_a_connection_that_is_given_up_is_not_heard_of_again(listener: socket.socket, own_epoll: bool) -> None:
    async def body() -> None:
        dialled = Dialled(listener.getsockname()[1], own_epoll=own_epoll)
        begun = [dialled.begin()]
        while not dialled.pool.is_opening(begun[-1]):
            begun.append(dialled.begin())
        dialled.close(*begun)
        assert dialled.ended == begun
        await asyncio.sleep(0)
        assert dialled.ended == begun

    within(body())


@both_ways
def test_who_cannot_open_a_connection_says_so_after_it_was_begun(listener: socket.socket, own_epoll: bool) -> None:
    port = listener.getsockname()[1]

    async def no_files() -> None:
        dialled = Dialled(port, own_epoll=own_epoll)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            exchange, given_up = dialled.begin(), dialled.begin()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        # Whoever began it may not be told of its end before it knows that it was begun.
        assert dialled.ended == []
        dialled.pool.end(given_up, WireEnd.CANCELLED, "cancelled")
        await asyncio.sleep(0)
        assert dialled.ended == [given_up, exchange]
        assert (exchange.end, exchange.error) == (WireEnd.CONNECT_FAILED, "connect too many open files")
        assert dialled.pool.connect_failures == 1
        dialled.close()

    async def refused() -> None:
        listener.close()
        dialled = Dialled(port, own_epoll=own_epoll)
        exchange = dialled.begin()
        await dialled.over()
        assert (exchange.end, exchange.error) == (WireEnd.CONNECT_FAILED, "connect refused")
        dialled.close()

    within(no_files())
    within(refused())


def test_what_a_burst_waits_for_its_client_is_the_clients_lateness(server: PacedServer) -> None:
    result = run(server.endpoint("ok"), bursts(60, every="10s"), 0.5)
    assert set(outcomes(result)) == {0}
    # Half of the requests waited for those before them to be sent; the server has taken every connection at once.
    waited_s = float(np.median(result.log.sent_s - result.log.scheduled_s))
    assert result.health.workers[0].lateness_p50_s > waited_s / 2
