"""The way from this process to a deployment: through the API server, by its Service, or by what the cluster publishes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from time import monotonic
from typing import TYPE_CHECKING, Any

from pytest_llmperf.deploy.base import Progress, say_nothing
from pytest_llmperf.deploy.kubernetes.access.addresses import (
    NO_ADDRESS,
    Published,
    Service,
    assigned,
    not_admitted,
    port_called,
    published,
    service_of,
)
from pytest_llmperf.deploy.kubernetes.access.port_forward import PortForward, RoundTrip
from pytest_llmperf.deploy.kubernetes.api.kinds import EVENT, POD, SERVICE, Manifest
from pytest_llmperf.deploy.kubernetes.api.watch import Watched, watching
from pytest_llmperf.deploy.kubernetes.ready.pods import pod_of
from pytest_llmperf.deploy.kubernetes.ready.seen import event_of
from pytest_llmperf.deploy.kubernetes.rendering.structure import pod_templates
from pytest_llmperf.errors import ConfigError, DeployError, Where
from pytest_llmperf.units import format_duration

if TYPE_CHECKING:
    from pytest_llmperf.deploy.kubernetes.api.client import KubeApi
    from pytest_llmperf.deploy.kubernetes.rendering.render import Rendered
    from pytest_llmperf.deploy.kubernetes.settings import KubernetesSettings

ADDRESS_S = 300.0
"""How long a load balancer may take to be made."""
ADMITTED_S = 10.0
"""How long a router may take to say whether it serves a Route. One that never says goes by the Route's own host."""
_OPTION = Where(option="--llmperf-reach")
_FORWARD = "port-forward"
_SHOWN_EVENTS = 3
_URL_HINT = "Where you know its address, give that: --llmperf-url=http://HOST:PORT."
_FORWARD_HINT = "--llmperf-reach=port-forward needs none."


def _nothing() -> None:
    """There is nothing to close."""


def _no_trouble() -> str | None:
    """There is nothing of ours on the way."""
    return None


def _no_trip() -> RoundTrip | None:
    """There is nothing to measure."""
    return None


@dataclass(frozen=True)
class Reached:
    """A way to a deployment. ``close`` takes away what was made for it."""

    url: str
    how: str
    measure: Callable[[], RoundTrip | None] = _no_trip
    """Takes the time of the way alone."""
    close: Callable[[], None] = _nothing
    trouble: Callable[[], str | None] = _no_trouble
    """What has gone wrong on the way since, which is not the server's doing."""

    @cached_property
    def trip(self) -> RoundTrip | None:
        """What the way adds to a request, where that is known. Measured when this is first asked for: answers come before."""
        return self.measure()

    @property
    def note(self) -> str:
        """What a reader of results has to know of the way; empty where there is nothing."""
        return forward_note(self.trip) if self.how == _FORWARD else ""


def check_reach(rendered: Rendered, settings: KubernetesSettings) -> None:
    """Raises ``ConfigError`` where a cell's objects have not the way that the settings ask for. No cluster is asked."""
    match settings.reach if settings.url is None else "url":
        case "load-balancer":
            _balancers(rendered)
        case "ingress":
            _place(rendered)
        case "service":
            named = [one for one in rendered.objects if one["metadata"]["name"] == rendered.service.name]
            if any(one["kind"] == "Service" and one["spec"].get("clusterIP") == NO_ADDRESS for one in named):
                raise _headless(rendered.service.name)


def check_apart(cells: Sequence[Rendered], settings: KubernetesSettings, otherwise: str) -> None:
    """Raises ``ConfigError`` where cells that can stand at the same time would be asked at one address: one would answer for all.

    No cluster is asked. ``otherwise`` is the next step for who cannot give them addresses of their own.
    """
    if settings.url is not None or settings.reach != "ingress":
        return
    at: dict[tuple[str, str], list[str]] = {}
    for rendered in cells:
        manifest, place = _place(rendered)
        # A Route without a host gets one of its own name; an Ingress without one shares its controller's address.
        if place.host or manifest["kind"] != "Route":
            at.setdefault((place.host, place.path), []).append(rendered.cell.id)
    for (host, path), names in at.items():
        if len(names) > 1:
            address = f"{host}{path}" if host else f"an Ingress without a host{path and f' ({path})'}"
            raise ConfigError(
                f"{address} leads to one cell, but {len(names)} that can stand at the same time have it: {', '.join(names)}",
                where=Where(option="--llmperf-reach=ingress"),
                hint="Give each a host of its own: a method may have its own folder among the manifests, and a Route without "
                f"spec.host gets one from the cluster. Or reach them another way (--llmperf-reach=port-forward), or {otherwise}.",
            )


