"""Kinds of objects, and where the API has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Manifest = dict[str, Any]
"""One object, as the API takes it and has it."""


@dataclass(frozen=True)
class Kind:
    """A kind of objects as the API serves it: ``Kind("apps/v1", "Deployment", "deployments")``."""

    api_version: str
    kind: str
    plural: str
    namespaced: bool = True

    @property
    def group(self) -> str:
        """The API group; empty for the core's."""
        return group_of(self.api_version)

    def path(self, namespace: str | None = None, name: str | None = None) -> str:
        """Where one of them is, or all of a namespace, or of all namespaces where none is given."""
        parts = [group_path(self.api_version)]
        if self.namespaced and namespace is not None:
            parts += ["namespaces", namespace]
        parts += [self.plural] if name is None else [self.plural, name]
        return "/".join(parts)


def group_of(api_version: str) -> str:
    """``apps/v1`` -> ``apps``; empty for the core's ``v1``."""
    return api_version.rpartition("/")[0]


def group_path(api_version: str) -> str:
    """Where the API has the kinds of a group and version."""
    return f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"


POD = Kind("v1", "Pod", "pods")
EVENT = Kind("v1", "Event", "events")
NODE = Kind("v1", "Node", "nodes", namespaced=False)
SERVICE = Kind("v1", "Service", "services")
SECRET = Kind("v1", "Secret", "secrets")
CONFIG_MAP = Kind("v1", "ConfigMap", "configmaps")
PVC = Kind("v1", "PersistentVolumeClaim", "persistentvolumeclaims")
NAMESPACE = Kind("v1", "Namespace", "namespaces", namespaced=False)
SERVICE_ACCOUNT = Kind("v1", "ServiceAccount", "serviceaccounts")
RESOURCE_QUOTA = Kind("v1", "ResourceQuota", "resourcequotas")
LEASE = Kind("coordination.k8s.io/v1", "Lease", "leases")
DEPLOYMENT = Kind("apps/v1", "Deployment", "deployments")
REPLICASET = Kind("apps/v1", "ReplicaSet", "replicasets")
STATEFULSET = Kind("apps/v1", "StatefulSet", "statefulsets")
DAEMONSET = Kind("apps/v1", "DaemonSet", "daemonsets")
JOB = Kind("batch/v1", "Job", "jobs")
CRON_JOB = Kind("batch/v1", "CronJob", "cronjobs")
STORAGE_CLASS = Kind("storage.k8s.io/v1", "StorageClass", "storageclasses", namespaced=False)
INGRESS = Kind("networking.k8s.io/v1", "Ingress", "ingresses")

_ALL = (
    POD,
    EVENT,
    NODE,
    SERVICE,
    SECRET,
    CONFIG_MAP,
    PVC,
    NAMESPACE,
    SERVICE_ACCOUNT,
    RESOURCE_QUOTA,
    LEASE,
    DEPLOYMENT,
    REPLICASET,
    STATEFULSET,
    DAEMONSET,
    JOB,
    CRON_JOB,
    STORAGE_CLASS,
    INGRESS,
)
KNOWN: Mapping[tuple[str, str], Kind] = {(one.api_version, one.kind): one for one in _ALL}
"""Those that need not be asked for, by API version and kind."""
