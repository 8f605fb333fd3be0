"""The ways to a deployment, each taken on a real cluster."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from pytest_llmperf.deploy.kubernetes.access.reach import Reached, await_address, reach
from pytest_llmperf.deploy.kubernetes.api.client import KubeApi
from pytest_llmperf.deploy.kubernetes.rendering.render import EngineRef, Rendered, ServiceRef
from pytest_llmperf.deploy.kubernetes.settings import KubernetesSettings, Reach, RenderSettings
from pytest_llmperf.errors import ConfigError, DeployError
from tests.cluster.cluster import Cluster
from tests.cluster.objects import listed
from tests.cluster.simulators import NAME, PORT, apply_simulator, cell

pytestmark = pytest.mark.timeout(300)

ADDRESS = "203.0.113.7"
WAIT_S = 30.0


def service(name: str = NAME, **spec: Any) -> dict[str, Any]:
    ports = [{"name": "http", "port": PORT, "targetPort": "http"}]
    meta = {"name": name}
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"selector": {"app": NAME}, "ports": ports, **spec}}


def ingress() -> dict[str, Any]:
    backend = {"service": {"name": NAME, "port": {"number": PORT}}}
    rules = [{"http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}]
    meta = {"name": "public"}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": meta, "spec": {"rules": rules}}


def reached(cluster: Cluster, api: KubeApi, namespace: str, how: Reach, *objects: dict[str, Any]) -> Reached:
    engine = EngineRef("Deployment", NAME, "simulator", "", ())
    rendered = Rendered(cell(), objects, engine, ServiceRef(NAME, PORT), "nvidia.com/gpu", 1)
    settings = KubernetesSettings(RenderSettings(), "abcd1234", kubeconfig=cluster.kubeconfig, reach=how)
    return reach(api, rendered, namespace, settings)


def is_healthy(url: str) -> bool:
    transport = httpx.HTTPTransport(retries=10)
    with httpx.Client(base_url=url, transport=transport, trust_env=False, timeout=WAIT_S) as client:
        return client.get("/health").status_code == 200


def apply(cluster: Cluster, namespace: str, *objects: dict[str, Any]) -> None:
    cluster.kubectl("apply", f"--namespace={namespace}", "--filename=-", given=json.dumps(listed(*objects)))


def assign(cluster: Cluster, namespace: str, what: str) -> None:
    """Do what a controller does that this cluster does not have."""
    patch = {"status": {"loadBalancer": {"ingress": [{"ip": ADDRESS}]}}}
    cluster.kubectl("patch", what, f"--namespace={namespace}", "--subresource=status", "--patch", json.dumps(patch))


def test_from_outside_a_port_forward_from_inside_the_service(
    cluster: Cluster, api: KubeApi, namespace: str, simulator_image: str
) -> None:
    apply_simulator(cluster, namespace, simulator_image, service())
    forwarded = reached(cluster, api, namespace, "auto")
    try:
        assert forwarded.how == "port-forward"
        assert is_healthy(forwarded.url)
        assert forwarded.trip is not None
        assert forwarded.trip.p50_s > 0
        assert "which TTFT carries" in forwarded.note
        assert forwarded.trouble() is None
    finally:
        forwarded.close()
    with pytest.raises(httpx.ConnectError):
        httpx.get(forwarded.url, trust_env=False)
    direct = reached(cluster, api, namespace, "service")
    assert (direct.how, direct.note) == ("service", "")
    assert is_healthy(direct.url)


def test_a_headless_service_has_no_address(cluster: Cluster, api: KubeApi, namespace: str) -> None:
    apply(cluster, namespace, service(clusterIP="None"))
    with pytest.raises(ConfigError, match="'vllm' is headless"):
        reached(cluster, api, namespace, "service")


def test_a_service_that_is_gone_is_told(cluster: Cluster, api: KubeApi, namespace: str) -> None:
    with pytest.raises(DeployError, match="the Service 'vllm' of the namespace"):
        reached(cluster, api, namespace, "auto")


def test_a_load_balancer_is_waited_for(cluster: Cluster, api: KubeApi, namespace: str) -> None:
    balanced = service("public", type="LoadBalancer")
    apply(cluster, namespace, service(), balanced)
    with pytest.raises(DeployError) as raised:
        await_address(api, balanced, namespace, lambda _: None, wait_s=0.5)
    assert raised.value.what == "Service/public has had no address for 500ms"
    assert raised.value.state == "nobody has said anything about it"
    heard: list[str] = []
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(await_address, api, balanced, namespace, heard.append, WAIT_S)
        cluster.await_true("somebody waits", lambda: bool(heard))
        assign(cluster, namespace, "service/public")
        assert waiting.result(WAIT_S) == ADDRESS
    assert heard[0] == "waiting for the address of Service/public"
    assert reached(cluster, api, namespace, "load-balancer", service(), balanced).url == f"http://{ADDRESS}:{PORT}"


def test_an_ingress_without_a_host_has_the_controllers_address(cluster: Cluster, api: KubeApi, namespace: str) -> None:
    apply(cluster, namespace, service(), ingress())
    assign(cluster, namespace, "ingress/public")
    assert reached(cluster, api, namespace, "ingress", service(), ingress()).url == f"http://{ADDRESS}"
