"""A cell -> the objects that serve it, from plain manifests and without a cluster; and those objects as one session's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_llmperf.deploy.engine_options import options_of
from pytest_llmperf.deploy.kubernetes.api.kinds import Manifest
from pytest_llmperf.deploy.kubernetes.names import CELL, OWNER, Identity, label_of
from pytest_llmperf.deploy.kubernetes.rendering import engine_patch, weights
from pytest_llmperf.deploy.kubernetes.rendering.engine_container import (
    Engine,
    check_one_engine,
    find_engine,
    find_service,
    port_of,
)
from pytest_llmperf.deploy.kubernetes.rendering.manifests import Sourced, copied, dump, title
from pytest_llmperf.deploy.kubernetes.rendering.renaming import new_names, rename
from pytest_llmperf.deploy.kubernetes.rendering.simulated import simulate
from pytest_llmperf.deploy.kubernetes.rendering.sources import RELEASE_NAMESPACE, check_values, read_source
from pytest_llmperf.deploy.kubernetes.rendering.structure import claim_templates, label, pod_templates, section
from pytest_llmperf.deploy.kubernetes.settings import RenderSettings
from pytest_llmperf.errors import ConfigError
from pytest_llmperf.experiment.records import Cell
from pytest_llmperf.secrets import masked_words

_ORDER = (
    "NetworkPolicy",
    "ServiceAccount",
    "Role",
    "RoleBinding",
    "ConfigMap",
    "Secret",
    "PersistentVolumeClaim",
    "Service",
)
"""What is applied first, so that no pod waits for what it refers to; then the rest, and what makes pods last."""


@dataclass(frozen=True)
class EngineRef:
    """The workload that runs the engine. ``arguments`` are what follows the engine's own name in its command, without secrets."""

    kind: str
    name: str
    container: str
    image: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class ServiceRef:
    """The Service that leads to the engine, and its port for that."""

    name: str
    port: int


@dataclass(frozen=True)
class Rendered:
    """The objects of a cell in the order of applying. ``resource`` is what each of its pods has ``gpus`` of."""

    cell: Cell
    objects: tuple[Manifest, ...] = field(repr=False)
    engine: EngineRef
    service: ServiceRef
    resource: str
    gpus: int


def render(cell: Cell, settings: RenderSettings, environ: Mapping[str, str], suffix: str = "") -> Rendered:
    """The objects that serve a cell. ``suffix`` keeps a session's names from those of others. Raises ``ConfigError``."""
    objects = read_source(cell, settings, environ)
    engine = find_engine(objects)
    check_one_engine(objects, engine)
    port = port_of(engine)
    arguments = _patch(objects, engine, port, cell, settings, environ)
    manifests = [one.manifest for one in objects]
    service, service_port = find_service(objects, engine, port)
    rename(manifests, new_names(manifests, engine.name, (cell.id,), suffix))
    of_cell = {CELL: label_of(cell.id)}
    for manifest in manifests:
        label(manifest, of_cell, of_cell)
    return Rendered(
        cell=cell,
        objects=tuple(sorted(map(copied, manifests), key=_place)),
        engine=EngineRef(
            kind=engine.workload.manifest["kind"],
            name=engine.name,
            container=engine.container["name"],
            image=str(engine.container.get("image", "")),
            arguments=masked_words(arguments),
        ),
        service=ServiceRef(service["metadata"]["name"], service_port),
        resource=cell.hardware.resource,
        gpus=cell.hardware.count,
    )


def render_all(cells: Sequence[Cell], settings: RenderSettings, environ: Mapping[str, str]) -> list[Rendered]:
    """The objects of all the cells of a session, with the names of none. Raises ``ConfigError``."""
    check_values(cells, settings)
    return [render(cell, settings, environ) for cell in cells]


def placed(rendered: Rendered, identity: Identity, namespace: str, owner: Mapping[str, Any] | None) -> tuple[Manifest, ...]:
    """The objects as this process's own: its labels, the namespace, the ``owner`` with whom they end. Raises ``ConfigError``."""
    labels = identity.labels(rendered.cell.id)
    selecting = {key: labels[key] for key in (CELL, OWNER)}
    objects = []
    for manifest in rendered.objects:
        own: Manifest = _in_namespace(copied(manifest), namespace)
        metadata = own["metadata"]
        if (other := metadata.get("namespace", namespace)) != namespace:
            raise ConfigError(
                f"{title(manifest)} of {rendered.cell.id} is for the namespace {other!r}; what is deployed goes to {namespace!r}",
                hint="Take metadata.namespace out of the manifest, or deploy to that namespace with --llmperf-namespace.",
            )
        metadata["namespace"] = namespace
        if owner is not None:
            metadata["ownerReferences"] = [dict(owner)]
        label(own, dict(labels), selecting)
        objects.append(own)
    return tuple(objects)


def documented(objects: Iterable[Manifest]) -> tuple[str, ...]:
    """Each object as YAML without secrets."""
    return tuple(dump([one]) for one in objects)


def _patch(
    objects: list[Sourced],
    engine: Engine,
    port: int,
    cell: Cell,
    settings: RenderSettings,
    environ: Mapping[str, str],
) -> tuple[str, ...]:
    """Make the objects the cell's; what the engine is told."""
    engine_patch.set_accelerators(engine, cell)
    engine_patch.set_node(engine, cell)
    engine_patch.set_cpus(engine, cell)
    engine_patch.set_memory(engine, cell)
    engine_patch.set_variables(engine.container, cell.variant.env)
    if settings.model_cache is not None:
        weights.set_cache(objects, engine, weights.parse_model_cache(settings.model_cache))
    weights.set_storage(objects, engine, cell)
    weights.set_token(objects, engine, settings.hf_secret, environ)
    if cell.platform.assigns_users:
        engine_patch.let_cluster_choose_users([one.manifest for one in objects])
    if settings.queue is not None:
        engine_patch.queue(engine, settings.queue)
    if settings.simulator_image is not None:
        return simulate(engine, cell, settings.simulator_image, port)
    if settings.image is not None:
        for container in (engine.container, *weights.downloads(engine)):
            container["image"] = settings.image
    arguments = engine_patch.set_arguments(engine, cell, port)
    weights.set_downloads(engine, cell, options_of(arguments))
    return arguments


def _place(manifest: Manifest) -> int:
    if pod_templates(manifest):
        return len(_ORDER) + 1
    return _ORDER.index(manifest["kind"]) if manifest["kind"] in _ORDER else len(_ORDER)


def _in_namespace(manifest: Manifest, namespace: str) -> Manifest:
    """The object with its namespace wherever a chart has written that, and where an account's must be said."""
    moved: Manifest = _replaced(manifest, namespace)
    for subject in moved.get("subjects") or []:
        if subject.get("kind") == "ServiceAccount":
            subject.setdefault("namespace", namespace)
    if moved["kind"] == "StatefulSet" and claim_templates(moved):
        # Its claims are made by the cluster, and would outlive it.
        section(moved, "spec")["persistentVolumeClaimRetentionPolicy"] = {"whenDeleted": "Delete", "whenScaled": "Delete"}
    return moved


def _replaced(value: Any, namespace: str) -> Any:
    if isinstance(value, dict):
        return {key: _replaced(inner, namespace) for key, inner in value.items()}
    if isinstance(value, list):
        return [_replaced(inner, namespace) for inner in value]
    # A secret stays one: ``replace`` knows only plain text.
    return type(value)(value.replace(RELEASE_NAMESPACE, namespace)) if isinstance(value, str) else value
