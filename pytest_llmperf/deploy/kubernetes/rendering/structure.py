"""What lies where in any object: pod templates, containers, selectors. Kinds that nobody foresaw are walked like the others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pytest_llmperf.deploy.kubernetes.api.kinds import Manifest

_SELECTING = {
    "DaemonSet",
    "Deployment",
    "InferencePool",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "PodMonitor",
    "ReplicaSet",
    "ReplicationController",
    "Service",
    "ServiceMonitor",
    "StatefulSet",
}
"""Kinds whose selector means pods, or objects of their own set. A Job's is the cluster's to make, a claim's means volumes."""
_PLAIN = ("Service", "ReplicationController")
"""Kinds whose selector is labels and nothing else."""


@dataclass(frozen=True)
class PodTemplate:
    """The pods an object makes: both are parts of the object, and change with it."""

    metadata: Manifest | None
    """None where the kind has no place for a pod's labels."""
    spec: Manifest

    @property
    def containers(self) -> list[Manifest]:
        """Those that run together."""
        return [one for one in self.spec["containers"] if isinstance(one, dict)]

    @property
    def init_containers(self) -> list[Manifest]:
        """Those that run before."""
        return [one for one in self.spec.get("initContainers") or [] if isinstance(one, dict)]


def mappings(value: Any) -> Iterator[Manifest]:
    """Every mapping in a value, itself included, the outermost first."""
    if isinstance(value, dict):
        yield value
        for inner in list(value.values()):
            yield from mappings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from mappings(inner)


def holders(value: Any, inner: Manifest) -> list[Manifest]:
    """The mappings of a value in which another lies, the outermost first, that one itself last; none where it does not."""
    if value is inner:
        return [inner]
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        if found := holders(each, inner):
            return [value, *found] if isinstance(value, dict) else found
    return []


def pod_templates(manifest: Manifest) -> list[PodTemplate]:
    """The pods that an object makes, also one of a kind that only its own cluster knows."""
    return [
        PodTemplate(section(outer, "metadata") if key == "spec" else None, inner)
        for outer in mappings(manifest)
        for key, inner in list(outer.items())
        if isinstance(inner, dict) and _has_containers(inner)
    ]


def claim_templates(manifest: Manifest) -> list[Manifest]:
    """The claims that a StatefulSet makes for its pods."""
    found = section(manifest, "spec").get("volumeClaimTemplates") if manifest["kind"] == "StatefulSet" else None
    return [one for one in found or [] if isinstance(one, dict)]


def section(outer: Manifest, key: str) -> Manifest:
    """The mapping under a key, made where there is none."""
    if not isinstance(outer.get(key), dict):
        outer[key] = {}
    inner: Manifest = outer[key]
    return inner


def entries(outer: Manifest, key: str) -> list[Manifest]:
    """The list under a key, made where there is none."""
    if not isinstance(outer.get(key), list):
        outer[key] = []
    inner: list[Manifest] = outer[key]
    return inner


def label(manifest: Manifest, labels: Manifest, selecting: Manifest) -> None:
    """Put ``labels`` on an object and the pods and claims it makes, and ``selecting`` into what chooses pods of the set.

    A pod may want to be near others, or far from them: only what means pods like itself is narrowed to its own.
    """
    section(section(manifest, "metadata"), "labels").update(labels)
    for claim in claim_templates(manifest):
        section(section(claim, "metadata"), "labels").update(labels)
    for template in pod_templates(manifest):
        if template.metadata is not None:
            section(template.metadata, "labels").update(labels)
        own = (template.metadata or {}).get("labels") or {}
        for inner in mappings(template.spec):
            selector = inner.get("labelSelector")
            if isinstance(selector, dict) and (wanted := selector.get("matchLabels")) and wanted.items() <= own.items():
                wanted.update(selecting)
    if manifest["kind"] in _SELECTING:
        _select(manifest["kind"], section(manifest, "spec"), selecting)


def _select(kind: str, spec: Manifest, labels: Manifest) -> None:
    """Narrow what an object chooses to the set's own; also what chooses everything in the namespace, which others use too."""
    if kind == "NetworkPolicy":
        section(section(spec, "podSelector"), "matchLabels").update(labels)
    elif isinstance(selector := spec.get("selector"), dict):
        if kind in _PLAIN or (kind == "InferencePool" and "matchLabels" not in selector):
            # Without a selector, somebody else says where such a Service leads.
            selector.update(labels if selector else {})
        else:
            section(selector, "matchLabels").update(labels)


def _has_containers(spec: Manifest) -> bool:
    containers = spec.get("containers")
    return isinstance(containers, list) and any(isinstance(one, dict) and "name" in one for one in containers)
