"""The process of a port-forward: ``python -m ...port_forward_process``, its order on standard input.

It is a process of its own because pytest's is busy with other things, and what has to wait for those arrives late. It ends when
its input does, so with whoever started it, however that ended.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import sys
from base64 import b64encode
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from tempfile import NamedTemporaryFile
from typing import Any
from urllib.parse import unquote, urlsplit

import uvloop

from pytest_llmperf.deploy.kubernetes.access.port_forward_messages import HOST, Aim, Order, json_line
from pytest_llmperf.deploy.kubernetes.access.port_forward_tunnel import Local, OpeningError, Tunnel, TunnelOwner, Upgrade
from pytest_llmperf.deploy.kubernetes.access.port_forward_wire import WireError, forward_target, head_of, new_key, upgrade_request

OPENING_S = 20.0
"""For one try to open a tunnel."""
PATIENCE_S = 15.0
"""How long a new connection waits for an API server that is away: it is restarted, or another one takes over."""
AIM_S = 10.0
"""How long is taken for true what was said about pods and credentials."""
ANSWER_S = 90.0
"""How long the answer to that may take. It may need an API server that is away, or a plugin that logs in."""
AT_A_TIME = 16
"""Tunnels that are opened side by side."""
BEAT_S = 15.0
"""A tunnel on which nothing came for so long is asked for a sign of life."""
DEAD_BEATS = 4
"""After so many of them without any, nobody is there."""
SPARE_S = 20.0
"""How long a tunnel is kept open for a connection that may come."""
_RETRY_S = 0.2
_LOOK_S = 1.0
_BACKLOG = 1024
_LONGEST_TOLD = 1000
"""Characters of what went wrong: a message is to fit into a pipe at once."""


@dataclass
class Gateway:
    """The API server as the way to pods."""

    order: Order
    tls: ssl.SSLContext | None

    async def open(self, pod: str, aim: Aim, owner: TunnelOwner) -> Tunnel:
        """A tunnel to a pod. Raises ``OpeningError``."""
        try:
            self._renew(aim.certificate)
            async with asyncio.timeout(OPENING_S):
                return await self._open(pod, aim.headers, owner)
        except ssl.SSLCertVerificationError as error:
            raise OpeningError(f"the API server's certificate is not trusted: {error.verify_message}", may_pass=False) from None
        except TimeoutError:
            raise OpeningError(f"the API server opened no tunnel within {OPENING_S:.0f} s") from None
        except OSError as error:
            raise OpeningError(f"the API server cannot be reached: {error.strerror or error}") from None

    def _renew(self, certificate: str) -> None:
        if certificate != self.order.certificate:
            self.order = replace(self.order, certificate=certificate)
            self.tls = tls_of(self.order)

    async def _open(self, pod: str, headers: Mapping[str, str], owner: TunnelOwner) -> Tunnel:
        loop = asyncio.get_running_loop()
        url = urlsplit(self.order.server)
        key = new_key()
        target = forward_target(url.path, self.order.namespace, pod, self.order.port)
        request = upgrade_request(url.netloc, target, key, headers)
        opened: asyncio.Future[Tunnel] = loop.create_future()
        host, port = url.hostname or "", url.port or (443 if self.tls else 80)
        place: dict[str, Any] = {"host": host, "port": port}
        if self.order.proxy is not None:
            place = {"sock": await through_proxy(self.order.proxy, host, port)}
        if self.tls is not None:
            place |= {"ssl": self.tls, "server_hostname": self.order.server_name or host, "ssl_shutdown_timeout": 2.0}
        transport, _ = await loop.create_connection(lambda: Upgrade(request, key, opened, owner, pod), **place)
        try:
            return await opened
        except BaseException:
            transport.abort()
            raise


async def through_proxy(proxy: str, host: str, port: int) -> socket.socket:
    """A socket to a server behind an HTTP proxy. Raises ``OpeningError`` and ``OSError``."""
    loop = asyncio.get_running_loop()
    url = urlsplit(proxy)
    found = await loop.getaddrinfo(url.hostname or "", url.port or 80, type=socket.SOCK_STREAM)
    family, kind, protocol, _, address = found[0]
    opened = socket.socket(family, kind, protocol)
    try:
        opened.setblocking(False)
        await loop.sock_connect(opened, address)
        await loop.sock_sendall(
            opened, connect_request(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", url.username, url.password)
        )
        await _accepted_by_proxy(opened)
    except BaseException:
        opened.close()
        raise
    return opened


def connect_request(target: str, user: str | None, password: str | None) -> bytes:
    """What a proxy is asked with."""
    login = b""
    if user is not None:
        login = b"Proxy-Authorization: Basic %s\r\n" % b64encode(f"{unquote(user)}:{unquote(password or '')}".encode())
    return f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n".encode() + login + b"\r\n"


async def _accepted_by_proxy(opened: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    held = b""
    while True:
        more = await loop.sock_recv(opened, 4096)
        held += more
        try:
            found = head_of(held)
        except WireError as error:
            raise OpeningError(f"the proxy does not speak HTTP: {error}", may_pass=False) from None
        if found is not None and found[0].status == 200:
            return
        if found is not None or not more:
            how = f"answers {found[0].status} {found[0].reason}" if found is not None else "broke the connection off"
            raise OpeningError(f"the proxy before the API server {how}")


class Forwarder(TunnelOwner):
    """Takes connections and carries each to a pod that is ready."""

    def __init__(self, gateway: Gateway, say: Callable[..., None]) -> None:
        self._gateway = gateway
        self._say = say
        self._tunnels: dict[Tunnel, int] = {}
        """Each with the number of beats since something was heard."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._at_a_time = asyncio.Semaphore(AT_A_TIME)
        self._aim: Aim | None = None
        self._aim_until_s = 0.0
        self._asked: asyncio.Future[Aim] | None = None
        self._turn = 0
        self._spares: list[tuple[Tunnel, float]] = []
        """Open tunnels that carry nothing yet, and when they were opened, the oldest first."""
        self._spares_to_come = 0

    def accept(self, local: Local) -> None:
        """Somebody has connected. Who connects once often does so again, and then finds a tunnel that is open."""
        if self._spares:
            self._spares.pop()[0].join(local)
        else:
            self._begin(self._serve(local))
        for _ in range(self._gateway.order.spares - len(self._spares) - self._spares_to_come):
            self._spares_to_come += 1
            self._begin(self._prepare())

    def answered(self, aim: Aim) -> None:
        """The answer to a question of ours."""
        if self._asked is not None and not self._asked.done():
            self._asked.set_result(aim)

    def broken(self, tunnel: Tunnel, why: str) -> None:
        """The next connection asks anew which pods there are."""
        self._aim = None
        if tunnel.is_used:
            self._say(failed=f"{tunnel.pod}: {why}"[:_LONGEST_TOLD])

    def ended(self, tunnel: Tunnel) -> None:
        """A tunnel that is gone needs no care."""
        self._tunnels.pop(tunnel, None)
        self._spares = [spare for spare in self._spares if spare[0] is not tunnel]

    def care_for(self, tunnel: Tunnel) -> None:
        """See that it lives, from now on."""
        self._tunnels[tunnel] = 0

    def tidy(self) -> None:
        """Close the spares that nobody has wanted for long: a server may not like clients that say nothing."""
        oldest_s = asyncio.get_running_loop().time() - SPARE_S
        for tunnel, opened_s in list(self._spares):
            if opened_s < oldest_s:
                tunnel.end()

    def beat(self) -> None:
        """Ask silent tunnels for a sign of life, and give up those that have given none for long."""
        for tunnel, silent in list(self._tunnels.items()):
            if tunnel.was_heard or tunnel.is_held:
                tunnel.was_heard, self._tunnels[tunnel] = False, 0
            elif silent >= DEAD_BEATS:
                tunnel.cut(f"nothing was heard for {BEAT_S * DEAD_BEATS:.0f} s")
            else:
                self._tunnels[tunnel] = silent + 1
                tunnel.ping()

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _prepare(self) -> None:
        # Why there is none is told to the connection that needs one.
        with suppress(OpeningError):
            try:
                async with self._at_a_time:
                    tunnel = await self._tunnel()
            finally:
                self._spares_to_come -= 1
            self._spares.append((tunnel, asyncio.get_running_loop().time()))

    async def _serve(self, local: Local) -> None:
        try:
            tunnel = await self._patiently()
        except OpeningError as error:
            self._say(failed=str(error)[:_LONGEST_TOLD])
            local.reset()
            return
        if local.is_gone:
            tunnel.end()
        else:
            tunnel.join(local)

    async def _patiently(self) -> Tunnel:
        """A tunnel; again, for a while, where the trouble may pass."""
        loop = asyncio.get_running_loop()
        give_up_s = loop.time() + PATIENCE_S
        while True:
            try:
                async with self._at_a_time:
                    return await self._tunnel()
            except OpeningError as error:
                self._aim = None
                if not error.may_pass or loop.time() >= give_up_s:
                    raise
            await asyncio.sleep(_RETRY_S)

    async def _tunnel(self) -> Tunnel:
        aim = await self._aimed()
        self._turn += 1
        pod = aim.pods[self._turn % len(aim.pods)]
        tunnel = await self._gateway.open(pod, aim, self)
        if tunnel.is_over:
            raise OpeningError(f"{pod}: {tunnel.fault or 'the connection was closed at once'}", may_pass=False)
        self.care_for(tunnel)
        return tunnel

    async def _aimed(self) -> Aim:
        """Where to: as it was said a moment ago, else as it is said now. Raises ``OpeningError`` where there is no pod."""
        loop = asyncio.get_running_loop()
        if self._aim is not None and loop.time() < self._aim_until_s:
            return self._aim
        if self._asked is None or self._asked.done():
            self._asked = loop.create_future()
            self._say(asks=True)
        try:
            async with asyncio.timeout(ANSWER_S):
                aim = await asyncio.shield(self._asked)
        except TimeoutError:
            self._asked = None
            raise OpeningError("nobody says which pods are ready", may_pass=False) from None
        if aim.error:
            raise OpeningError(aim.error, may_pass=False)
        if not aim.pods:
            raise OpeningError("no pod is ready", may_pass=False)
        self._aim, self._aim_until_s = aim, loop.time() + AIM_S
        return aim


