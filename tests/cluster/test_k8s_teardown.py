"""A cell is taken away whole, with nothing of anybody else's, whatever gets in the way."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Timer
from time import sleep
from uuid import uuid4

import pytest

from pytest_llmperf.deploy.kubernetes.api.client import KubeApi
from pytest_llmperf.deploy.kubernetes.api.kinds import CONFIG_MAP, DEPLOYMENT, POD
from pytest_llmperf.deploy.kubernetes.names import CELL, OWNER, Identity
from pytest_llmperf.deploy.kubernetes.ownership import teardown
from pytest_llmperf.deploy.kubernetes.ownership.session import KubeSession, Ownership
from pytest_llmperf.deploy.kubernetes.ownership.teardown import remove_cell
from pytest_llmperf.errors import DeployError
from tests.cluster.cluster import Cluster
from tests.cluster.k8s_sessions import CELL as A_CELL
from tests.cluster.k8s_sessions import KINDS, apply, cell_objects, left_of, settings

ROOT = Path(__file__).parents[2]


@pytest.fixture
def owner(api: KubeApi, namespace: str) -> Iterator[KubeSession]:
    session = KubeSession(api, settings(uuid4().hex[:8], namespace=namespace))
    yield session
    session.close()


def remove(api: KubeApi, ownership: Ownership, cell: str = A_CELL, timeout_s: float = 60.0) -> None:
    remove_cell(api, ownership.identity, cell, ownership.namespace, KINDS, timeout_s)


def of_cell(ownership: Ownership, cell: str = A_CELL) -> str:
    return f"{OWNER}={ownership.identity.owner},{CELL}={cell}"


def await_pods(cluster: Cluster, ownership: Ownership) -> None:
    deployment = f"deployment --selector={OWNER}={ownership.identity.owner}".split()
    cluster.kubectl("rollout", "status", *deployment, f"--namespace={ownership.namespace}", "--timeout=60s")


def test_a_cell_goes_with_its_pods_and_a_second_time_there_is_nothing_to_do(
    cluster: Cluster, api: KubeApi, owner: KubeSession
) -> None:
    ownership = owner.opened()
    apply(api, cell_objects(ownership, replicas=2))
    await_pods(cluster, ownership)
    remove(api, ownership)
    assert left_of(cluster, of_cell(ownership)) == []
    remove(api, ownership)


def test_half_a_cell_goes_too(cluster: Cluster, api: KubeApi, owner: KubeSession) -> None:
    ownership = owner.opened()
    apply(api, cell_objects(ownership)[:2])
    remove(api, ownership)
    assert left_of(cluster, of_cell(ownership)) == []


def test_nothing_else_is_touched(api: KubeApi, owner: KubeSession) -> None:
    ownership = owner.opened()
    namespace, other = ownership.namespace, Identity("other")
    apply(api, cell_objects(ownership))
    apply(api, cell_objects(ownership, "another-cell"))
    apply(api, cell_objects(replace(ownership, identity=other)))
    for name, labels in {
        "no-labels": {},
        "other-manager": {**ownership.identity.labels(A_CELL), "app.kubernetes.io/managed-by": "Helm"},
        "no-owner": {"app.kubernetes.io/managed-by": "pytest-llmperf", CELL: A_CELL},
    }.items():
        metadata = {"name": name, "namespace": namespace, "labels": labels}
        api.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})
    before = {one["metadata"]["name"] for one in api.list(CONFIG_MAP, namespace)}
    remove(api, ownership)
    gone = before - {one["metadata"]["name"] for one in api.list(CONFIG_MAP, namespace)}
    assert gone == {cell_objects(ownership)[0]["metadata"]["name"]}
    assert len(api.list(DEPLOYMENT, namespace)) == 2
    for identity, cell in ((ownership.identity, "another-cell"), (other, A_CELL)):
        remove_cell(api, identity, cell, namespace, KINDS)


def test_what_a_finalizer_keeps_is_named_and_how_to_let_it_go(cluster: Cluster, api: KubeApi, owner: KubeSession) -> None:
    ownership = owner.opened()
    objects = cell_objects(ownership)
    objects[0]["metadata"]["finalizers"] = ["example.com/keep"]
    apply(api, objects)
    name, namespace = objects[0]["metadata"]["name"], ownership.namespace
    with pytest.raises(DeployError, match=f"{A_CELL}: not all of it could be removed") as raised:
        remove(api, ownership, timeout_s=0.5)
    assert raised.value.state == f"left: ConfigMap {name} (kept by the finalizer example.com/keep)"
    assert raised.value.hint is not None
    assert f"kubectl patch configmaps {name} --namespace={namespace} --type=merge" in raised.value.hint
    assert len([one for one in left_of(cluster, of_cell(ownership)) if "/ConfigMap/" not in one]) == 0, "all else is gone"
    api.patch(CONFIG_MAP, name, namespace, {"metadata": {"finalizers": None}})
    remove(api, ownership)


def test_a_pod_that_its_node_does_not_end_is_taken_from_the_api(
    cluster: Cluster, api: KubeApi, owner: KubeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teardown, "FORCE_AFTER_S", 1.0)
    ownership = owner.opened()
    apply(api, cell_objects(ownership, replicas=1, terminationGracePeriodSeconds=1))
    await_pods(cluster, ownership)
    cluster.stop("kubelet")
    try:
        remove(api, ownership, timeout_s=0.0)
        assert left_of(cluster, of_cell(ownership)) == []
    finally:
        cluster.start("kubelet")


def test_pods_have_the_time_they_ask_for(cluster: Cluster, api: KubeApi, owner: KubeSession) -> None:
    """A pod's own grace is longer than the time given: it is waited for, and not taken away by force."""
    ownership = owner.opened()
    slow = ["sh", "-c", "trap 'sleep 2; exit 0' TERM; while :; do sleep 0.1; done"]
    objects = cell_objects(ownership, replicas=1, terminationGracePeriodSeconds=20)
    objects[-1]["spec"]["template"]["spec"]["containers"][0]["command"] = slow
    apply(api, objects)
    await_pods(cluster, ownership)
    remove(api, ownership, timeout_s=0.0)
    assert left_of(cluster, of_cell(ownership)) == []


