"""Where objects say that they can be reached, and what is said where they cannot."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from pytest_llmperf.deploy.kubernetes.access import reach as reaching
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
from pytest_llmperf.deploy.kubernetes.access.reach import check_apart, forward_note, reach
from pytest_llmperf.deploy.kubernetes.api.client import KubeApi
from pytest_llmperf.deploy.kubernetes.rendering.render import EngineRef, Rendered, ServiceRef
from pytest_llmperf.deploy.kubernetes.settings import KubernetesSettings, Reach, RenderSettings
from pytest_llmperf.errors import ConfigError, DeployError
from pytest_llmperf.experiment.records import Cell
from tests.unit.deploy.kubernetes.cells import H100, cell
from tests.unit.deploy.kubernetes.scripted_api import Reply, api_at, scripted_api

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


def rendered_as(*objects: Object, of: Cell = H100) -> Rendered:
    engine = EngineRef("Deployment", "llm", "vllm", "vllm:1", ())
    return Rendered(of, objects, engine, ServiceRef("llm", 8000), "nvidia.com/gpu", 1)


def reached(how: Reach, *objects: Object, url: str | None = None, api: KubeApi = NOBODY) -> str:
    settings = KubernetesSettings(RenderSettings(), "abcd1234", reach=how, url=url)
    return reach(api, rendered_as(*objects), "ns", settings).url


def routed(found: Object, *changes: Object) -> str:
    """The URL of a Route that the cluster has as ``found``, and then as it changes."""
    kinds = {"resources": [{"name": "routes", "kind": "Route", "namespaced": True}]}
    with scripted_api(Reply()) as server, api_at(server.url) as api:

        def answered(path: str) -> Reply:
            if "watch=true" in path:
                return Reply(lines=[{"type": "MODIFIED", "object": one} for one in changes], stays=True)
            return Reply(body={"items": [found], "metadata": {"resourceVersion": "1"}} if "/namespaces/" in path else kinds)

        server.next_reply = answered  # type: ignore[method-assign]
        return reached("ingress", found, api=api)


def admitted(version: int, is_so: bool, reason: str = "", host: str = "r.example", **spec: Any) -> Object:
    """A Route of which a router has said whether it serves it."""
    found, said = route(**spec), {"type": "Admitted", "status": str(is_so), "reason": reason, "message": "why not"}
    found["metadata"]["resourceVersion"] = str(version)
    return {**found, "status": {"ingress": [{"host": host, "conditions": [said]}]}}


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
        ((ingress(rule(host=None)), ingress(rule(host="b.example"))), "http://b.example"),
    ],
)
def test_an_ingress_with_a_host_needs_no_waiting(objects: tuple[Object, ...], url: str) -> None:
    assert reached("ingress", *objects) == url


def test_a_route_has_its_host_once_a_router_serves_it() -> None:
    waiting = route(host="r.example", tls={"termination": "edge"})
    waiting["metadata"]["resourceVersion"] = "1"
    assert routed(waiting, admitted(2, True, host="r.example", tls={"termination": "edge"})) == "https://r.example"
    assert routed(admitted(1, True, host="public-ns.apps.example")) == "http://public-ns.apps.example"


def test_a_route_of_which_no_router_speaks_has_the_host_that_it_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaching, "ADMITTED_S", 0.2)
    assert routed(route(host="r.example")) == "http://r.example"


@pytest.mark.parametrize("spec", [{"host": "r.example"}, {}])
def test_a_route_whose_host_is_anothers_is_told(spec: Object) -> None:
    with pytest.raises(DeployError) as raised:
        routed(admitted(1, False, "HostAlreadyClaimed", **spec))
    assert raised.value.what == "Route/public is not admitted by the cluster's router: HostAlreadyClaimed: why not"
    assert "--llmperf-reach=port-forward" in str(raised.value.hint)


def test_a_route_that_one_of_several_routers_serves_is_admitted() -> None:
    found, other = admitted(1, False, "NotMine", host="r.example"), admitted(1, True, host="r.example")
    found["status"]["ingress"] += other["status"]["ingress"]
    assert routed(found) == "http://r.example"


OTHER = cell("gke_h100_standalone_llama-3.1-8b_fp8")
INGRESS = KubernetesSettings(RenderSettings(), "abcd1234", reach="ingress")


@pytest.mark.parametrize(
    ("one", "another", "address"),
    [
        (ingress(rule()), ingress(rule(), tls=[{}]), "llm.example leads"),
        (ingress(rule(path="/llm")), ingress(rule(path="/llm/")), "llm.example/llm leads"),
        (ingress(rule(host=None)), ingress(rule(host=None)), "an Ingress without a host leads"),
        (ingress(rule(host=None, path="/a")), ingress(rule(host=None, path="/a")), "an Ingress without a host (/a) leads"),
        (ingress(rule()), route(host="llm.example"), "llm.example leads"),
        (route(host="llm.example"), route(host="llm.example"), "llm.example leads"),
    ],
)
def test_cells_that_stand_at_the_same_time_need_an_address_each(one: Object, another: Object, address: str) -> None:
    both = [rendered_as(one), rendered_as(another, of=OTHER)]
    with pytest.raises(ConfigError) as raised:
        check_apart(both, INGRESS, "wait")
    told = str(raised.value)
    assert told.startswith(f"--llmperf-reach=ingress: {address} to one cell, but 2 that can stand at the same time have it: ")
    assert f"{H100.id}, {OTHER.id}" in told
    assert "Give each a host of its own" in told
    assert told.endswith("or wait.")
    for settings in (replace(INGRESS, reach="auto"), replace(INGRESS, url="http://known")):
        check_apart(both, settings, "wait")


@pytest.mark.parametrize(
    ("one", "another"),
    [
        (ingress(rule(host="a.example")), ingress(rule(host="b.example"))),
        (ingress(rule(path="/a")), ingress(rule(path="/b"))),
        (ingress(rule(host=None, path="/a")), ingress(rule(host=None, path="/b"))),
        (route(), route()),  # the cluster makes a host of a Route's name
    ],
)
def test_cells_with_addresses_of_their_own_stand_side_by_side(one: Object, another: Object) -> None:
    check_apart([rendered_as(one), rendered_as(another, of=OTHER)], INGRESS, "wait")


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


def test_a_port_forward_is_measured_when_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """By then the endpoint has been checked: nobody is to wait for that before."""
    asked: list[str] = []

    class Forward:
        url = "http://127.0.0.1:1"

        def __init__(self, *_: object) -> None:
            pass

        def round_trip(self) -> RoundTrip:
            asked.append("a round trip")
            return RoundTrip(0.0021, 0.0034, 0.0152, 50)

        def close(self) -> None:
            pass

    monkeypatch.setattr(reaching, "PortForward", Forward)
    settings = KubernetesSettings(RenderSettings(), "abcd1234", reach="port-forward")
    with scripted_api(Reply(body=service(selector={"app": "llm"}, ports=[{"port": 8000}]))) as server, api_at(server.url) as api:
        found = reach(api, rendered_as(), "ns", settings, until_ready=lambda: asked.append("the pods are ready"))
    assert asked == ["the pods are ready"]
    assert "takes 2.1ms" in found.note
    assert found.note
    assert asked == ["the pods are ready", "a round trip"]
