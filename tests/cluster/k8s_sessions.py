"""What the tests of sessions apply, and a process that does so until it is killed: ``python -m tests.cluster.k8s_sessions``."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from pytest_llmperf.deploy.kubernetes.api.client import KubeApi
from pytest_llmperf.deploy.kubernetes.api.kinds import CONFIG_MAP, DEPLOYMENT, POD, SECRET, SERVICE
from pytest_llmperf.deploy.kubernetes.api.watch import Watched, watching
from pytest_llmperf.deploy.kubernetes.names import MANAGED_BY, MANAGER, name_of
from pytest_llmperf.deploy.kubernetes.ownership.session import KubeSession, Ownership
from pytest_llmperf.deploy.kubernetes.ownership.teardown import FOLLOWING, remove_cell
from pytest_llmperf.deploy.kubernetes.settings import KubernetesSettings, RenderSettings
from tests.cluster.cluster import Cluster
from tests.cluster.components import PAUSE_IMAGE

KINDS = (CONFIG_MAP, SECRET, SERVICE, DEPLOYMENT)
OURS = f"{MANAGED_BY}={MANAGER}"
CELL = "gke_h100_standalone_llama-3.1-8b"
Object = dict[str, Any]


def settings(session: str, worker: str = "", namespace: str | None = None) -> KubernetesSettings:
    """Those of a session that deploys into a namespace, or into one of its own."""
    return KubernetesSettings(RenderSettings(), session, worker, namespace=namespace)


def cell_objects(ownership: Ownership, cell: str = CELL, replicas: int = 0, **pod: object) -> tuple[Object, ...]:
    """A cell as it is placed: labelled, owned, and with pods that end as soon as they are told to. ``pod`` adds to their spec."""
    labels = dict(ownership.identity.labels(cell))

    def made(api_version: str, kind: str, **content: object) -> Object:
        name = name_of(cell, ownership.identity.session, ownership.identity.worker)
        owners = [dict(ownership.owner)]
        metadata = {"name": name, "namespace": ownership.namespace, "labels": labels, "ownerReferences": owners}
        return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **content}

    wait = ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done"]
    container = {"name": "main", "image": PAUSE_IMAGE, "command": wait}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container], "terminationGracePeriodSeconds": 5, **pod}}
    spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    return (
        made("v1", "ConfigMap", data={"key": "value"}),
        made("v1", "Secret", stringData={"token": "hf_secret"}),
        made("v1", "Service", spec={"selector": labels, "ports": [{"port": 8000}]}),
        made("apps/v1", "Deployment", spec=spec),
    )


def apply(api: KubeApi, objects: Iterable[Object]) -> None:
    """All of them, one after another."""
    for manifest in objects:
        api.apply(manifest)


def await_pod(api: KubeApi, ownership: Ownership) -> None:
    """Until the cluster has made the cell's pod."""
    with watching(api, [Watched(POD, ownership.namespace, labels=ownership.identity.selector(CELL))]) as watch:
        while (pods := watch.next(60.0)) is not None and not pods.of(POD):
            continue
    assert pods is not None, "there is no pod"


def left_of(cluster: Cluster, labels: str = OURS) -> list[str]:
    """Whatever bears the labels, of any kind that the cluster has: ``namespace/kind/name``.

    What follows a Service may be written just after that went, by a controller that had not heard of it, and goes again.
    """
    following = {kind.kind for kind in FOLLOWING}
    deadline = monotonic() + 15.0
    while True:
        left = _now_left_of(cluster, labels)
        if not left or monotonic() > deadline or not {one.split("/")[1] for one in left} <= following:
            return left
        sleep(0.1)


def _now_left_of(cluster: Cluster, labels: str) -> list[str]:
    kinds = cluster.kubectl("api-resources", "--verbs=list,delete", "--output=name").split()
    columns = "custom-columns=N:.metadata.namespace,K:.kind,M:.metadata.name"
    asked = ("get", ",".join(kinds), "--all-namespaces", f"--selector={labels}", f"--output={columns}", "--no-headers")
    lines = cluster.kubectl(*asked, "--ignore-not-found").splitlines()
    return sorted("/".join(line.split()) for line in lines)


class Stopping(KubeApi):
    """Calls what it has done ``made Lease``, ``applied Service``, and waits to be killed at the first of ``last``."""

    last: tuple[str, ...] = ()

    def create(self, manifest: Mapping[str, Any]) -> Object:
        """Make the object, and say so."""
        made = super().create(manifest)
        self._pass(f"made {manifest['kind']}")
        return made

    def apply(self, manifest: Mapping[str, Any], *, dry_run: bool = False) -> Object:
        """Apply the object, and say so."""
        made = super().apply(manifest, dry_run=dry_run)
        self._pass(f"applied {manifest['kind']}")
        return made

    def delete(self, kind: Any, name: str, namespace: str | None = None, **more: Any) -> bool:
        """Delete the object, and say so."""
        deleted = super().delete(kind, name, namespace, **more)
        self._pass(f"deleted {kind.kind}")
        return deleted

    def _pass(self, what: str) -> None:
        if what in self.last:
            print("here", flush=True)
            sys.stdin.read()


def main(kubeconfig: str, session: str, namespace: str, *last: str) -> None:
    """A session of one cell, from its Lease to its end, or to the first of the steps in ``last``."""
    Stopping.last = last
    api = Stopping.connect(Path(kubeconfig))
    owner = KubeSession(api, settings(session, namespace=namespace or None))
    ownership = owner.opened()
    apply(api, cell_objects(ownership, replicas=1))
    await_pod(api, ownership)
    remove_cell(api, ownership.identity, CELL, ownership.namespace, KINDS)
    owner.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
