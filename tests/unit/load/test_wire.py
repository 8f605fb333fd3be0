"""One connection over a real socket: whatever the pieces in which bytes come, the records are the same."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_llmperf.load.exchange import Exchange, Tape, WireEnd
from pytest_llmperf.load.inflow import EpollInflow, LoopInflow, new_inflow
from pytest_llmperf.load.log import arrived_of, log_of
from pytest_llmperf.load.plan import SessionPlan, TurnPlan
from pytest_llmperf.load.records import Outcome
from pytest_llmperf.load.wall_clock import WallClock
from pytest_llmperf.load.wire import Connection, PlainConnection
from tests.unit.load.loads import workload
from tests.unit.load.streams import CHAT, COMPLETION, DONE, event, text, usage

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
BARE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
ERROR_BODY = json.dumps({"error": {"type": "RateLimitError", "code": 429}}).encode()
REFUSAL = b"HTTP/1.1 429 Too Many\r\nRetry-After: 7\r\nContent-Length: %d\r\n\r\n%s" % (len(ERROR_BODY), ERROR_BODY)
WIDE = [text("\u20ac", ensure_ascii=False), text("", ensure_ascii=False), text("\U0001f600", "stop", ensure_ascii=False), DONE]
RUNNING = [
    event({"index": 0, "text": " w", "finish_reason": None}, {"prompt_tokens": 8, "completion_tokens": 2 * i}) for i in (1, 2)
]


def chunked(events: Sequence[bytes]) -> bytes:
    """A whole chunked response, one chunk an event."""
    return HEAD + b"".join(b"%x\r\n%s\r\n" % (len(data), data) for data in [*events, b""])


WIRES: dict[str, tuple[bytes, Literal["completions", "chat"]]] = {
    "completion": (chunked(COMPLETION), "completions"),
    "chat": (chunked(CHAT), "chat"),
    "wide characters": (chunked(WIDE), "completions"),
    "running usage": (chunked([*RUNNING, usage(4), DONE]), "completions"),
    "events with carriage returns": (chunked([each.replace(b"\n", b"\r\n") for each in COMPLETION]), "completions"),
    "refusal": (REFUSAL, "completions"),
    "until it is closed": (BARE_HEAD + b"".join(COMPLETION), "completions"),
    "truncated": (chunked(COMPLETION)[:700], "completions"),
    "no end": (chunked(COMPLETION[:3]), "completions"),
    "no http": (b"SMTP ready\r\n\r\n", "completions"),
    "interim": (b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + chunked(COMPLETION), "completions"),
    "trailer": (chunked(COMPLETION)[:-2] + b"Expires: never\r\n\r\n", "completions"),
}


class Owner:
    """Keeps what a connection says."""

    def __init__(self) -> None:
        self.ended: list[Exchange] = []
        self.reusable: list[bool] = []
        self.lost_connections = 0

    def finished(self, connection: Connection, exchange: Exchange) -> None:
        self.ended.append(exchange)
        self.reusable.append(connection.reusable)
        if not connection.reusable:
            connection.drop()

    def stale(self, exchange: Exchange) -> None:
        raise AssertionError(f"a fresh connection was taken for a used one: {exchange}")

    def lost(self, _connection: Connection) -> None:
        self.lost_connections += 1


class Wire:
    """A connection, the server's end of it, and one exchange that has been sent."""

    def __init__(self, request: bytes = b"GET / HTTP/1.1\r\n\r\n", *, own_epoll: bool = True) -> None:
        self.inflow = new_inflow(asyncio.get_running_loop(), own_epoll=own_epoll)
        ours, self.server = socket.socketpair()
        ours.setblocking(False)
        self.owner = Owner()
        self.clock = WallClock()
        self.connection = PlainConnection(self.owner, ours, self.inflow)
        self.exchange = Exchange(SessionPlan(0, False, None, (TurnPlan(8, 6),)), 0, 0.0, request, warmup=False)
        self.connection.send(self.exchange)

    def close(self) -> None:
        self.connection.drop()
        self.server.close()
        self.inflow.close()


def on_a_wire(body: Callable[[], None]) -> None:
    """Run ``body`` in an event loop."""

    async def inside() -> None:
        body()

    asyncio.run(inside())


def records_of(name: str, cuts: Sequence[int]) -> tuple[object, ...]:
    """What is recorded of a response that arrives cut at these places, and whether the connection may be used again."""
    data, api = WIRES[name]
    places = sorted({0, len(data), *(cut % len(data) for cut in cuts)})
    seen: list[tuple[object, ...]] = []

    def drive() -> None:
        wire, tape = Wire(), Tape()
        for start, stop in pairwise(places):
            wire.server.sendall(data[start:stop])
            wire.inflow.catch_up()
            if wire.owner.ended:
                break
        wire.server.close()
        wire.inflow.catch_up()
        (exchange,) = wire.owner.ended
        tape.keep(exchange)
        log = log_of([exchange], tape.read, wire.clock, start_s=0.0, worker=0, workload=workload(api=api))
        raw = arrived_of(exchange, tape.read(exchange), wire.clock).raw
        assert sum(raw.read_sizes) == len(raw.body)
        counts = (log.output_tokens.tolist(), log.prompt_tokens.tolist(), log.chunk_tokens.tolist())
        # What follows the first byte that cannot be HTTP is not read any more.
        received = exchange.received_bytes if exchange.end is not WireEnd.BAD_HTTP else None
        said = (log.outcome.tolist(), log.error, log.http_status.tolist(), exchange.retry_after, raw.body)
        seen.append((*said, *counts, received, wire.owner.reusable, len(log.chunk_read_lag_s)))
        tape.close()
        wire.close()

    on_a_wire(drive)
    return seen[0]


