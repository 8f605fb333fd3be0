"""Port-forwards through an API server that behaves as a test wants: what arrives, in which pieces, how fast."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from threading import Semaphore
from typing import ClassVar

import pytest

from pytest_llmperf.deploy.kubernetes.access.port_forward import round_trip
from tests.unit.deploy.certificates import make_certificate
from tests.unit.deploy.kubernetes.forwarding import WAIT_S, Connect, await_true, forwarding, is_stuck, received
from tests.unit.deploy.kubernetes.forwarding_server import PORT, Link, echo, forwarding_server, server_frame


def test_everything_arrives_in_both_directions(tmp_path: Path, connect: Connect) -> None:
    content = os.urandom(1_000_003)
    with forwarding_server(echo) as server, forwarding(tmp_path, server) as forward:
        opened = connect(forward)
        sender = threading.Thread(target=opened.sendall, args=(content,))
        sender.start()
        assert received(opened, len(content)) == content
        sender.join(WAIT_S)
    assert server.links[0].target == f"/api/v1/namespaces/ns/pods/pod-a/portforward?ports={PORT}"
    assert server.links[0].headers["authorization"] == "Bearer the-token"
    assert forward.failures is None


def test_connections_go_to_the_pods_in_turn(tmp_path: Path, connect: Connect) -> None:
    with forwarding_server(echo) as server, forwarding(tmp_path, server, lambda: ["pod-a", "pod-b"]) as forward:
        for _ in range(4):
            opened = connect(forward)
            opened.sendall(b"x")
            assert received(opened, 1) == b"x"
    assert sorted(link.pod for link in server.links) == ["pod-a", "pod-a", "pod-b", "pod-b"]


def test_a_message_may_come_in_parts_and_with_what_is_none(tmp_path: Path, connect: Connect) -> None:
    frames: Queue[tuple[int, bytes] | None] = Queue()

    def in_parts(link: Link) -> None:
        link.accept()
        link.say_bit_by_bit(b"a token, and another one")
        frames.put(link.frame())
        link.close()

    with forwarding_server(in_parts) as server, forwarding(tmp_path, server) as forward:
        assert received(connect(forward), 1000) == b"a token, and another one"
        assert frames.get(timeout=WAIT_S) == (10, b"alive?")  # the answer to the ping


def test_what_follows_the_handshake_at_once_is_not_lost(tmp_path: Path, connect: Connect) -> None:
    def early(link: Link) -> None:
        link.accept(server_frame(2, b"\x00220 ready"))
        list(link.heard())

    with forwarding_server(early) as server, forwarding(tmp_path, server) as forward:
        assert received(connect(forward), 9) == b"220 ready"


def test_the_pods_end_is_the_clients_after_all_it_said(tmp_path: Path, connect: Connect) -> None:
    def last_words(link: Link) -> None:
        link.accept()
        link.say(b"y" * 300_000)
        link.close()

    with forwarding_server(last_words) as server, forwarding(tmp_path, server) as forward:
        assert received(connect(forward), 10**9) == b"y" * 300_000
        assert forward.failures is None


def test_the_clients_end_is_the_pods_after_all_it_sent(tmp_path: Path, connect: Connect) -> None:
    heard: Queue[bytes] = Queue()

    def listen(link: Link) -> None:
        link.accept()
        link.say(b"!")
        heard.put(b"".join(link.heard()))

    with forwarding_server(listen) as server, forwarding(tmp_path, server) as forward:
        opened = connect(forward)
        assert received(opened, 1) == b"!"
        opened.sendall(b"q" * 200_000)
        opened.close()
        assert heard.get(timeout=WAIT_S) == b"q" * 200_000
        assert forward.failures is None


def test_a_spare_is_open_before_it_is_needed(tmp_path: Path, connect: Connect) -> None:
    opened = Semaphore(0)

    def counted(link: Link) -> None:
        link.accept()
        opened.release()
        for data in link.heard():
            link.say(data)

    with forwarding_server(counted) as server, forwarding(tmp_path, server, spares=2) as forward:
        for expected in (3, 4):
            one = connect(forward)
            one.sendall(b"x")
            assert received(one, 1) == b"x"
            while len(server.links) < expected:
                assert opened.acquire(timeout=WAIT_S)
        assert forward.failures is None
    assert len(server.links) == 4


@pytest.mark.parametrize("is_secure", [False, True])
def test_who_reads_slowly_holds_the_pod_up_and_loses_nothing(tmp_path: Path, connect: Connect, is_secure: bool) -> None:
    part, parts, said = os.urandom(2**16), 1000, list[int]()

    def talk(link: Link) -> None:
        link.accept()
        for number in range(parts):
            link.say(part)
            said.append(number)
        link.close()
        list(link.heard())

    both, certificate = make_certificate(tmp_path) if is_secure else (None, None)
    trusted = {"certificate-authority": str(certificate)} if is_secure else {}
    with forwarding_server(talk, certificate=both) as server, forwarding(tmp_path, server, cluster=trusted) as forward:
        opened = connect(forward)
        await_true(lambda: is_stuck(said))
        assert len(said) < parts / 2
        assert received(opened, 10**9) == part * parts


def test_a_proxy_is_asked_with_its_password(tmp_path: Path, connect: Connect) -> None:
    with forwarding_server(echo) as server:
        proxy = {"proxy-url": f"http://me:secret@127.0.0.1:{server.port}"}
        with forwarding(tmp_path, server, cluster=proxy) as forward:
            opened = connect(forward)
            opened.sendall(b"around")
            assert received(opened, 6) == b"around"
    assert server.proxied[0].startswith(f"CONNECT 127.0.0.1:{server.port} HTTP/1.1\r\n")
    assert "Proxy-Authorization: Basic bWU6c2VjcmV0" in server.proxied[0]


class Health(BaseHTTPRequestHandler):
    """Answers, and lets a client go on with the same connection."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[list[tuple[str, int]]] = []

    def do_GET(self) -> None:
        self.asked.append((self.path, self.client_address[1]))
        is_chunked = self.path == "/chunked"
        self.send_response(200)
        self.send_header(*(("Transfer-Encoding", "chunked") if is_chunked else ("Content-Length", "2")))
        self.end_headers()
        self.wfile.write(b"2\r\nok\r\n0\r\n\r\n" if is_chunked else b"ok")

    def log_message(self, *_: object) -> None:
        """Nothing: the test says what it saw."""


