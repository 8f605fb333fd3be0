"""Where an object must have lists and mappings: whoever reads or changes one later need not ask again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_llmperf.deploy.kubernetes.rendering.manifests import Sourced
from pytest_llmperf.deploy.kubernetes.rendering.structure import pod_templates
from pytest_llmperf.errors import ConfigError

Shape = Mapping[str, Any] | list[Any] | type
"""A mapping with the shapes of some of its values; a list of mappings of one shape; a value that must be there."""

_REQUIRED_TERMS: Shape = {"nodeSelectorTerms": [{"matchExpressions": [{}]}]}
_CONTAINER: Shape = {
    "name": str,
    "env": [{}],
    "envFrom": [{}],
    "ports": [{}],
    "volumeMounts": [{"name": str, "mountPath": str}],
    "resources": {"requests": {}, "limits": {}},
    "securityContext": {},
}
_POD: Shape = {
    "containers": [_CONTAINER],
    "initContainers": [_CONTAINER],
    "volumes": [{"name": str, "emptyDir": {}, "persistentVolumeClaim": {"claimName": str}}],
    "nodeSelector": {},
    "tolerations": [{}],
    "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": _REQUIRED_TERMS}},
    "securityContext": {},
}
_KUBERNETES_OWN = ("v1", "apps/v1", "rbac.authorization.k8s.io/v1")
_CLAIM: Mapping[str, Any] = {"spec": {"resources": {"requests": {}}}}
_OF_KIND: Mapping[str, Shape] = {
    "PersistentVolumeClaim": _CLAIM,
    "RoleBinding": {"subjects": [{}]},
    "Service": {"spec": {"selector": {}, "ports": [{"port": int}]}},
    "StatefulSet": {"spec": {"volumeClaimTemplates": [{"metadata": {"name": str}, **_CLAIM}]}},
}


def check_shape(one: Sourced) -> None:
    """Raises ``ConfigError`` for the first value of an object that has another shape than Kubernetes knows."""
    if one.manifest["apiVersion"] in _KUBERNETES_OWN:
        _check(one, "", one.manifest, _OF_KIND.get(one.manifest["kind"], {}))
    for template in pod_templates(one.manifest):
        _check(one, "a pod's metadata", template.metadata, {"labels": {}})
        _check(one, "a pod's spec", template.spec, _POD)


def _check(one: Sourced, place: str, value: Any, shape: Shape) -> None:
    if isinstance(shape, type):
        if not isinstance(value, shape):
            raise _wrong(one, place, "a number" if shape is int else "text")
    elif value is None:
        return
    elif isinstance(shape, list):
        if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
            raise _wrong(one, place, "a list of mappings")
        for at, each in enumerate(value):
            _check(one, f"{place}[{each.get('name') or at}]", each, shape[0])
    else:
        if not isinstance(value, dict):
            raise _wrong(one, place, "a mapping")
        for key, inner in shape.items():
            _check(one, f"{place}.{key}" if place else key, value.get(key), inner)


def _wrong(one: Sourced, place: str, what: str) -> ConfigError:
    return ConfigError(f"{place} of {one.title} must be {what}", where=one.where)
