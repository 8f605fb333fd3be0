"""Tunnels: a connection of this machine, the websocket that carries it, and what one's end means for the other."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Protocol, cast

from pytest_llmperf.deploy.kubernetes.access.port_forward_wire import (
    BINARY,
    CLOSE,
    CONTINUATION,
    DATA,
    PING,
    PONG,
    PORT_BYTES,
    FrameReader,
    Head,
    WireError,
    accept_of,
    data_frames,
    frame,
    head_of,
    refused,
)

LONGEST_REFUSAL = 2**16
MOST_HELD = 2**18
"""Bytes of a connection that are taken while its tunnel is still being opened."""
_AT_ONCE = struct.pack("ii", 1, 0)
"""A connection that lingers so is reset when it is closed."""
_MAY_PASS = {401, 404, 408, 429, 500, 502, 503, 504}
"""What may be another answer a moment later: new credentials, another pod, a server that has come up."""


class OpeningError(Exception):
    """A tunnel cannot be opened; ``may_pass``: it is worth another try."""

    def __init__(self, what: str, *, may_pass: bool = True) -> None:
        super().__init__(what)
        self.may_pass = may_pass


class TunnelOwner(Protocol):
    """Who is told what becomes of a tunnel."""

    def broken(self, tunnel: Tunnel, why: str) -> None:
        """It has failed, and its connection with it."""
        ...

    def ended(self, tunnel: Tunnel) -> None:
        """It is gone, in whatever way."""
        ...


class Upgrade(asyncio.Protocol):
    """A connection to the API server on its way to be a websocket. ``opened`` gets the tunnel, or an ``OpeningError``."""

    def __init__(self, request: bytes, key: str, opened: asyncio.Future[Tunnel], owner: TunnelOwner, pod: str) -> None:
        self._request = request
        self._accept = accept_of(key)
        self._opened = opened
        self._owner = owner
        self._pod = pod
        self._head: Head | None = None
        self._held = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TLS stands, too."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """The answer, and perhaps the first frames."""
        self._held += data
        if self._head is None:
            try:
                found = head_of(self._held)
            except WireError as error:
                self._fail(OpeningError(str(error)))
                return
            if found is None:
                return
            self._head, self._held = found
        if self._head.status != 101:
            self._refused(self._head)
        elif self._head.headers.get("sec-websocket-accept") != self._accept:
            self._fail(OpeningError("the answer is that to another handshake", may_pass=False))
        else:
            self._succeed()

    def connection_lost(self, error: Exception | None) -> None:
        """The answer has ended, if there was one."""
        if self._head is not None:
            self._fail(_refusal(self._head, self._held))
        else:
            self._fail(OpeningError(f"the API server broke the connection off{_of(error)}"))

    def _refused(self, head: Head) -> None:
        wanted = head.headers.get("content-length", "")
        if len(self._held) >= min(int(wanted) if wanted.isdecimal() else LONGEST_REFUSAL, LONGEST_REFUSAL):
            self._fail(_refusal(head, self._held))

    def _succeed(self) -> None:
        assert self._transport is not None
        if self._opened.done():
            self._transport.abort()
            return
        tunnel = Tunnel(self._transport, self._owner, self._pod)
        self._transport.set_protocol(tunnel)
        self._opened.set_result(tunnel)
        if self._held:
            tunnel.data_received(self._held)

    def _fail(self, error: OpeningError) -> None:
        if not self._opened.done():
            self._opened.set_exception(error)
        if self._transport is not None:
            self._transport.abort()


def _refusal(head: Head, body: bytes) -> OpeningError:
    return OpeningError(refused(head, body), may_pass=head.status in _MAY_PASS)


def _of(error: Exception | None) -> str:
    return f": {error}" if error is not None and str(error) else ""


class Tunnel(asyncio.Protocol):
    """A websocket to a pod's port. It carries one connection, which may come later."""

    def __init__(self, transport: asyncio.Transport, owner: TunnelOwner, pod: str) -> None:
        self.pod = pod
        self.was_heard = True
        """Whether anything has come since somebody last set this to False."""
        self.is_held = False
        """Whether it is not listened to, because its connection is slow."""
        self.fault = ""
        """Why it has failed."""
        self._transport = transport
        self._owner = owner
        self._reader = FrameReader()
        self._local: Local | None = None
        self._early: list[bytes] = []
        self._channel = DATA
        self._port_bytes: dict[int, int] = {}
        self._is_past_port = False
        self._is_over = False

    @property
    def is_over(self) -> bool:
        """Whether it carries nothing any more."""
        return self._is_over

    @property
    def is_used(self) -> bool:
        """Whether there is a connection for it to carry."""
        return self._local is not None

    def join(self, local: Local) -> None:
        """Carry this connection from now on."""
        if self._is_over:
            local.reset()
            return
        self._local = local
        local.join(self)
        for data in self._early:
            local.write(data)
        self._early.clear()

    def send(self, data: bytes) -> None:
        """To the pod."""
        self._transport.write(data_frames(data))

    def ping(self) -> None:
        """Ask the pod's node for a sign of life; what lies between takes it for one as well."""
        self._transport.write(frame(PING, b""))

    def end(self) -> None:
        """Its connection has ended: what was sent is still delivered."""
        if not self._is_over:
            self._over()
            self._transport.write(frame(CLOSE, b""))
            self._transport.close()

    def cut(self, why: str) -> None:
        """It has failed: its connection is reset, as its server would have done."""
        if not self._is_over:
            self.fault = why
            self._owner.broken(self, why)
            self._over()
            self._transport.abort()
            if self._local is not None:
                self._local.reset()

    def hold(self) -> None:
        """Take no more from the pod: its reader is slow."""
        if not self._is_over:
            self.is_held = True
            self._transport.pause_reading()

    def go_on(self) -> None:
        """Take more again."""
        if not self._is_over:
            self.is_held = False
            self._transport.resume_reading()

    # What asyncio says.

    def data_received(self, data: bytes) -> None:
        """Some frames, or parts of them."""
        self.was_heard = True
        try:
            frames = self._reader.feed(data)
        except WireError as error:
            self.cut(str(error))
            return
        received = []
        for opcode, payload in frames:
            if opcode == BINARY and self._is_past_port and payload[:1] == b"\0":
                self._channel = DATA
                received.append(payload[1:])
            elif opcode <= BINARY:
                received.append(self._of_channel(opcode, payload))
            elif not self._control(opcode, payload, received):
                return
        if received:
            self._deliver(received)

    def pause_writing(self) -> None:
        """The API server is slow to take what is sent."""
        if self._local is not None:
            self._local.hold()

    def resume_writing(self) -> None:
        """It has taken it."""
        if self._local is not None:
            self._local.go_on()

    def connection_lost(self, error: Exception | None) -> None:
        """Nobody said good-bye, else it would be over."""
        self.cut(f"the API server broke the connection off{_of(error)}")

    def _over(self) -> None:
        self._is_over = True
        self._owner.ended(self)

    def _deliver(self, received: list[bytes]) -> None:
        data = received[0] if len(received) == 1 else b"".join(received)
        if self._is_over or not data:
            return
        if self._local is None:
            self._early.append(data)
        else:
            self._local.write(data)

    def _of_channel(self, opcode: int, payload: bytes) -> bytes:
        """What a message holds of the connection's data. The channel's number is in a message's first frame only."""
        if opcode != CONTINUATION:
            if not payload:
                return b""
            self._channel, payload = payload[0], payload[1:]
        skipped = min(PORT_BYTES - self._port_bytes.get(self._channel, 0), len(payload))
        if skipped:
            self._port_bytes[self._channel] = self._port_bytes.get(self._channel, 0) + skipped
            self._is_past_port |= self._port_bytes.get(DATA) == PORT_BYTES
            payload = payload[skipped:]
        if self._channel == DATA:
            return payload
        if payload:
            self.cut(payload.decode(errors="replace"))
        return b""

    def _control(self, opcode: int, payload: bytes, received: list[bytes]) -> bool:
        """A frame that is none of the connection's; False when it was the last."""
        if opcode == PING:
            self._transport.write(frame(PONG, payload))
        if opcode != CLOSE:
            return True
        self._deliver(received)
        if not self._is_over:
            self._over()
            self._transport.close()
            if self._local is not None:
                self._local.close()
        return False


