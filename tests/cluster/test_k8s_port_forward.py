"""Port-forwards on a real cluster: what arrives is what the pod sent; pods and API servers that go and come are survived."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from pytest_llmperf.deploy.kubernetes.access.port_forward import PortForward
from pytest_llmperf.deploy.kubernetes.access.reach import ready_pods, service_in
from pytest_llmperf.deploy.kubernetes.api.client import KubeApi
from tests.cluster.cluster import Cluster
from tests.cluster.components import PAUSE_IMAGE
from tests.cluster.objects import listed
from tests.cluster.simulators import NAME, PORT, apply_simulator

pytestmark = pytest.mark.timeout(300)

STREAMS = 200
ECHO_PORT = 7000
WAIT_S = 60.0


@pytest.fixture
def served(cluster: Cluster, namespace: str, simulator_image: str) -> str:
    """The namespace in which the simulator is ready."""
    apply_simulator(cluster, namespace, simulator_image)
    return namespace


@contextmanager
def forwarded(api: KubeApi, namespace: str) -> Iterator[PortForward]:
    known = service_in(api, namespace, NAME, PORT)
    with PortForward(api, namespace, lambda: ready_pods(api, namespace, known), PORT) as forward:
        yield forward


def client_of(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, transport=httpx.HTTPTransport(retries=10), trust_env=False, timeout=WAIT_S)


def asks(model: str, prompt: str, max_tokens: int) -> dict[str, object]:
    return {"model": model, "prompt": prompt, "max_tokens": max_tokens, "ignore_eos": True, "stream": True}


def model_at(url: str) -> str:
    with client_of(url) as client:
        return str(client.get("/v1/models").json()["data"][0]["id"])


async def streams(url: str, model: str) -> list[list[str]]:
    """The texts of many streams at once, chunk by chunk."""
    limits = httpx.Limits(max_connections=STREAMS)
    async with httpx.AsyncClient(base_url=url, limits=limits, trust_env=False, timeout=WAIT_S) as client:

        async def texts(index: int) -> list[str]:
            async with client.stream("POST", "/v1/completions", json=asks(model, f"This is prompt {index}.", 20)) as answer:
                lines = [line.removeprefix("data: ") async for line in answer.aiter_lines() if line]
            assert lines[-1] == "[DONE]"
            return [choice["text"] for line in lines[:-1] for choice in json.loads(line)["choices"]]

        return await asyncio.gather(*map(texts, range(STREAMS)))


def open_descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_two_hundred_streams_are_what_the_pod_sends(cluster: Cluster, api: KubeApi, served: str) -> None:
    known = service_in(api, served, NAME, PORT)
    with forwarded(api, served) as forward:
        before = open_descriptors(forward.process_id)
        direct_url = known.url(known.cluster_ip)
        model = model_at(direct_url)
        expected = asyncio.run(streams(direct_url, model))
        assert len(set(map(tuple, expected))) > STREAMS / 2
        assert asyncio.run(streams(forward.url, model)) == expected
        assert forward.failures is None
        cluster.await_true("all tunnels are closed", lambda: open_descriptors(forward.process_id) == before)


def test_a_megabyte_goes_both_ways(cluster: Cluster, api: KubeApi, namespace: str) -> None:
    apply_echo(cluster, namespace)
    content = os.urandom(2**20)
    with PortForward(api, namespace, lambda: ["echo"], ECHO_PORT) as forward:
        port = int(forward.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as opened:
            sender = threading.Thread(target=opened.sendall, args=(content,))
            sender.start()
            echoed = b""
            while len(echoed) < len(content):
                more = opened.recv(2**16)
                assert more
                echoed += more
            sender.join(WAIT_S)
    assert echoed == content


def apply_echo(cluster: Cluster, namespace: str) -> None:
    container = {"name": "echo", "image": PAUSE_IMAGE, "command": ["nc", "-ll", "-p", str(ECHO_PORT), "-e", "cat"]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "echo"}, "spec": {"containers": [container]}}
    container["readinessProbe"] = {"tcpSocket": {"port": ECHO_PORT}, "periodSeconds": 1}  # type: ignore[assignment]
    cluster.kubectl("apply", f"--namespace={namespace}", "--filename=-", given=json.dumps(listed(pod)))
    cluster.kubectl("wait", "pod/echo", "--for=condition=Ready", f"--namespace={namespace}", "--timeout=60s")


def test_a_port_that_nobody_listens_at_is_told(cluster: Cluster, api: KubeApi, namespace: str) -> None:
    apply_echo(cluster, namespace)
    with PortForward(api, namespace, lambda: ["echo"], 7001) as forward:
        assert forward.round_trip() is None
        cluster.await_true("it is told", lambda: forward.failures is not None)
        assert "onnection refused" in (forward.failures or "")


def test_a_pod_that_is_killed_and_replaced(cluster: Cluster, api: KubeApi, served: str) -> None:
    with forwarded(api, served) as forward, client_of(forward.url) as client:
        model = model_at(forward.url)
        (old,) = ready_pods(api, served, service_in(api, served, NAME, PORT))
        with client.stream("POST", "/v1/completions", json=asks(model, "Hello", 10_000)) as answer:
            chunks = answer.iter_raw()
            next(chunks)
            cluster.kubectl("delete", "pod", old, f"--namespace={served}", "--force", "--grace-period=0")
            with pytest.raises(httpx.TransportError):
                exhaust(chunks)
        cluster.kubectl("rollout", "status", f"deployment/{NAME}", f"--namespace={served}", "--timeout=120s")
        assert client.get("/health").status_code == 200
        assert forward.round_trip() is not None


def exhaust(chunks: Iterator[bytes]) -> None:
    for _ in chunks:
        continue


def test_an_api_server_that_is_restarted(cluster: Cluster, api: KubeApi, served: str) -> None:
    with forwarded(api, served) as forward, client_of(forward.url) as client:
        model = model_at(forward.url)
        with client.stream("POST", "/v1/completions", json=asks(model, "Hello", 10_000)) as answer:
            chunks = answer.iter_raw()
            next(chunks)
            cluster.stop("kube-apiserver")
            try:
                with pytest.raises(httpx.TransportError):
                    exhaust(chunks)
            finally:
                cluster.start("kube-apiserver")
        # It is not ready yet: who connects now waits for it.
        assert client.get("/health").status_code == 200
        assert "the API server broke the connection off" in (forward.failures or "")