@pytest.mark.parametrize("name", WIRES)
@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(1, 2000), max_size=40))
def test_any_split_into_reads_gives_the_same_records(name: str, cuts: list[int]) -> None:
    assert records_of(name, cuts) == records_of(name, [])


def test_what_the_wires_say() -> None:
    outcomes = {name: Outcome(records_of(name, [])[0][0]) for name in WIRES}  # type: ignore[index]
    assert {name for name, outcome in outcomes.items() if outcome is not Outcome.OK} == {
        "refusal",
        "truncated",
        "no end",
        "no http",
    }
    assert records_of("interim", [])[2] == [200]
    assert records_of("refusal", [])[3] == b"7"
    assert records_of("running usage", [])[7] == [2, 2]


def test_one_byte_at_a_time() -> None:
    assert records_of("completion", range(2000)) == records_of("completion", [])


@pytest.mark.parametrize("cut", [0, 1])
def test_bytes_beyond_the_response_cost_the_connection_and_nothing_else(cut: int) -> None:
    data, more = chunked(COMPLETION), b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"

    def drive() -> None:
        wire = Wire()
        for piece in [data, more] if cut else [data + more]:
            wire.server.sendall(piece)
            wire.inflow.catch_up()
        assert (wire.exchange.end, wire.exchange.status) == (WireEnd.COMPLETE, 200)
        assert wire.owner.reusable == [bool(cut)]
        assert wire.server.recv(100).startswith(b"GET")
        assert wire.server.recv(100) == b""
        wire.close()

    on_a_wire(drive)


def test_a_request_larger_than_the_sockets_buffer_goes_out_as_there_is_room() -> None:
    request = b"POST / HTTP/1.1\r\n\r\n" + b"x" * 2_000_000

    def drive() -> None:
        wire = Wire(request)
        received = bytearray()
        while len(received) < len(request):
            received += wire.server.recv(100_000)
            wire.inflow.catch_up()
        assert received == request
        wire.server.sendall(chunked(COMPLETION))
        wire.inflow.catch_up()
        assert wire.owner.reusable == [True]
        wire.close()

    on_a_wire(drive)


def test_a_server_that_answers_before_it_has_the_whole_request_gets_no_other_one() -> None:
    def drive() -> None:
        wire = Wire(b"POST / HTTP/1.1\r\n\r\n" + b"x" * 2_000_000)
        wire.server.sendall(REFUSAL)
        wire.inflow.catch_up()
        assert (wire.exchange.end, wire.exchange.status, wire.owner.reusable) == (WireEnd.COMPLETE, 429, [False])
        wire.close()

    on_a_wire(drive)


def test_an_answer_that_precedes_a_hang_up_is_read_although_the_request_cannot_be_sent() -> None:
    def drive() -> None:
        wire = Wire()
        wire.server.sendall(REFUSAL)
        wire.inflow.catch_up()
        again = Exchange(SessionPlan(1, False, None, (TurnPlan(8, 6),)), 0, 0.0, b"GET / HTTP/1.1\r\n\r\n", warmup=False)
        wire.server.sendall(REFUSAL)
        wire.server.close()
        wire.connection.send(again)
        wire.inflow.catch_up()
        assert (again.end, again.status) == (WireEnd.COMPLETE, 429)
        wire.close()

    on_a_wire(drive)


def test_a_connection_closed_while_idle_is_lost_to_its_owner() -> None:
    def drive() -> None:
        wire = Wire()
        wire.server.sendall(chunked(COMPLETION))
        wire.inflow.catch_up()
        wire.server.close()
        wire.inflow.catch_up()
        assert wire.owner.lost_connections == 1
        wire.close()

    on_a_wire(drive)


@pytest.mark.parametrize("own_epoll", [True, False])
def test_the_loop_reads_and_writes_by_itself_whichever_way_it_watches(own_epoll: bool) -> None:
    request = b"POST / HTTP/1.1\r\n\r\n" + b"x" * 2_000_000

    async def drive() -> None:
        wire = Wire(request, own_epoll=own_epoll)
        assert isinstance(wire.inflow, EpollInflow if own_epoll and hasattr(socket, "AF_NETLINK") else LoopInflow)
        wire.server.setblocking(False)
        received = 0
        while received < len(request):
            received += len(await asyncio.get_running_loop().sock_recv(wire.server, 100_000))
        await asyncio.get_running_loop().sock_sendall(wire.server, chunked(COMPLETION))
        while not wire.owner.ended:
            await asyncio.sleep(0)
        assert wire.exchange.end is WireEnd.COMPLETE
        wire.close()

    asyncio.run(asyncio.wait_for(drive(), 20))
