"""An API server as far as port-forwards know it, which does to each what a test wants: also what a real one does rarely."""

from __future__ import annotations

import json
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from threading import Thread
from typing import Any

from pytest_llmperf.deploy.kubernetes.access.port_forward_wire import (
    BINARY,
    CLOSE,
    CONTINUATION,
    DATA,
    ERROR,
    PING,
    accept_of,
    masked,
)

PORT = 8000
_PREAMBLE = PORT.to_bytes(2, "little")
_RESET = struct.pack("ii", 1, 0)
_VERSION = b'HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 24\r\n\r\n{"gitVersion": "v1.0.0"}'
"""What makes it an API server to who connects."""


class Link:
    """One request for a port-forward, as its server has it."""

    def __init__(self, sock: socket.socket, head: str) -> None:
        self._sock = sock
        self._input = sock.makefile("rb")
        self.target, self.headers = head_parts(head)

    @property
    def pod(self) -> str:
        """Whose port is wanted."""
        return self.target.partition("/pods/")[2].partition("/")[0]

    def refuse(self, status: int, message: str) -> None:
        """Answer with a Status."""
        body = json.dumps({"kind": "Status", "message": message}).encode()
        self._sock.sendall(b"HTTP/1.1 %d No\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body)

    def accept(self, first: bytes = b"") -> None:
        """Make it a websocket. The ports, and what may follow them, arrive together with that."""
        accepted = accept_of(self.headers["sec-websocket-key"])
        head = f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accepted}\r\n\r\n"
        self._sock.sendall(head.encode() + of_channel(DATA, _PREAMBLE) + of_channel(ERROR, _PREAMBLE) + first)

    def say(self, data: bytes) -> None:
        """What the pod sends."""
        self._sock.sendall(of_channel(DATA, data))

    def say_bit_by_bit(self, data: bytes) -> None:
        """The same in frames of three bytes that are one message, with a ping in between, a byte at a time."""
        message = bytes([DATA]) + data
        parts = [message[at : at + 3] for at in range(0, len(message), 3)]
        frames = [
            server_frame(BINARY if at == 0 else CONTINUATION, part, is_last=at == len(parts) - 1) for at, part in enumerate(parts)
        ]
        frames.insert(1, server_frame(PING, b"alive?"))
        for byte in b"".join(frames):
            self._sock.sendall(bytes([byte]))

    def fail(self, text: str) -> None:
        """What the node says when it cannot reach the pod's port."""
        self._sock.sendall(of_channel(ERROR, text.encode()) + server_frame(CLOSE, b"\x03\xe8"))

    def close(self) -> None:
        """The pod has closed the connection."""
        self._sock.sendall(server_frame(CLOSE, b"\x03\xe8"))

    def send_raw(self, data: bytes) -> None:
        """Whatever it is."""
        self._sock.sendall(data)

    def reset(self) -> None:
        """As a server that is killed."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.end()

    def cut(self) -> None:
        """Break off; another thread may be listening to it."""
        self._sock.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        """Give the connection back."""
        self._input.close()
        with suppress(OSError):
            self._sock.close()

    def frame(self) -> tuple[int, bytes] | None:
        """The client's next frame; None at the end."""
        head = self._input.read(2)
        if len(head) < 2:
            return None
        assert head[1] & 0x80, "a client masks"
        size = head[1] & 0x7F
        if size >= 126:
            size = int.from_bytes(self._input.read(2 if size == 126 else 8), "big")
        key = self._input.read(4)
        return head[0] & 0x0F, masked(self._input.read(size), key)

    def heard(self) -> Iterator[bytes]:
        """What the client sends, until it ends the connection."""
        while (frame := self.frame()) is not None and frame[0] != CLOSE:
            if frame[0] == BINARY:
                assert frame[1][0] == DATA
                yield frame[1][1:]


Behaviour = Callable[[Link], None]


def head_parts(head: str) -> tuple[str, dict[str, str]]:
    """The target of a request, and its headers by small names."""
    first, *lines = head.split("\r\n")
    return first.split(" ")[1], {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)
    }


def of_channel(channel: int, data: bytes) -> bytes:
    """A message as a node sends it."""
    return server_frame(BINARY, bytes([channel]) + data)


def server_frame(opcode: int, payload: bytes, *, is_last: bool = True) -> bytes:
    """A frame as a server sends it."""
    first = (0x80 if is_last else 0) | opcode
    if len(payload) < 126:
        return bytes([first, len(payload)]) + payload
    if len(payload) < 2**16:
        return bytes([first, 126]) + len(payload).to_bytes(2, "big") + payload
    return bytes([first, 127]) + len(payload).to_bytes(8, "big") + payload


def echo(link: Link) -> None:
    """A pod that sends back what it gets."""
    link.accept()
    for data in link.heard():
        link.say(data)


class ForwardingServer(ThreadingTCPServer):
    """``behaviours`` are for the first requests in their order, the last one for all that follow."""

    allow_reuse_address = True
    request_queue_size = 256
    daemon_threads = True

    def __init__(self, *behaviours: Behaviour, port: int = 0, certificate: Path | None = None) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.behaviours = list(behaviours)
        self.links: list[Link] = []
        self.proxied: list[str] = []
        """What was asked of it as of a proxy: the heads of those requests."""
        self.certificate = certificate

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def next_behaviour(self) -> Behaviour:
        return self.behaviours.pop(0) if len(self.behaviours) > 1 else self.behaviours[0]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is part of the test."""


class _Handler(BaseRequestHandler):
    server: ForwardingServer

    def handle(self) -> None:
        sock: socket.socket = self.request
        if self.server.certificate is not None:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(self.server.certificate)
            sock = tls.wrap_socket(sock, server_side=True)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = _head(sock)
        if head.startswith("CONNECT "):
            self.server.proxied.append(head)
            sock.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
            head = _head(sock)
        if "/version " in head:
            sock.sendall(_VERSION)
            sock.close()
            return
        link = Link(sock, head)
        self.server.links.append(link)
        with suppress(OSError):
            self.server.next_behaviour()(link)
        link.end()


def _head(sock: socket.socket) -> str:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        if not byte:
            raise ConnectionError("gone")
        head += byte
    return head.decode().removesuffix("\r\n\r\n")


@contextmanager
def forwarding_server(*behaviours: Behaviour, port: int = 0, certificate: Path | None = None) -> Iterator[ForwardingServer]:
    """One that runs."""
    with ForwardingServer(*behaviours, port=port, certificate=certificate) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(10)
