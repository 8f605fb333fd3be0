"""Asks a cluster all that ``checks`` needs to know, before anything is deployed there. Nothing is changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_llmperf.deploy.kubernetes.api.kinds import NAMESPACE, NODE, POD, SECRET, STORAGE_CLASS, Kind, Manifest
from pytest_llmperf.deploy.kubernetes.api.refusals import ForbiddenError, NotFoundError
from pytest_llmperf.deploy.kubernetes.doctor.checks import (
    Check,
    Reference,
    accelerator_check,
    image_check,
    kind_check,
    namespace_check,
    permission_checks,
    queue_check,
    reference_check,
    references,
    storage_checks,
    token_check,
    unread_check,
    user_check,
    version_check,
)
from pytest_llmperf.deploy.kubernetes.doctor.permissions import IN_CLUSTER, Need, beyond, needs_of
from pytest_llmperf.deploy.kubernetes.ready.pods import Pod, pod_of
from pytest_llmperf.deploy.kubernetes.ready.seen import Nodes, node_of
from pytest_llmperf.deploy.kubernetes.rendering.render import Rendered, render
from pytest_llmperf.deploy.kubernetes.rendering.structure import pod_templates
from pytest_llmperf.deploy.kubernetes.rendering.weights import TOKEN
from pytest_llmperf.deploy.kubernetes.settings import RenderSettings
from pytest_llmperf.experiment.records import Cell

if TYPE_CHECKING:
    from pytest_llmperf.deploy.kubernetes.api.client import KubeApi

_QUEUES = "kueue.x-k8s.io"


@dataclass(frozen=True)
class Asked:
    """What is to be deployed, and where."""

    rendered: tuple[Rendered, ...] = field(repr=False)
    settings: RenderSettings
    namespace: str | None
    environ: Mapping[str, str] = field(repr=False)

    @classmethod
    def of(cls, cells: Iterable[Cell], settings: RenderSettings, namespace: str | None, environ: Mapping[str, str]) -> Asked:
        """Raises ``ConfigError`` for a cell that cannot be rendered."""
        return cls(tuple(render(cell, settings, environ) for cell in cells), settings, namespace, environ)


def examine(api: KubeApi, asked: Asked) -> Iterator[Check]:
    """Every check, one after the other."""
    yield Check("API server", "ok", f"{api.server}, context {api.context}")
    yield version_check(api.version())
    yield user_check(api.user(), api.credentials.login)
    yield _namespace(api, asked.namespace)
    yield from _permissions(api, asked.namespace, asked.rendered)
    yield from _accelerators(api, asked.rendered)
    yield from _storage(api, asked.rendered)
    yield from _references(api, asked)
    yield from _images(api, asked.rendered)
    if asked.settings.queue is not None:
        yield _queue(api, asked.settings.queue, asked.namespace)


def _namespace(api: KubeApi, name: str | None) -> Check:
    if name is None:
        return namespace_check(None, None, ())
    try:
        found = api.get(NAMESPACE, name)
    except ForbiddenError:
        return unread_check(f"namespace {name}")
    return namespace_check(name, found, [] if found is not None else _names(api, NAMESPACE, None))


def _permissions(api: KubeApi, namespace: str | None, rendered: Sequence[Rendered]) -> Iterator[Check]:
    needs = needs_of(namespace)
    manifest = "namespace.yaml" if namespace is not None else "own-namespaces.yaml"
    yield from permission_checks(needs, _denied(api, needs, namespace), is_optional=False, manifest=manifest)
    yield from permission_checks(IN_CLUSTER, _denied(api, IN_CLUSTER, None), is_optional=True, manifest="cluster.yaml")
    # Manifests of the user's may have anything.
    others: dict[tuple[str, str], Manifest] = {(one["apiVersion"], one["kind"]): one for each in rendered for one in each.objects}
    for (_, kind), manifest_object in others.items():
        try:
            known = api.kind_of(manifest_object)
        except NotFoundError as error:
            yield Check(f"kind {kind}", "missing", error.what, error.hint or "")
            continue
        if verbs := beyond(known, needs):
            denied = [verb for verb in verbs if not api.may(verb, known, namespace).allowed]
            yield kind_check(Need(known, verbs, f"apply what the manifests have of {kind}"), denied)


def _denied(api: KubeApi, needs: Iterable[Need], namespace: str | None) -> list[tuple[Need, str]]:
    return [
        (need, verb)
        for need in needs
        for verb in need.verbs
        if not api.may(verb, need.kind, namespace, subresource=need.subresource).allowed
    ]


def _accelerators(api: KubeApi, rendered: Sequence[Rendered]) -> Iterator[Check]:
    """One line for each platform's hardware: of the first of its cells that finds no node, else of its first."""
    nodes = _nodes(api)
    found: dict[str, Check] = {}
    for one in rendered:
        check = accelerator_check(one.cell, pod_of_template(one), nodes)
        known = found.setdefault(check.what, check)
        if known.state == "ok" and check.state != "ok":
            found[check.what] = check
    yield from found.values()


