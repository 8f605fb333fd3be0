"""What tests of port-forwards connect by."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_llmperf.deploy.kubernetes.access.port_forward import PortForward
from tests.unit.deploy.kubernetes.forwarding import WAIT_S, Connect


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Opens connections to a port-forward; they are closed with the test."""
    opened: list[socket.socket] = []

    def connected(forward: PortForward) -> socket.socket:
        host, _, port = forward.url.removeprefix("http://").partition(":")
        opened.append(socket.create_connection((host, int(port)), timeout=WAIT_S))
        return opened[-1]

    yield connected
    for one in opened:
        one.close()


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A person without any kubeconfig, pod or proxy."""
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
