"""Port-forwards in trouble: what a client sees of it, what is told, what is left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event

import pytest

from pytest_llmperf.deploy.kubernetes.access.port_forward import PortForward, order_of, round_trip
from pytest_llmperf.deploy.kubernetes.api.client import KubeApi
from pytest_llmperf.deploy.kubernetes.api.credentials import load_credentials
from pytest_llmperf.errors import DeployError
from pytest_llmperf.secrets import HiddenBytes
from tests.unit.deploy.certificates import make_certificate
from tests.unit.deploy.kubernetes.forwarding import (
    WAIT_S,
    Connect,
    await_end,
    await_true,
    descriptors,
    failure,
    forwarding,
    is_reset,
    kubeconfig,
    received,
)
from tests.unit.deploy.kubernetes.forwarding_server import PORT, Link, echo, forwarding_server
from tests.unit.deploy.scripted_server import scripted_server


def test_a_node_that_cannot_reach_the_port_is_a_reset_that_is_told(tmp_path: Path, connect: Connect) -> None:
    def refused(link: Link) -> None:
        link.accept()
        link.fail("error forwarding port 8000: connection refused")
        list(link.heard())

    with forwarding_server(refused) as server, forwarding(tmp_path, server) as forward:
        assert is_reset(connect, forward)
        said = failure(forward)
        assert "lost a connection" in said
        assert "pod-a: error forwarding port 8000: connection refused" in said


def test_what_its_process_is_told_is_shown_nowhere(tmp_path: Path, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[bytes] = []
    tell = PortForward._tell

    def telling(forward: PortForward, line: HiddenBytes) -> None:
        told.append(line)
        tell(forward, line)

    monkeypatch.setattr(PortForward, "_tell", telling)
    with forwarding_server(echo) as server, forwarding(tmp_path, server) as forward:
        opened = connect(forward)
        opened.sendall(b"1")
        assert received(opened, 1) == b"1"
    assert any(b"the-token" in line for line in told)
    assert repr(told) == repr([b"***"] * len(told))


@pytest.mark.parametrize("how", ["reset", "garbage"])
def test_a_broken_tunnel_ends_only_its_connection_and_the_next_asks_anew(tmp_path: Path, connect: Connect, how: str) -> None:
    asked: list[str] = []
    broken = Event()

    def pods() -> list[str]:
        asked.append(f"pod-{len(asked)}")
        return asked[-1:]

    def break_down(link: Link) -> None:
        link.accept()
        broken.wait(WAIT_S)
        link.reset() if how == "reset" else link.send_raw(b"\xff\xff\xff\xff")
        list(link.heard())

    with forwarding_server(echo, break_down, echo) as server, forwarding(tmp_path, server, pods) as forward:
        good = connect(forward)
        good.sendall(b"1")
        assert received(good, 1) == b"1"
        bad = connect(forward)
        broken.set()
        with pytest.raises(ConnectionResetError):
            bad.recv(1)
        after = connect(forward)
        after.sendall(b"2")
        assert received(after, 1) == b"2"
        good.sendall(b"3")
        assert received(good, 1) == b"3"
    assert [link.pod for link in server.links] == ["pod-0", "pod-0", "pod-1"]


def test_a_spare_that_breaks_is_nobodys_loss(tmp_path: Path, connect: Connect) -> None:
    used: list[Link] = []

    def noted(link: Link) -> None:
        link.accept()
        for data in link.heard():
            used.append(link)
            link.say(data)

    with forwarding_server(noted) as server, forwarding(tmp_path, server, spares=1) as forward:
        fewest = descriptors(forward)
        one = connect(forward)
        one.sendall(b"x")
        assert received(one, 1) == b"x"
        await_true(lambda: len(server.links) == 2 and descriptors(forward) == fewest + 3)
        (spare,) = set(server.links) - set(used)
        spare.cut()
        await_true(lambda: descriptors(forward) == fewest + 2)
        another = connect(forward)
        another.sendall(b"y")
        assert received(another, 1) == b"y"
        assert forward.failures is None


def test_a_refusal_that_stays_is_told_at_once(tmp_path: Path, connect: Connect) -> None:
    def forbidden(link: Link) -> None:
        link.refuse(403, 'pods "pod-a" is forbidden: User "u" cannot create resource "pods/portforward"')

    with forwarding_server(forbidden) as server, forwarding(tmp_path, server) as forward:
        assert is_reset(connect, forward)
        assert 'cannot create resource "pods/portforward"' in failure(forward)
    assert len(server.links) == 1


def test_a_pod_that_has_gone_is_replaced_before_the_client_notices(tmp_path: Path, connect: Connect) -> None:
    named = iter([["pod-old"], ["pod-new"]])

    def gone(link: Link) -> None:
        link.refuse(404, 'pods "pod-old" not found')

    with forwarding_server(gone, echo) as server, forwarding(tmp_path, server, lambda: next(named)) as forward:
        opened = connect(forward)
        opened.sendall(b"hello")
        assert received(opened, 5) == b"hello"
        assert forward.failures is None
    assert [link.pod for link in server.links] == ["pod-old", "pod-new"]


def test_a_connection_waits_for_an_api_server_that_is_away(tmp_path: Path, connect: Connect) -> None:
    asked = Event()

    def pods() -> list[str]:
        asked.set()
        return ["pod-a"]

    with forwarding_server(echo) as server:
        file, port = kubeconfig(tmp_path, f"http://127.0.0.1:{server.port}", {}), server.port
        api = KubeApi.connect(file)
    with api, PortForward(api, "ns", pods, PORT, spares=0) as forward:
        opened = connect(forward)
        assert asked.wait(WAIT_S)
        with forwarding_server(echo, port=port):
            opened.sendall(b"hello")
            assert received(opened, 5) == b"hello"
            assert forward.failures is None
            opened.close()


@pytest.mark.parametrize(
    ("pods", "told"), [(list, "no pod is ready"), (lambda: (_ for _ in ()).throw(DeployError("the cluster is gone")), "is gone")]
)
def test_where_there_is_no_pod_there_is_no_connection(
    tmp_path: Path, connect: Connect, pods: Callable[[], Sequence[str]], told: str
) -> None:
    with forwarding_server(echo) as server, forwarding(tmp_path, server, pods) as forward:
        assert is_reset(connect, forward)
        assert told in failure(forward)
    assert not server.links


def test_the_certificate_is_checked(tmp_path: Path, connect: Connect) -> None:
    both, certificate = make_certificate(tmp_path)
    (tmp_path / "other").mkdir()
    trusted = {"certificate-authority": str(certificate)}
    with forwarding_server(echo, certificate=both) as server, forwarding(tmp_path, server, cluster=trusted) as forward:
        opened = connect(forward)
        opened.sendall(b"sealed")
        assert received(opened, 6) == b"sealed"
        server.certificate, _ = make_certificate(tmp_path / "other")
        assert is_reset(connect, forward)
        assert "certificate is not trusted" in failure(forward)


def test_a_proxy_spoken_to_by_tls_is_refused_at_once(tmp_path: Path) -> None:
    file = kubeconfig(tmp_path, "https://127.0.0.1:1", {"proxy-url": "https://proxy.example:3128"})
    with pytest.raises(DeployError, match="cannot go through a proxy"):
        order_of(load_credentials(file, None), "ns", PORT)


def test_nothing_is_left_when_it_is_closed(tmp_path: Path, connect: Connect) -> None:
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
    ended = Event()

    def listen(link: Link) -> None:
        link.accept()
        link.say(b"!")
        list(link.heard())
        ended.set()

    with forwarding_server(listen) as server:
        with forwarding(tmp_path, server) as forward:
            opened = connect(forward)
            assert received(opened, 1) == b"!"
            pid, port = forward.process_id, int(forward.url.rpartition(":")[2])
        assert not Path(f"/proc/{pid}").exists()
        assert ended.wait(WAIT_S)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)
        opened.close()
        forward.close()
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    with forwarding_server(echo) as server:
        file = kubeconfig(tmp_path, f"http://127.0.0.1:{server.port}", {})
        program = (
            "import os, signal, sys\n"
            "from pathlib import Path\n"
            "from tests.unit.deploy.kubernetes.forwarding import KubeApi, PortForward\n"
            f"forward = PortForward(KubeApi.connect(Path({str(file)!r})), 'ns', lambda: ['pod-a'], 8000)\n"
            "print(forward.process_id, flush=True)\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=WAIT_S)
    assert done.returncode == -signal.SIGKILL, done.stderr
    await_end(int(done.stdout))


def test_a_process_that_was_killed_is_told(tmp_path: Path) -> None:
    with forwarding_server(echo) as server, forwarding(tmp_path, server) as forward:
        os.kill(forward.process_id, signal.SIGKILL)
        await_end(forward.process_id)
        assert forward.lost() == forward.failures == "the port-forward's process ended with status -9"
        assert forward.round_trip() is None


def test_who_closes_after_each_answer_has_no_round_trip() -> None:
    with scripted_server() as server, pytest.raises(ConnectionError):
        round_trip("127.0.0.1", server.server_address[1], "/health")
