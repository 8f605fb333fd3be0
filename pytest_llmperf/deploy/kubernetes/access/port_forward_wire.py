"""The websocket that carries one connection to a pod's port, as bytes: its handshake and its frames.

In the subprotocol ``v4.channel.k8s.io`` every message begins with the number of its channel: on 0 goes the connection itself,
on 1 the node says what went wrong. The first thing that the server says on each channel is the port, in two bytes.
"""

from __future__ import annotations

import json
import os
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha1
from urllib.parse import quote

SUBPROTOCOL = "v4.channel.k8s.io"
DATA, ERROR = 0, 1
"""The channels."""
PORT_BYTES = 2
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
"""What a frame may be."""
LONGEST_FRAME = 2**24
"""Nodes send 32 KiB at a time."""
LONGEST_HEAD = 2**16
CHUNK = 2**16
"""So much of a request goes into one frame: the server reads a frame whole before it hands on its first byte."""

_FINAL, _MASKED = 0x80, 0x80
_RESERVED = 0x70
_DATA_CHANNEL = bytes([DATA])
_ACCEPT_SALT = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""RFC 6455, section 1.3."""
_LONGEST_SHOWN = 300


class WireError(Exception):
    """What was received is not what a websocket's server sends."""


@dataclass(frozen=True)
class Head:
    """How an HTTP response begins. Names of headers are in small letters."""

    status: int
    reason: str
    headers: Mapping[str, str]


def forward_target(prefix: str, namespace: str, pod: str, port: int) -> str:
    """The path that a pod's port is asked for at; ``prefix`` is the path of the API server's own URL."""
    return f"{prefix.rstrip('/')}/api/v1/namespaces/{quote(namespace)}/pods/{quote(pod)}/portforward?ports={port}"


def new_key() -> str:
    """What a handshake is told from another by."""
    return b64encode(os.urandom(16)).decode()


def accept_of(key: str) -> str:
    """What a websocket's server answers to a key."""
    return b64encode(sha1(key.encode() + _ACCEPT_SALT, usedforsecurity=False).digest()).decode()


def upgrade_request(host: str, target: str, key: str, headers: Mapping[str, str]) -> bytes:
    """The request that makes a connection a websocket; ``headers`` say who asks."""
    lines = {
        "Host": host,
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": key,
        "Sec-WebSocket-Protocol": SUBPROTOCOL,
        **headers,
    }
    written = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"GET {target} HTTP/1.1\r\n{written}\r\n".encode("latin-1")


def head_of(data: bytes) -> tuple[Head, bytes] | None:
    """How a response begins, and what followed; None until all of its head is there. Raises ``WireError``."""
    text, end, rest = data.partition(b"\r\n\r\n")
    if not end:
        if len(data) > LONGEST_HEAD:
            raise WireError("the answer's head has no end")
        return None
    first, *lines = text.decode("latin-1").split("\r\n")
    version, _, status = first.partition(" ")
    code, _, reason = status.partition(" ")
    if not version.startswith("HTTP/1.") or not code.isdecimal():
        raise WireError(f"no HTTP answer: {first[:_LONGEST_SHOWN]!r}")
    pairs = (line.partition(":") for line in lines)
    return Head(int(code), reason, {name.strip().lower(): value.strip() for name, _, value in pairs}), rest


def refused(head: Head, body: bytes) -> str:
    """Why the API server did not open a websocket: its own words, which a Status object holds."""
    try:
        message = json.loads(body)["message"]
    except (ValueError, KeyError, TypeError):
        message = body.decode(errors="replace")
    return f"{head.status} {str(message).strip()[:_LONGEST_SHOWN] or head.reason}"


def data_frames(data: bytes) -> bytes:
    """A part of the connection's data as frames."""
    if len(data) <= CHUNK:
        return frame(BINARY, _DATA_CHANNEL + data)
    return b"".join(frame(BINARY, _DATA_CHANNEL + data[at : at + CHUNK]) for at in range(0, len(data), CHUNK))


def frame(opcode: int, payload: bytes) -> bytes:
    """A frame as a client sends it."""
    size = len(payload)
    if size < 126:
        head = bytes((_FINAL | opcode, _MASKED | size))
    elif size < 2**16:
        head = bytes((_FINAL | opcode, _MASKED | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((_FINAL | opcode, _MASKED | 127)) + size.to_bytes(8, "big")
    key = os.urandom(4)
    return head + key + masked(payload, key)


def masked(payload: bytes, key: bytes) -> bytes:
    """A payload under a mask of four bytes; the same again takes it off. One long number is as fast as Python gets here."""
    size = len(payload)
    mask = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(mask, "little")).to_bytes(size, "little")


class FrameReader:
    """Cuts what a websocket's server sends into frames."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """The frames that are whole now, as opcode and payload. Raises ``WireError``."""
        if self._held:
            data = self._held + data
        frames: list[tuple[int, bytes]] = []
        at, end = 0, len(data)
        while end - at >= 2:
            first, size, body = data[at], data[at + 1], at + 2
            if first & _RESERVED or size & _MASKED:
                raise WireError("no frame of a websocket's server")
            if size >= 126:
                body += 2 if size == 126 else 8
                if body > end:
                    break
                size = int.from_bytes(data[at + 2 : body], "big")
                if size > LONGEST_FRAME:
                    raise WireError(f"a frame of {size} bytes")
            if body + size > end:
                break
            frames.append((first & 0x0F, data[body : body + size]))
            at = body + size
        self._held = data[at:]
        return frames
