"""New names for the objects of a cell, and for all that they say of each other, so that the same manifests stand many times."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_llmperf.deploy.kubernetes.api.kinds import Manifest
from pytest_llmperf.deploy.kubernetes.names import name_of
from pytest_llmperf.deploy.kubernetes.rendering.structure import mappings

INSTANCE = "app.kubernetes.io/instance"

Names = Mapping[tuple[str, str], str]
"""The new name by kind and old name."""

_KIND_OF_TEXT: Mapping[str, str] = {
    "claimName": "PersistentVolumeClaim",
    "secretName": "Secret",
    "serviceAccountName": "ServiceAccount",
    "serviceAccount": "ServiceAccount",
    "serviceName": "Service",
    "resourceClaimName": "ResourceClaim",
    "resourceClaimTemplateName": "ResourceClaimTemplate",
}
"""Keys whose value is the name of an object."""
_KIND_OF_PART: Mapping[str, str] = {
    "configMap": "ConfigMap",
    "configMapKeyRef": "ConfigMap",
    "configMapRef": "ConfigMap",
    "secret": "Secret",
    "secretKeyRef": "Secret",
    "secretRef": "Secret",
    "imagePullSecrets": "Secret",
    "secrets": "Secret",
    "service": "Service",
    "backendRefs": "Service",
    "backendRef": "Service",
    "parentRefs": "Gateway",
    "scaleTargetRef": "Deployment",
    "describedObject": "",
    "endpointPickerRef": "Service",
    "extensionRef": "Service",
    "bearerTokenSecret": "Secret",
}
"""Keys whose value (or each of its list) has the ``name`` of an object, and the kind of one that does not say its own."""
_NAMED_BY_ROLES = "resourceNames"
"""Beside the ``resources`` of a role's rule: the objects of those kinds to which it is limited."""
_WITH_KIND = re.compile(r"\w*Refs?|subjects|dataSource")
"""Keys whose values have ``kind`` and ``name``."""
_TEXTS = ("value", "command", "args", "data")
"""Keys below which a Service may be named in a URL."""


def new_names(objects: Sequence[Manifest], instance: str, parts: Sequence[str], suffix: str) -> Names:
    """Names made of the ``parts`` (of the cell) and, where there is one, the ``suffix``.

    The object named ``instance`` has just those, ``INSTANCE-models`` has ``models`` in addition, others have their whole name.
    """
    names = {manifest["metadata"]["name"] for manifest in objects}
    roles = {name: name.removeprefix(instance).strip("-.") if name.startswith(instance) else name for name in names}
    if len(set(roles.values())) < len(names):
        roles = {name: name for name in names}
    return {
        (one["kind"], one["metadata"]["name"]): name_of(*filter(None, (*parts, roles[one["metadata"]["name"]], suffix)))
        for one in objects
    }


def rename(objects: Sequence[Manifest], names: Names) -> None:
    """Give the objects their new names, and everything that refers to them; the rest of the world keeps its own."""
    services = {old: new for (kind, old), new in names.items() if kind == "Service"}
    host = _host_of(services)
    for manifest in objects:
        for inner in mappings(manifest):
            _rename_references(inner, names)
            _rename_in_rule(inner, names)
            _rename_instance(inner, names)
        if host is not None:
            _rename_hosts(manifest, "", host, services)
        manifest["metadata"]["name"] = names[manifest["kind"], manifest["metadata"]["name"]]


def _rename_references(inner: Manifest, names: Names) -> None:
    for key, value in inner.items():
        if isinstance(value, str) and key in _KIND_OF_TEXT:
            inner[key] = names.get((_KIND_OF_TEXT[key], value), value)
        elif key in _KIND_OF_PART or _WITH_KIND.fullmatch(key):
            for reference in value if isinstance(value, list) else [value]:
                _rename_reference(reference, names, _KIND_OF_PART.get(key, ""))


def _rename_reference(reference: Any, names: Names, kind: str) -> None:
    if isinstance(reference, dict) and isinstance(name := reference.get("name"), str):
        reference["name"] = names.get((str(reference.get("kind", kind)), name), name)


def _rename_in_rule(inner: Manifest, names: Names) -> None:
    """What a role allows with some objects only, it allows with those of the set by their new names."""
    resources, limited = inner.get("resources"), inner.get(_NAMED_BY_ROLES)
    if isinstance(resources, list) and isinstance(limited, list):
        plurals = {str(resource).partition("/")[0] for resource in resources}
        new = {old: one for (kind, old), one in names.items() if plurals & {f"{kind.lower()}s", f"{kind.lower()[:-1]}ies"}}
        inner[_NAMED_BY_ROLES] = [new.get(old, old) for old in limited]


def _rename_instance(inner: Manifest, names: Names) -> None:
    """The recommended label that says which of several a pod belongs to, on objects and in selectors."""
    old = inner.get(INSTANCE)
    if isinstance(old, str) and (new := next((new for (_, name), new in names.items() if name == old), None)) is not None:
        inner[INSTANCE] = new


def _host_of(services: Mapping[str, str]) -> re.Pattern[str] | None:
    """Finds a Service of the set as a URL's host: ``http://vllm:8000``, ``http://vllm.default.svc/``."""
    if not services:
        return None
    known = "|".join(re.escape(name) for name in sorted(services, key=len, reverse=True))
    return re.compile(rf"(?<=://)(?:{known})(?=[:/.]|$)")


def _rename_hosts(value: Any, key: str, host: re.Pattern[str], services: Mapping[str, str]) -> Any:
    """Services in the URLs of commands, variables and files."""
    if isinstance(value, str):
        # A secret stays one: ``sub`` makes plain text.
        return type(value)(host.sub(lambda match: services[match[0]], value)) if key in _TEXTS else value
    if isinstance(value, dict):
        for inner_key, inner in value.items():
            value[inner_key] = _rename_hosts(inner, key if key == "data" else inner_key, host, services)
    elif isinstance(value, list):
        value[:] = [_rename_hosts(inner, key, host, services) for inner in value]
    return value