def reach(
    api: KubeApi,
    rendered: Rendered,
    namespace: str,
    settings: KubernetesSettings,
    progress: Progress = say_nothing,
    until_ready: Callable[[], object] = _nothing,
) -> Reached:
    """The way that the settings ask for. Raises ``ConfigError`` where the objects have none such, ``DeployError``.

    ``until_ready`` waits for the pods: what can be done before that, is.
    """
    if settings.url is not None:
        until_ready()
        return Reached(settings.url.rstrip("/"), "url")
    match settings.reach:
        case "load-balancer":
            until_ready()
            return _by_load_balancer(api, rendered, namespace, progress)
        case "ingress":
            until_ready()
            return _by_ingress(api, rendered, namespace, progress)
    service = service_in(api, namespace, rendered.service.name, rendered.service.port)
    if settings.reach == "service" or (settings.reach == "auto" and api.in_cluster and service.cluster_ip):
        until_ready()
        return _by_service(service)
    return _by_port_forward(api, rendered, namespace, service, until_ready)


def service_in(api: KubeApi, namespace: str, name: str, port: int) -> Service:
    """A Service as it is. Raises ``DeployError`` where it is gone."""
    if (found := api.get(SERVICE, name, namespace)) is None:
        raise DeployError(f"the Service {name!r} of the namespace {namespace!r} is gone")
    return service_of(found, port)


def ready_pods(api: KubeApi, namespace: str, service: Service) -> tuple[str, ...]:
    """The pods that the Service leads to now."""
    pods = (pod_of(found) for found in api.list(POD, namespace, service.labels))
    return tuple(sorted(pod.name for pod in pods if pod.is_ready))


def _by_service(service: Service) -> Reached:
    if not service.cluster_ip:
        raise _headless(service.name)
    return Reached(service.url(service.cluster_ip), "service")


def _headless(name: str) -> ConfigError:
    return ConfigError(f"the Service {name!r} is headless: it has no address of its own", where=_OPTION, hint=_FORWARD_HINT)


def _by_port_forward(
    api: KubeApi,
    rendered: Rendered,
    namespace: str,
    service: Service,
    until_ready: Callable[[], object],
) -> Reached:
    if not service.selector:
        what = f"the Service {service.name!r} has no selector: nobody knows its pods"
        raise ConfigError(what, where=_OPTION, hint=_URL_HINT)
    port = _target(api, rendered, namespace, service)
    forward = PortForward(api, namespace, lambda: ready_pods(api, namespace, service), port)
    try:
        until_ready()
    except BaseException:
        forward.close()
        raise
    return Reached(forward.url, _FORWARD, forward.round_trip, forward.close, lambda: forward.failures)


def forward_note(trip: RoundTrip | None) -> str:
    """What a port-forward does to what is measured through it."""
    if trip is None:
        return "reached by port-forward, whose own time TTFT carries; measure from inside the cluster for tight limits"
    return (
        f"reached by port-forward: an empty round trip takes {format_duration(trip.p50_s)} (p99 {format_duration(trip.p99_s)}), "
        f"which TTFT carries, and {format_duration(trip.opening_s)} more where many connections are opened at once; "
        "measure from inside the cluster for tight limits"
    )


def _target(api: KubeApi, rendered: Rendered, namespace: str, service: Service) -> int:
    """The number of the pods' port, by the workload that makes them; where that does not say, by the pods."""
    if isinstance(service.target, int):
        return service.target
    engines = [one for one in rendered.objects if (one["kind"], one["metadata"]["name"]) == _engine(rendered)]
    pods = [{"spec": template.spec} for one in engines for template in pod_templates(one)]
    pods += api.list(POD, namespace, service.labels)
    number = next((port for pod in pods if (port := port_called(service.target, pod)) is not None), None)
    if number is None:
        what = f"no pod of the Service {service.name!r} has a port called {service.target!r}"
        raise DeployError(what, hint="The Service's targetPort and the container's ports must agree.")
    return number


def _engine(rendered: Rendered) -> tuple[str, str]:
    return rendered.engine.kind, rendered.engine.name


def _by_load_balancer(api: KubeApi, rendered: Rendered, namespace: str, progress: Progress) -> Reached:
    service = _balancers(rendered)[0]
    name, ports = service["metadata"]["name"], service["spec"].get("ports") or [{}]
    wanted = rendered.service.port
    port = wanted if any(one.get("port") == wanted for one in ports) else ports[0].get("port", wanted)
    host = await_address(api, service, namespace, progress)
    return Reached(service_in(api, namespace, name, port).url(host), "load-balancer")


