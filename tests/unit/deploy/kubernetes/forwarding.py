"""A port-forward to an API server that behaves as a test wants, and what is asked of both."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from select import select
from threading import Event
from time import monotonic

from pytest_llmperf.deploy.kubernetes.access.port_forward import PortForward
from pytest_llmperf.deploy.kubernetes.api.client import KubeApi
from tests.unit.deploy.kubernetes.forwarding_server import PORT, ForwardingServer

WAIT_S = 30.0


def kubeconfig(folder: Path, server: str, cluster: Mapping[str, str]) -> Path:
    """One whose user has a token."""
    file = folder / "kubeconfig.yaml"
    more = "".join(f"\n    {key}: {value}" for key, value in cluster.items())
    file.write_text(
        f"""\
apiVersion: v1
kind: Config
current-context: c
contexts: [{{name: c, context: {{cluster: c, user: u}}}}]
clusters:
- name: c
  cluster:
    server: {server}{more}
users: [{{name: u, user: {{token: the-token}}}}]
"""
    )
    return file


@contextmanager
def forwarding(
    folder: Path,
    server: ForwardingServer,
    pods: Callable[[], Sequence[str]] = lambda: ["pod-a"],
    cluster: Mapping[str, str] | None = None,
    spares: int = 0,
) -> Iterator[PortForward]:
    scheme = "http" if server.certificate is None else "https"
    file = kubeconfig(folder, f"{scheme}://127.0.0.1:{server.port}", cluster or {})
    with KubeApi.connect(file) as api, PortForward(api, "ns", pods, PORT, spares=spares) as forward:
        yield forward


Connect = Callable[[PortForward], socket.socket]


def received(opened: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size and (more := opened.recv(2**20)):
        data += more
    return bytes(data)


def await_end(pid: int) -> None:
    """Until a process has ended; it may have already."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended, _, _ = select([watched], [], [], WAIT_S)
    os.close(watched)
    assert ended


def is_reset(connect: Connect, forward: PortForward) -> bool:
    """Whether a new connection is reset; it may be so fast that connecting says so."""
    try:
        connect(forward).recv(1)
    except ConnectionResetError:
        return True
    return False


def await_true(check: Callable[[], bool]) -> None:
    """Until it is so."""
    give_up_s = monotonic() + WAIT_S
    while not check():
        assert monotonic() < give_up_s
        Event().wait(0.005)


def is_stuck(said: list[int]) -> bool:
    """Whether something has been said, and for a while nothing more."""
    before = len(said)
    Event().wait(0.3)
    return 0 < before == len(said)


def failure(forward: PortForward) -> str:
    """What went wrong, as soon as its process has told it: a client may notice before."""
    await_true(lambda: forward.failures is not None)
    return forward.failures or ""


def descriptors(forward: PortForward) -> int:
    """How many files and sockets its process has open."""
    return len(os.listdir(f"/proc/{forward.process_id}/fd"))