def pod_of_template(rendered: Rendered) -> Pod:
    """The engine's pod as the scheduler would see it."""
    workload = next(
        one for one in rendered.objects if one["kind"] == rendered.engine.kind and _runs(one, rendered.engine.container)
    )
    template = next(one for one in pod_templates(workload) if _has(one.spec, rendered.engine.container))
    return pod_of({"metadata": {"name": rendered.engine.name, "namespace": "", "uid": ""}, "spec": template.spec, "status": {}})


def _runs(manifest: Manifest, container: str) -> bool:
    return any(_has(template.spec, container) for template in pod_templates(manifest))


def _has(spec: Manifest, container: str) -> bool:
    return any(one.get("name") == container for one in spec["containers"])


def _nodes(api: KubeApi) -> Nodes | None:
    """All nodes and who uses them, as far as they may be read."""
    found = _listed(api, NODE, None)
    if found is None:
        return None
    pods = _listed(api, POD, None)
    return Nodes(tuple(map(node_of, found)), None if pods is None else tuple(map(pod_of, pods)))


def _storage(api: KubeApi, rendered: Sequence[Rendered]) -> Iterator[Check]:
    classes = _listed(api, STORAGE_CLASS, None)
    yield from _once(check for one in rendered for check in storage_checks(one.objects, classes))


def _references(api: KubeApi, asked: Asked) -> Iterator[Check]:
    needed = dict.fromkeys(reference for one in asked.rendered for reference in references(one.objects))
    found = [(reference, _reference(api, reference, asked.namespace)) for reference in needed]
    yield from (check for _, check in found)
    secrets = [check for reference, check in found if reference.kind == SECRET]
    simulated = asked.settings.simulator_image is not None
    gated = [] if simulated else sorted({one.cell.model.name for one in asked.rendered if one.cell.model.gated})
    token = token_check(gated, has_variable=bool(asked.environ.get(TOKEN, "").strip()), secrets=secrets)
    if token is not None:
        yield token


def _reference(api: KubeApi, reference: Reference, namespace: str | None) -> Check:
    try:
        there = api.get(reference.kind, reference.name, namespace) if namespace is not None else None
    except ForbiddenError:
        return unread_check(str(reference))
    return reference_check(reference, there, namespace)


def _images(api: KubeApi, rendered: Sequence[Rendered]) -> Iterator[Check]:
    nodes = _listed(api, NODE, None)
    for image in dict.fromkeys(one.engine.image for one in rendered):
        yield image_check(image, nodes)


def _queue(api: KubeApi, name: str, namespace: str | None) -> Check:
    versions = api.versions(_QUEUES)
    kind = next((one for version in versions for one in api.kinds(version) if one.kind == "LocalQueue"), None)
    if kind is None or namespace is None:
        return queue_check(name, kind is not None, None, ())
    try:
        found = api.get(kind, name, namespace)
    except ForbiddenError:
        return unread_check(f"queue {name}")
    return queue_check(name, True, found, [] if found is not None else _names(api, kind, namespace))


def _names(api: KubeApi, kind: Kind, namespace: str | None) -> list[str]:
    return [one["metadata"]["name"] for one in _listed(api, kind, namespace) or ()]


def _listed(api: KubeApi, kind: Kind, namespace: str | None) -> list[Manifest] | None:
    """None where they may not be read."""
    try:
        return api.list(kind, namespace)
    except ForbiddenError:
        return None


def _once(checks: Iterable[Check]) -> Iterator[Check]:
    yield from dict.fromkeys(checks)