def _balancers(rendered: Rendered) -> list[Manifest]:
    """The Services of type LoadBalancer, the engine's first. Raises ``ConfigError`` where there is none."""
    services = [one for one in rendered.objects if one["kind"] == "Service" and _type(one) == "LoadBalancer"]
    services.sort(key=lambda one: one["metadata"]["name"] != rendered.service.name)
    if not services:
        what = f"no Service of type LoadBalancer is among the objects: {rendered.service.name!r} is of another"
        hint = "Set 'type: LoadBalancer' in the Service's manifest, with the annotations that your cloud wants. "
        raise ConfigError(what, where=_OPTION, hint=hint + _URL_HINT)
    return services


def _type(service: Manifest) -> str:
    return str((service.get("spec") or {}).get("type", ""))


def _by_ingress(api: KubeApi, rendered: Rendered, namespace: str, progress: Progress) -> Reached:
    manifest, place = _place(rendered)
    if place.host and manifest["kind"] == "Route":
        # It has asked for that host, which may be another's.
        _given(api, manifest, namespace, progress, ADMITTED_S)
    host = place.host or await_address(api, manifest, namespace, progress)
    return Reached(place.url(host), _how(place))


def _place(rendered: Rendered) -> tuple[Manifest, Published]:
    """Where the engine's Service is published, and by which object. Raises ``ConfigError`` where that is nowhere."""
    found = [(one, place) for one in rendered.objects for place in published(one, rendered.service.name)]
    if not found:
        what = f"no Ingress and no Route among the objects leads to the Service {rendered.service.name!r}"
        raise ConfigError(what, where=_OPTION, hint=f"Add one to the manifests (--llmperf-manifests). {_URL_HINT}")
    # The first whose address can be told; one with a host before those whose host is still to come.
    found.sort(key=lambda pair: (pair[1].is_pattern, not pair[1].host))
    manifest, place = found[0]
    if place.is_pattern:
        what = f"{place.title} leads to the Service by a pattern ({place.host or '*'}{place.path}), which is no address"
        raise ConfigError(what, where=_OPTION, hint=_URL_HINT)
    return manifest, place


def _how(place: Published) -> str:
    return place.title.partition("/")[0].lower()


def await_address(
    api: KubeApi, manifest: Mapping[str, Any], namespace: str, progress: Progress, wait_s: float = ADDRESS_S
) -> str:
    """The address that an object is given. Raises ``DeployError`` with its events where it gets none in ``wait_s``."""
    if (host := _given(api, manifest, namespace, progress, wait_s)) is not None:
        return host
    kind, name = api.kind_of(manifest).kind, manifest["metadata"]["name"]
    raise DeployError(
        f"{kind}/{name} has had no address for {format_duration(wait_s)}",
        state=_events(api, namespace, kind, name) or "nobody has said anything about it",
        hint=f"Does the cluster have what makes load balancers, or an ingress controller? {_FORWARD_HINT}",
    )


def _given(api: KubeApi, manifest: Mapping[str, Any], namespace: str, progress: Progress, wait_s: float) -> str | None:
    """The address, or None where there is none in ``wait_s``. Raises ``DeployError`` where it is refused, or all is gone."""
    kind, name = api.kind_of(manifest), manifest["metadata"]["name"]
    title = f"{kind.kind}/{name}"
    give_up_s = monotonic() + wait_s
    with watching(api, [Watched(kind, namespace, fields=f"metadata.name={name}")]) as watch:
        while (left_s := give_up_s - monotonic()) > 0:
            if (snapshot := watch.next(left_s)) is None:
                break
            if (found := snapshot.of(kind).get(name)) is None:
                raise DeployError(f"{title} is gone before it had an address")
            if (why := not_admitted(found)) is not None:
                hint = f"Another Route may have that host: take spec.host out, or give it a host that is free. {_FORWARD_HINT}"
                raise DeployError(f"{title} is not admitted by the cluster's router: {why}", hint=hint)
            if (host := assigned(found)) is not None:
                return host
            progress(f"waiting for the address of {title}")
    return None


def _events(api: KubeApi, namespace: str, kind: str, name: str) -> str:
    found = api.list(EVENT, namespace, fields=f"involvedObject.kind={kind},involvedObject.name={name}")
    events = sorted(map(event_of, found), key=lambda event: event.last_s)
    return "; ".join(map(str, events[-_SHOWN_EVENTS:]))
