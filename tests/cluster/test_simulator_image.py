"""The image that the project's Dockerfile makes: a simulated GPU server in the cluster, asked in each way there is."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from pytest_llmperf.deploy.simspec import sim_spec
from pytest_llmperf.experiment.catalog import builtin_directory, load_catalog
from pytest_llmperf.experiment.matrix import expand
from tests.cluster.cluster import Cluster
from tests.cluster.objects import config_map, listed, service, simulator

NAME = "vllm"
PORT = 8000
CELL = "gke_h100_standalone_llama-3.1-8b"


@pytest.fixture
def served(cluster: Cluster, namespace: str, simulator_image: str) -> str:
    """The namespace in which the simulator is ready; the name of its model is the answer to /v1/models."""
    catalog = load_catalog([builtin_directory()])
    (cell,) = (cell for cell in expand(catalog.matrix_named("default"), catalog) if cell.id == CELL)
    objects = listed(
        config_map(NAME, {"spec.json": sim_spec(cell).to_json()}),
        simulator(NAME, simulator_image, PORT, {"nvidia.com/gpu": str(cell.hardware.count)}),
        service(NAME, PORT),
    )
    cluster.kubectl("apply", f"--namespace={namespace}", "--filename=-", given=json.dumps(objects))
    cluster.kubectl("rollout", "status", f"deployment/{NAME}", f"--namespace={namespace}", "--timeout=120s")
    return namespace


def test_it_answers_at_its_services_address(cluster: Cluster, served: str) -> None:
    address = cluster.kubectl("get", "service", NAME, f"--namespace={served}", "--output=jsonpath={.spec.clusterIP}")
    assert_completes(f"http://{address}:{PORT}")


def test_it_answers_at_its_pods_address(cluster: Cluster, served: str) -> None:
    words = ("get", "pods", f"--selector=app={NAME}", f"--namespace={served}", "--output=jsonpath={.items[0].status.podIP}")
    assert_completes(f"http://{cluster.kubectl(*words)}:{PORT}")


def test_it_answers_through_a_port_forward(cluster: Cluster, served: str) -> None:
    with port_forward(cluster, served) as url:
        assert_completes(url)


@contextmanager
def port_forward(cluster: Cluster, namespace: str) -> Iterator[str]:
    command = [str(cluster.programs / "kubectl"), "port-forward", f"service/{NAME}", f":{PORT}", f"--namespace={namespace}"]
    with subprocess.Popen(command, env=cluster.environment, stdout=subprocess.PIPE, text=True) as forward:
        try:
            assert forward.stdout is not None
            told = re.match(r"Forwarding from (127\.0\.0\.1:\d+)", forward.stdout.readline())
            assert told is not None
            yield f"http://{told[1]}"
        finally:
            forward.terminate()


def assert_completes(url: str) -> None:
    # A new service's address leads nowhere until kube-proxy has heard of it; connecting again is what a client does.
    transport = httpx.HTTPTransport(retries=10)
    with httpx.Client(base_url=url, transport=transport, trust_env=False, timeout=30.0) as client:
        (model,) = client.get("/v1/models").json()["data"]
        answer = client.post("/v1/completions", json={"model": model["id"], "prompt": "Hello", "max_tokens": 8})
    assert answer.headers["x-llmperf-simulated"] == "1"
    assert answer.json()["usage"]["completion_tokens"] == 8