def test_the_permissions_that_are_documented_are_enough(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_bytes(cluster.kubeconfig.read_bytes())
    documented = (ROOT / "manifests" / "rbac" / "namespace.yaml").read_text()
    given = documented.replace("namespace: llmperf", f"namespace: {namespace}")
    cluster.kubectl("apply", f"--namespace={namespace}", "--filename=-", given=given)
    token = cluster.kubectl("create", "token", "llmperf", f"--namespace={namespace}")
    cluster.kubectl("config", "set-credentials", "user", f"--token={token}", f"--kubeconfig={kubeconfig}")
    cluster.kubectl("config", "set-context", "--current", "--user=user", f"--kubeconfig={kubeconfig}")
    with KubeApi.connect(kubeconfig) as allowed:
        session = KubeSession(allowed, settings(uuid4().hex[:8], namespace=namespace))
        ownership = session.opened()
        apply(allowed, cell_objects(ownership, replicas=1))
        await_pods(cluster, ownership)
        remove(allowed, ownership)
        assert left_of(cluster, of_cell(ownership)) == []
        apply(allowed, cell_objects(ownership))
        session.close()
    assert left_of(cluster, f"{OWNER}={ownership.identity.owner}") == []


def test_the_api_server_may_restart_meanwhile(cluster: Cluster, api: KubeApi, owner: KubeSession) -> None:
    ownership = owner.opened()
    apply(api, cell_objects(ownership, replicas=1))
    await_pods(cluster, ownership)
    cluster.stop("kube-apiserver")
    restart = Timer(1.0, cluster.start, ["kube-apiserver"])
    restart.start()
    remove(api, ownership)
    restart.join()
    cluster.await_true("the API server is ready again", cluster.api.is_ready)
    assert left_of(cluster, of_cell(ownership)) == []


def test_fifty_cells_leave_nothing_neither_there_nor_here(cluster: Cluster, api: KubeApi, owner: KubeSession) -> None:
    ownership = owner.opened()

    def once(number: int) -> None:
        apply(api, cell_objects(ownership, f"cell-{number}"))
        remove(api, ownership, f"cell-{number}")

    once(0)
    before = (threading.active_count(), descriptors())
    for number in range(1, 50):
        once(number)
    # The endpoints controller may write what follows a Service just after that went; it takes it away again.
    of_all = f"{OWNER}={ownership.identity.owner},{CELL}"
    cluster.await_true("what follows Services has gone", lambda: left_of(cluster, of_all) == [])
    assert api.list(POD, ownership.namespace) == []
    for _ in range(100):
        if threading.active_count() <= before[0] and descriptors() <= before[1] + 1:
            break
        sleep(0.05)
    assert threading.active_count() <= before[0]
    assert descriptors() <= before[1] + 1, "one connection is the heartbeat's, since its first beat"


def descriptors() -> int:
    """Open files and sockets of this process."""
    return len(list(Path(f"/proc/{os.getpid()}/fd").iterdir()))
