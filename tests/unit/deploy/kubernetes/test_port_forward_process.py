"""How a port-forward's process looks after its tunnels."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_llmperf.deploy.kubernetes.access.port_forward_messages import Aim, Order
from pytest_llmperf.deploy.kubernetes.access.port_forward_process import DEAD_BEATS, Forwarder, Gateway, connect_request
from pytest_llmperf.deploy.kubernetes.access.port_forward_tunnel import Local, OpeningError, Tunnel
from pytest_llmperf.deploy.kubernetes.access.port_forward_wire import BINARY, PING, PORT_BYTES
from tests.unit.deploy.certificates import make_certificate
from tests.unit.deploy.kubernetes.forwarding_server import of_channel

ORDER = Order("https://kube", "ns", 8000, certificate="-----KEY-----", authorities="CA")


class Wire(asyncio.Transport):
    """What is written to the API server."""

    def __init__(self) -> None:
        super().__init__()
        self.opcodes: list[int] = []
        self.is_aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.opcodes.append(data[0] & 0x0F)

    def abort(self) -> None:
        self.is_aborted = True

    def pause_reading(self) -> None:
        """Nothing comes here."""

    def resume_reading(self) -> None:
        """Nothing comes here."""

    def is_closing(self) -> bool:
        return self.is_aborted


@pytest.fixture
def said() -> list[dict[str, object]]:
    return []


@pytest.fixture
def forwarder(said: list[dict[str, object]]) -> Forwarder:
    return Forwarder(Gateway(ORDER, None), lambda **message: said.append(message))


def opened(forwarder: Forwarder) -> tuple[Tunnel, Wire]:
    wire = Wire()
    tunnel = Tunnel(wire, forwarder, "pod-a")
    forwarder.care_for(tunnel)
    return tunnel, wire


def test_a_tunnel_that_stays_silent_is_asked_and_then_given_up(forwarder: Forwarder, said: list[dict[str, object]]) -> None:
    tunnel, wire = opened(forwarder)
    tunnel.join(Local(lambda _: None))
    forwarder.beat()
    assert not wire.opcodes
    for _ in range(DEAD_BEATS):
        forwarder.beat()
    assert wire.opcodes == [PING] * DEAD_BEATS
    assert not wire.is_aborted
    forwarder.beat()
    assert wire.is_aborted
    assert said == [{"failed": "pod-a: nothing was heard for 60 s"}]


def test_a_sign_of_life_counts(forwarder: Forwarder) -> None:
    tunnel, wire = opened(forwarder)
    for _ in range(5 * DEAD_BEATS):
        forwarder.beat()
        tunnel.data_received(b"\x8a\x00")
    assert not wire.is_aborted


def test_a_tunnel_whose_client_is_slow_is_not_given_up(forwarder: Forwarder) -> None:
    tunnel, wire = opened(forwarder)
    tunnel.hold()
    for _ in range(5 * DEAD_BEATS):
        forwarder.beat()
    assert not wire.is_aborted
    tunnel.go_on()
    for _ in range(DEAD_BEATS + 2):
        forwarder.beat()
    assert wire.is_aborted


def test_the_ports_are_no_data_however_they_come(forwarder: Forwarder) -> None:
    tunnel, wire = opened(forwarder)
    for byte in b"\x40\x1f":
        tunnel.data_received(of_channel(0, bytes([byte])))
    assert not tunnel.is_over
    tunnel.data_received(of_channel(1, b"\x40\x1f"[:PORT_BYTES]))
    tunnel.data_received(of_channel(1, b""))
    assert not tunnel.is_over
    tunnel.data_received(of_channel(1, b"gone"))
    assert (tunnel.fault, wire.is_aborted) == ("gone", True)


def test_what_is_sent_is_binary(forwarder: Forwarder) -> None:
    tunnel, wire = opened(forwarder)
    tunnel.send(b"x")
    assert wire.opcodes == [BINARY]


def test_what_is_told_is_heard() -> None:
    assert Order.read(ORDER.line()) == ORDER
    aim = Aim(("a", "b"), {"Authorization": "Bearer t"}, "-----KEY-----")
    assert Aim.read(aim.line()) == aim
    assert "KEY" not in repr(ORDER)
    assert not {"Bearer", "KEY"} & set(re.findall(r"\w+", repr(aim)))


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_certificate_that_follows_the_first_is_shown_from_then_on(tmp_path: Path, forwarder: Forwarder, is_whole: bool) -> None:
    certificate = make_certificate(tmp_path)[0].read_text() if is_whole else "half of one"
    gateway = Gateway(replace(ORDER, server="https://127.0.0.1:1", authorities=""), None)
    told = "Connect call failed" if is_whole else "cannot be reached"
    with pytest.raises(OpeningError, match=told):
        asyncio.run(gateway.open("pod-a", Aim(("pod-a",), {}, certificate), forwarder))
    assert gateway.order.certificate == certificate
    assert (gateway.tls is not None) is is_whole


def test_a_proxys_password_is_told_as_it_is() -> None:
    assert connect_request("kube:443", None, None) == b"CONNECT kube:443 HTTP/1.1\r\nHost: kube:443\r\n\r\n"
    assert b"Basic dTpAYg==\r\n" in connect_request("kube:443", "u", "%40b")