@pytest.mark.parametrize("path", ["/health", "/chunked"])
def test_a_round_trip_is_measured_over_one_connection(path: str) -> None:
    Health.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Health) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        trip = round_trip("127.0.0.1", server.server_address[1], path)
        server.shutdown()
        thread.join(WAIT_S)
    assert len(Health.asked) == trip.count + 1
    assert len(set(Health.asked)) == 1
    assert Health.asked[0][0] == path
    assert 0 < trip.p50_s <= trip.p99_s


def test_its_process_starts_without_what_is_slow_to_load() -> None:
    program = (
        "import sys, pytest_llmperf.deploy.kubernetes.access.port_forward_process as _;"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"kubernetes", "yaml", "numpy", "pydantic", "httpx", "urllib3", "pytest"}


def test_its_process_has_nothing_of_the_environment_that_it_does_not_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, connect: Connect
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789abcdef")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    with forwarding_server(echo) as server, forwarding(tmp_path, server) as forward:
        environment = Path(f"/proc/{forward.process_id}/environ").read_text()
        opened = connect(forward)
        opened.sendall(b"x")
        assert received(opened, 1) == b"x"
    known = dict(one.split("=", 1) for one in environment.rstrip("\0").split("\0"))
    assert known["TMPDIR"] == str(tmp_path)
    assert known["PYTHONPATH"].endswith(f"{os.pathsep}/elsewhere")
    assert not {"HF_TOKEN", "PATH"} & set(known)