class Answers(asyncio.Protocol):
    """What comes on standard input after the order; its end is this process's."""

    def __init__(self, forwarder: Forwarder, over: asyncio.Event) -> None:
        self._forwarder = forwarder
        self._over = over
        self._held = b""

    def data_received(self, data: bytes) -> None:
        """Answers, or parts of them."""
        *lines, self._held = (self._held + data).split(b"\n")
        for line in lines:
            self._forwarder.answered(Aim.read(line))

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002  (asyncio's)
        """Nobody needs this process any more."""
        self._over.set()


def tls_of(order: Order) -> ssl.SSLContext | None:
    """How the API server is spoken to; None in the clear."""
    if urlsplit(order.server).scheme != "https":
        return None
    context = ssl.create_default_context(cadata=order.authorities or None)
    # Clusters' own authorities often lack an extension that Python 3.13 wants and nobody else does.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if not order.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if order.certificate:
        with NamedTemporaryFile("w") as file:  # nobody else may read it, and it goes at once
            file.write(order.certificate)
            file.flush()
            context.load_cert_chain(file.name)
    return context


def say(**message: object) -> None:
    """Tell whoever started this process. Nobody is waited for."""
    with suppress(BlockingIOError, BrokenPipeError):
        os.write(1, json_line(message))


async def forward(order: Order) -> None:
    """Until nobody needs it any more."""
    loop = asyncio.get_running_loop()
    parent = os.getppid()
    over = asyncio.Event()
    forwarder = Forwarder(Gateway(order, tls_of(order)), say)
    server = await loop.create_server(lambda: Local(forwarder.accept), HOST, 0, backlog=_BACKLOG)
    await loop.connect_read_pipe(lambda: Answers(forwarder, over), sys.stdin.buffer)
    say(listens=server.sockets[0].getsockname()[1])
    next_beat_s = loop.time() + BEAT_S
    # An input that somebody else holds open as well does not close with the parent.
    while not over.is_set() and os.getppid() == parent:
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_S):
                await over.wait()
        forwarder.tidy()
        if loop.time() >= next_beat_s:
            next_beat_s += BEAT_S
            forwarder.beat()
    server.close()


def main() -> int:
    """Run the order that standard input begins with."""
    line = b""
    # Byte by byte: what follows is not this function's.
    while not line.endswith(b"\n"):
        if not (more := os.read(0, 1)):
            return 1
        line += more
    os.set_blocking(1, False)
    try:
        uvloop.run(forward(Order.read(line)))
    except (OSError, ssl.SSLError) as error:
        say(error=str(error)[:_LONGEST_TOLD])
        return 1
    # Connections that are open end with the process: nobody has time for their good-byes.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