class Local(asyncio.Protocol):
    """A connection that somebody on this machine has opened."""

    def __init__(self, accepted: Callable[[Local], None]) -> None:
        self.is_gone = False
        self._accepted = accepted
        self._tunnel: Tunnel | None = None
        self._transport: asyncio.Transport | None = None
        self._held: list[bytes] = []

    def join(self, tunnel: Tunnel) -> None:
        """Its tunnel is open."""
        self._tunnel = tunnel
        for data in self._held:
            tunnel.send(data)
        self._held.clear()
        self.go_on()

    def write(self, data: bytes) -> None:
        """What the pod has said."""
        if self._transport is not None:
            self._transport.write(data)

    def close(self) -> None:
        """The pod has ended the connection; what it said before still arrives."""
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        """There is no server any more."""
        if self._transport is not None and not self.is_gone:
            opened: socket.socket = self._transport.get_extra_info("socket")
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            self._transport.abort()

    def hold(self) -> None:
        """Take no more from the client."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def go_on(self) -> None:
        """Take more again."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    # What asyncio says.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It wants a tunnel."""
        self._transport = cast(asyncio.Transport, transport)
        self._accepted(self)

    def data_received(self, data: bytes) -> None:
        """What the client sends."""
        if self._tunnel is not None:
            self._tunnel.send(data)
            return
        self._held.append(data)
        if sum(map(len, self._held)) > MOST_HELD:
            self.hold()

    def pause_writing(self) -> None:
        """The client is slow to read."""
        if self._tunnel is not None:
            self._tunnel.hold()

    def resume_writing(self) -> None:
        """It has read."""
        if self._tunnel is not None:
            self._tunnel.go_on()

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002  (asyncio's)
        """It has ended. The protocol cannot say that a client will only send no more: its end is the tunnel's."""
        self.is_gone = True
        if self._tunnel is not None:
            self._tunnel.end()
