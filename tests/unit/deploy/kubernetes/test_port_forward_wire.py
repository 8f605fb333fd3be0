"""The websocket of a port-forward as bytes: what a server gets to read, and what is made of its answers."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmperf.deploy.kubernetes.access.port_forward_wire import (
    BINARY,
    CHUNK,
    CLOSE,
    DATA,
    LONGEST_FRAME,
    LONGEST_HEAD,
    FrameReader,
    Head,
    WireError,
    accept_of,
    data_frames,
    forward_target,
    frame,
    head_of,
    masked,
    refused,
    upgrade_request,
)
from tests.unit.deploy.kubernetes.forwarding_server import server_frame


def unmasked_frames(data: bytes) -> list[tuple[int, bytes]]:
    """A client's frames as RFC 6455 has them, read by another hand than the one that wrote them."""
    frames = []
    while data:
        assert data[0] & 0x80
        assert data[1] & 0x80
        size, at = data[1] & 0x7F, 2
        if size >= 126:
            width = 2 if size == 126 else 8
            size, at = int.from_bytes(data[2 : 2 + width], "big"), 2 + width
        key, payload = data[at : at + 4], data[at + 4 : at + 4 + size]
        frames.append((data[0] & 0x0F, bytes(byte ^ key[place % 4] for place, byte in enumerate(payload))))
        data = data[at + 4 + size :]
    return frames


@given(st.binary(max_size=200), st.binary(min_size=4, max_size=4))
def test_a_mask_is_laid_over_byte_by_byte(payload: bytes, key: bytes) -> None:
    assert masked(payload, key) == bytes(byte ^ key[place % 4] for place, byte in enumerate(payload))


@pytest.mark.parametrize("size", [0, 1, 124, 125, 126, 127, 65_534, 65_535, 65_536, 70_000])
def test_a_client_frame_reads_back(size: int) -> None:
    payload = bytes(range(256)) * (size // 256 + 1)
    assert unmasked_frames(frame(BINARY, payload[:size])) == [(BINARY, payload[:size])]


def test_the_mask_is_another_each_time() -> None:
    assert len({frame(BINARY, b"x" * 40) for _ in range(20)}) == 20


def test_data_goes_on_its_channel_in_chunks() -> None:
    data = bytes(range(256)) * 1000
    frames = unmasked_frames(data_frames(data))
    assert {(opcode, payload[0]) for opcode, payload in frames} == {(BINARY, DATA)}
    assert b"".join(payload[1:] for _, payload in frames) == data
    assert max(len(payload) for _, payload in frames) <= CHUNK + 1


@given(st.lists(st.tuples(st.sampled_from([BINARY, CLOSE]), st.binary(max_size=300)), max_size=8), st.data())
def test_a_servers_frames_are_found_however_they_are_cut(frames: list[tuple[int, bytes]], data: st.DataObject) -> None:
    stream = b"".join(server_frame(opcode, payload) for opcode, payload in frames)
    reader, found, at = FrameReader(), [], 0
    while at < len(stream):
        step = data.draw(st.integers(1, len(stream) - at))
        found += reader.feed(stream[at : at + step])
        at += step
    assert found == frames


def test_a_long_frame_is_found() -> None:
    payload = b"z" * 100_000
    assert FrameReader().feed(server_frame(BINARY, payload)) == [(BINARY, payload)]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(frame(BINARY, b"masked"), id="masked"),
        pytest.param(bytes([0xC2, 1, 0]), id="compressed"),
        pytest.param(bytes([0x82, 127]) + (LONGEST_FRAME + 1).to_bytes(8, "big"), id="endless"),
    ],
)
def test_what_no_server_sends_is_an_error(data: bytes) -> None:
    with pytest.raises(WireError):
        FrameReader().feed(data)


def test_the_handshake_of_the_rfc() -> None:
    assert accept_of("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_the_request_asks_for_the_subprotocol_as_somebody() -> None:
    request = upgrade_request("kube:6443", "/api", "a2V5", {"Authorization": "Bearer t"}).decode()
    assert request.startswith("GET /api HTTP/1.1\r\nHost: kube:6443\r\n")
    assert request.endswith("\r\nAuthorization: Bearer t\r\n\r\n")
    assert "\r\nSec-WebSocket-Protocol: v4.channel.k8s.io\r\n" in request
    assert "\r\nSec-WebSocket-Key: a2V5\r\n" in request


@pytest.mark.parametrize(("prefix", "shown"), [("", ""), ("/", ""), ("/k8s/clusters/c-1/", "/k8s/clusters/c-1")])
def test_the_target_is_below_the_servers_own_path(prefix: str, shown: str) -> None:
    assert forward_target(prefix, "ns", "pod-1", 8000) == f"{shown}/api/v1/namespaces/ns/pods/pod-1/portforward?ports=8000"


def test_a_head_is_read_when_all_of_it_is_there() -> None:
    head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nX: a:b \r\n\r\n"
    assert all(head_of(head[:end]) is None for end in range(len(head)))
    assert head_of(head + b"rest") == (Head(101, "Switching Protocols", {"upgrade": "websocket", "x": "a:b"}), b"rest")


@pytest.mark.parametrize("data", [b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 OK\r\n\r\n", b"x" * (LONGEST_HEAD + 1)])
def test_what_is_no_http_is_an_error(data: bytes) -> None:
    with pytest.raises(WireError):
        head_of(data)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (json.dumps({"kind": "Status", "message": 'pods "a" not found'}).encode(), '404 pods "a" not found'),
        (b"<html>no</html>", "404 <html>no</html>"),
        (b"[1]", "404 [1]"),
        (b"", "404 Not Found"),
    ],
)
def test_a_refusal_is_told_in_the_servers_words(body: bytes, told: str) -> None:
    assert refused(Head(404, "Not Found", {}), body) == told
