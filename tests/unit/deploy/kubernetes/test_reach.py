"""Where objects say that they can be reached, and what is said where they cannot."""

from __future__ import annotations

from typing import Any, cast

import pytest

from pytest_llmperf.deploy.kubernetes.access.addresses import (
    Published,
    Service,
    assigned,
    port_called,
    published,
    service_of,
    url_of,
)
from pytest_llmperf.deploy.kubernetes.access.port_forward import RoundTrip
from pytest_llmperf.deploy.kubernetes.access.reach import forward_note, reach
from pytest_llmperf.deploy.kubernetes.api.client import KubeApi
from pytest_llmperf.deploy.kubernetes.rendering.render import EngineRef, Rendered, ServiceRef
from pytest_llmperf.deploy.kubernetes.settings import KubernetesSettings, Reach, RenderSettings
from pytest_llmperf.errors import ConfigError
from pytest_llmperf.experiment.records import Cell

Object = dict[str, Any]
NOBODY = cast(KubeApi, None)
"""Who asks the cluster for nothing needs none."""


def service(**spec: object) -> Object:
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "llm"}, "spec": spec}


def ingress(*rules: Object, **spec: object) -> Object:
    meta = {"name": "public"}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": meta, "spec": {"rules": list(rules), **spec}}


def rule(host: str | None = "llm.example", path: str | None = "/", to: str = "llm") -> Object:
    found: Object = {"http": {"paths": [{"path": path, "backend": {"service": {"name": to}}}]}}
    return found if host is None else {"host": host, **found}


def route(to: str = "llm", **spec: object) -> Object:
    meta = {"name": "public"}
    return {"apiVersion": "route.openshift.io/v1", "kind": "Route", "metadata": meta, "spec": {"to": {"name": to}, **spec}}


def reached(how: Reach, *objects: Object, url: str | None = None) -> str:
    engine = EngineRef("Deployment", "llm", "vllm", "vllm:1", ())
    rendered = Rendered(cast(Cell, None), objects, engine, ServiceRef("llm", 8000), "nvidia.com/gpu", 1)
    settings = KubernetesSettings(RenderSettings(), "abcd1234", reach=how, url=url)
    return reach(NOBODY, rendered, "ns", settings).url


@pytest.mark.parametrize(
    ("host", "is_secure", "port", "url"),
    [
        ("10.0.0.1", False, 8000, "http://10.0.0.1:8000"),
        ("10.0.0.1", False, 80, "http://10.0.0.1"),
        ("10.0.0.1", True, 443, "https://10.0.0.1"),
        ("10.0.0.1", False, 443, "http://10.0.0.1:443"),
        ("fd00::1", False, 8000, "http://[fd00::1]:8000"),
        ("llm.example", True, None, "https://llm.example"),
    ],
)
def test_urls(host: str, is_secure: bool, port: int | None, url: str) -> None:
    assert url_of(host, is_secure=is_secure, port=port) == url


def test_a_service_is_read_by_its_port() -> None:
    ports = [{"port": 9000, "targetPort": 1}, {"port": 8000, "targetPort": "http"}]
    found = service_of(service(clusterIP="10.0.0.7", ports=ports, selector={"app": "llm", "tier": "1"}), 8000)
    assert found == Service("llm", "ClusterIP", "10.0.0.7", 8000, "http", False, {"app": "llm", "tier": "1"})
    assert found.labels == "app=llm,tier=1"
    assert found.url(found.cluster_ip) == "http://10.0.0.7:8000"


def test_a_headless_service_has_no_address_and_a_port_is_its_own_target() -> None:
    found = service_of(service(clusterIP="None", ports=[{"port": 8000}]), 8000)
    assert (found.cluster_ip, found.target) == ("", 8000)


@pytest.mark.parametrize("port", [{"port": 8443, "name": "https"}, {"port": 8443, "appProtocol": "https"}, {"port": 443}])
def test_a_service_may_speak_tls(port: Object) -> None:
    assert service_of(service(ports=[port]), port["port"]).is_secure


