"""Kubernetes objects that the cluster's own tests apply."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.cluster.components import PAUSE_IMAGE

Object = Mapping[str, Any]


def pod(name: str, command: Sequence[str], limits: Mapping[str, str] | None = None, **spec: object) -> Object:
    """A pod with a shell; ``spec`` adds to or replaces what its specification says."""
    container = {"name": "main", "image": PAUSE_IMAGE, "command": list(command), "resources": {"limits": dict(limits or {})}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"containers": [container], "restartPolicy": "Never", **spec},
    }


def config_map(name: str, files: Mapping[str, str]) -> Object:
    """Files for pods."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": dict(files)}


def service(name: str, port: int) -> Object:
    """What leads to the pods with the label ``app: NAME``."""
    spec = {"selector": {"app": name}, "ports": [{"name": "http", "port": port, "targetPort": port}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def simulator(name: str, image: str, port: int, limits: Mapping[str, str]) -> Object:
    """A Deployment of the simulator; its specification is the file ``spec.json`` of the ConfigMap of the same name."""
    container = {
        "name": "simulator",
        "image": image,
        "args": ["--spec=/spec/spec.json", "--host=0.0.0.0", f"--port={port}"],
        "ports": [{"name": "http", "containerPort": port}],
        "resources": {"limits": dict(limits)},
        "readinessProbe": {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 1},
        "volumeMounts": [{"name": "spec", "mountPath": "/spec"}],
    }
    template = {
        "metadata": {"labels": {"app": name}},
        "spec": {"containers": [container], "volumes": [{"name": "spec", "configMap": {"name": name}}]},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": name}}, "template": template},
    }


def listed(*objects: Object) -> Object:
    """Several objects as one."""
    return {"apiVersion": "v1", "kind": "List", "items": list(objects)}
