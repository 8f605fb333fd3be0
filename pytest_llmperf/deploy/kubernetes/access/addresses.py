"""What objects say of where they can be reached: Services, Ingresses, OpenShift's Routes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

NO_ADDRESS = "None"
"""The cluster address of a headless Service."""
_HTTPS = 443
_HTTP = 80
_PATTERN = re.compile(r"[()\[\]*+?|^$\\]")


@dataclass(frozen=True)
class Service:
    """A Service, by the one of its ports that a load is for."""

    name: str
    type: str
    cluster_ip: str
    """Empty for a headless one."""
    port: int
    target: int | str
    """The pods' port, or what it is called there."""
    is_secure: bool
    selector: Mapping[str, str] = field(default_factory=dict)

    @property
    def labels(self) -> str:
        """Its selector as the API takes one."""
        return ",".join(f"{key}={value}" for key, value in self.selector.items())

    def url(self, host: str) -> str:
        """What is asked at a host that leads to it."""
        return url_of(host, is_secure=self.is_secure, port=self.port)


@dataclass(frozen=True)
class Published:
    """Where an Ingress or a Route has a Service."""

    title: str
    """``Ingress/vllm``."""
    host: str
    """Empty where any host is meant, or the cluster chooses one."""
    is_secure: bool
    path: str = ""

    @property
    def is_pattern(self) -> bool:
        """Whether many hosts or paths are meant, so that none can be asked."""
        return self.host.startswith("*") or _PATTERN.search(self.path) is not None

    def url(self, host: str) -> str:
        """What is asked there."""
        return url_of(host, is_secure=self.is_secure) + self.path


def url_of(host: str, *, is_secure: bool, port: int | None = None) -> str:
    """``http://10.0.0.1:8000``; the port that goes without saying is left out."""
    host = f"[{host}]" if ":" in host else host
    usual = _HTTPS if is_secure else _HTTP
    return f"http{'s' * is_secure}://{host}" + (f":{port}" if port not in (None, usual) else "")


def service_of(found: Mapping[str, Any], port: int) -> Service:
    """A Service as the API gives it."""
    spec = found.get("spec") or {}
    ports: Iterable[Mapping[str, Any]] = spec.get("ports") or ()
    one: Mapping[str, Any] = next((one for one in ports if one.get("port") == port), {})
    address = spec.get("clusterIP") or ""
    return Service(
        name=found["metadata"]["name"],
        type=spec.get("type") or "ClusterIP",
        cluster_ip="" if address == NO_ADDRESS else address,
        port=port,
        target=one.get("targetPort") or port,
        is_secure=port == _HTTPS or one.get("appProtocol") == "https" or one.get("name") == "https",
        selector=dict(spec.get("selector") or {}),
    )


def port_called(name: str, pod: Mapping[str, Any]) -> int | None:
    """The number of a pod's port by its name."""
    spec = pod.get("spec") or {}
    containers = (*(spec.get("containers") or ()), *(spec.get("initContainers") or ()))
    ports = (port for container in containers for port in container.get("ports") or ())
    return next((port["containerPort"] for port in ports if port.get("name") == name), None)


def assigned(found: Mapping[str, Any]) -> str | None:
    """The address or name that a Service or an Ingress has been given, or a Route; None while it has none."""
    status = found.get("status") or {}
    given = (status.get("loadBalancer") or {}).get("ingress") or status.get("ingress") or ()
    return next((host for one in given if (host := one.get("ip") or one.get("hostname") or one.get("host"))), None)


def not_admitted(found: Mapping[str, Any]) -> str | None:
    """Why routers do not serve a Route (``HostAlreadyClaimed: …``), or None where one does, or none has said."""
    routers = (found.get("status") or {}).get("ingress") or ()
    said = [one for router in routers for one in router.get("conditions") or () if one.get("type") == "Admitted"]
    if any(one.get("status") == "True" for one in said):
        return None
    for refused in (one for one in said if one.get("status") == "False"):
        return ": ".join(filter(None, (refused.get("reason"), refused.get("message")))) or "it does not say why"
    return None


def published(found: Mapping[str, Any], service: str) -> Iterator[Published]:
    """Where an object publishes a Service, if it is one that does."""
    kind, group = found.get("kind"), str(found.get("apiVersion", "")).partition("/")[0]
    if (kind, group) == ("Ingress", "networking.k8s.io"):
        yield from _of_ingress(found, service)
    elif (kind, group) == ("Route", "route.openshift.io"):
        yield from _of_route(found, service)


def _of_ingress(found: Mapping[str, Any], service: str) -> Iterator[Published]:
    spec, title = found.get("spec") or {}, f"Ingress/{found['metadata']['name']}"
    entries = spec.get("tls") or ()
    secured = {host for entry in entries for host in entry.get("hosts") or ()}
    all_secured = any(not entry.get("hosts") for entry in entries)
    for rule in spec.get("rules") or ():
        host = rule.get("host") or ""
        is_secure = all_secured or host in secured or f"*.{host.partition('.')[2]}" in secured
        for path in (rule.get("http") or {}).get("paths") or ():
            if _backend(path.get("backend")) == service:
                yield Published(title, host, is_secure, (path.get("path") or "").rstrip("/"))
    if _backend(spec.get("defaultBackend")) == service:
        yield Published(title, "", all_secured)


def _backend(found: Mapping[str, Any] | None) -> str:
    return str(((found or {}).get("service") or {}).get("name", ""))


def _of_route(found: Mapping[str, Any], service: str) -> Iterator[Published]:
    spec = found.get("spec") or {}
    if (spec.get("to") or {}).get("name") == service:
        path = (spec.get("path") or "").rstrip("/")
        yield Published(f"Route/{found['metadata']['name']}", spec.get("host") or "", bool(spec.get("tls")), path)