def test_a_ports_number_is_the_containers_to_say() -> None:
    containers = [{"name": "proxy", "ports": [{"containerPort": 1}]}, {"ports": [{"name": "http", "containerPort": 8080}]}]
    assert port_called("http", {"spec": {"containers": containers}}) == 8080
    assert port_called("grpc", {"spec": {"containers": containers}}) is None


@pytest.mark.parametrize(
    ("status", "host"),
    [
        ({"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}]}}, "203.0.113.7"),
        ({"loadBalancer": {"ingress": [{"hostname": "lb.example"}]}}, "lb.example"),
        ({"ingress": [{"host": "llm.apps.example"}]}, "llm.apps.example"),
        ({"loadBalancer": {}}, None),
        ({}, None),
    ],
)
def test_assigned_addresses(status: Object, host: str | None) -> None:
    assert assigned({"status": status}) == host


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (ingress(rule()), [Published("Ingress/public", "llm.example", False)]),
        (ingress(rule(to="other")), []),
        (ingress(rule(path="/llm/")), [Published("Ingress/public", "llm.example", False, "/llm")]),
        (ingress(rule(), tls=[{"hosts": ["llm.example"]}]), [Published("Ingress/public", "llm.example", True)]),
        (ingress(rule(), tls=[{"hosts": ["*.example"]}]), [Published("Ingress/public", "llm.example", True)]),
        (ingress(rule(), tls=[{"hosts": ["else.example"]}]), [Published("Ingress/public", "llm.example", False)]),
        (ingress(rule(), tls=[{"secretName": "cert"}]), [Published("Ingress/public", "llm.example", True)]),
        (ingress(rule(host=None)), [Published("Ingress/public", "", False)]),
        (ingress(defaultBackend={"service": {"name": "llm"}}), [Published("Ingress/public", "", False)]),
        (route(host="llm.apps.example"), [Published("Route/public", "llm.apps.example", False)]),
        (route(path="/v", tls={"termination": "edge"}), [Published("Route/public", "", True, "/v")]),
        (route(to="other"), []),
        (service(), []),
    ],
)
def test_what_publishes_a_service(given: Object, found: list[Published]) -> None:
    assert list(published(given, "llm")) == found


def test_a_url_is_taken_as_it_is_given() -> None:
    assert reached("auto", url="https://gateway.example/llm/") == "https://gateway.example/llm"


@pytest.mark.parametrize(
    ("objects", "url"),
    [
        ((ingress(rule()),), "http://llm.example"),
        ((ingress(rule(path="/llm"), tls=[{}]),), "https://llm.example/llm"),
        ((ingress(rule(host="*.example")), ingress(rule(host="b.example"))), "http://b.example"),
        ((ingress(rule(host=None)), route(host="r.example", tls={})), "http://r.example"),
    ],
)
def test_an_ingress_with_a_host_needs_no_waiting(objects: tuple[Object, ...], url: str) -> None:
    assert reached("ingress", *objects) == url


@pytest.mark.parametrize(
    ("how", "objects", "what"),
    [
        ("ingress", (service(),), "no Ingress and no Route among the objects leads to the Service 'llm'"),
        ("ingress", (ingress(rule(to="other")),), "no Ingress and no Route"),
        ("ingress", (ingress(rule(path="/llm(/|$)(.*)")),), "Ingress/public leads to the Service by a pattern"),
        ("ingress", (ingress(rule(host="*.example")),), "by a pattern (*.example)"),
        ("load-balancer", (service(type="ClusterIP"),), "no Service of type LoadBalancer is among the objects"),
    ],
)
def test_what_is_not_there_is_an_error_with_a_way_out(how: Reach, objects: tuple[Object, ...], what: str) -> None:
    with pytest.raises(ConfigError) as raised:
        reached(how, *objects)
    assert what in raised.value.what
    assert "--llmperf-url=" in str(raised.value)
    assert str(raised.value).startswith("--llmperf-reach: ")


def test_a_port_forward_says_what_it_adds() -> None:
    note = forward_note(RoundTrip(0.0021, 0.0034, 0.0152, 50))
    assert note == (
        "reached by port-forward: an empty round trip takes 2.1ms (p99 3.4ms), which TTFT carries, and 15.2ms more where many "
        "connections are opened at once; measure from inside the cluster for tight limits"
    )
    assert "own time TTFT carries" in forward_note(None)
