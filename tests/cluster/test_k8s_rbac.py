"""manifests/rbac on a real API server: what they allow is what is used, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pytest_llmperf.deploy.kubernetes.api.client import KubeApi
from pytest_llmperf.deploy.kubernetes.api.kinds import KNOWN, NAMESPACE, POD, Kind
from pytest_llmperf.deploy.kubernetes.api.watch import Watched, watching
from pytest_llmperf.deploy.kubernetes.doctor.permissions import IN_CLUSTER, IN_NAMESPACE, needs_of, rules
from pytest_llmperf.experiment.catalog import manifests_directory
from tests.cluster.cluster import Cluster

VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
SUBRESOURCES = ((POD, "log"), (POD, "portforward"), (POD, "exec"), (POD, "attach"), (POD, "eviction"))
OTHERS = (
    Kind("rbac.authorization.k8s.io/v1", "Role", "roles"),
    Kind("rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles", namespaced=False),
    Kind("apps/v1", "DaemonSet", "daemonsets"),
)
Rules = frozenset[tuple[str, str, str]]
ACCOUNT = "llmperf"


def applied(cluster: Cluster, namespace: str, file: str) -> None:
    """As its comments say: with the namespace's own name in the place of the one that is written there."""
    objects = list(yaml.safe_load_all((manifests_directory() / "rbac" / file).read_text()))
    for one in objects:
        for subject in one.get("subjects", ()):
            assert subject["namespace"] == "llmperf"
            subject["namespace"] = namespace
    cluster.kubectl("apply", f"--namespace={namespace}", "--filename=-", given=yaml.safe_dump_all(objects))


@pytest.fixture
def account(cluster: Cluster, namespace: str, tmp_path: Path) -> Iterator[KubeApi]:
    """The service account of namespace.yaml, with what that allows it."""
    applied(cluster, namespace, "namespace.yaml")
    token = cluster.kubectl("create", "token", ACCOUNT, f"--namespace={namespace}", "--duration=10m").strip()
    content = yaml.safe_load(cluster.kubeconfig.read_text())
    content["users"][0]["user"] = {"token": token}
    file = tmp_path / "config"
    file.write_text(yaml.safe_dump(content))
    with KubeApi.connect(file) as api:
        yield api


def allowed(api: KubeApi, namespace: str | None) -> Rules:
    """All that this user may do there."""
    asked = [(kind, "") for kind in (*KNOWN.values(), *OTHERS)] + list(SUBRESOURCES)
    return frozenset(
        (kind.group, f"{kind.plural}/{subresource}" if subresource else kind.plural, verb)
        for kind, subresource in asked
        for verb in VERBS
        if api.may(verb, kind, namespace, subresource=subresource).allowed
    )


def test_the_role_of_one_namespace(account: KubeApi, namespace: str) -> None:
    assert account.user() == f"system:serviceaccount:{namespace}:{ACCOUNT}"
    assert allowed(account, namespace) == rules(IN_NAMESPACE)
    assert allowed(account, "default") == allowed(account, None) == frozenset()
    # The verb, not only the answer to a question.
    assert account.get(NAMESPACE, namespace) is not None
    assert account.list(POD, namespace) == []


def test_what_is_read_of_the_whole_cluster(cluster: Cluster, account: KubeApi, namespace: str) -> None:
    applied(cluster, namespace, "cluster.yaml")
    try:
        cluster.await_true("it holds", lambda: account.may("list", POD).allowed)
        assert allowed(account, None) == rules(IN_CLUSTER)
    finally:
        cluster.kubectl("delete", "clusterrole,clusterrolebinding", "llmperf-cluster")


def test_sessions_that_make_their_namespaces(cluster: Cluster, account: KubeApi, namespace: str) -> None:
    applied(cluster, namespace, "own-namespaces.yaml")
    try:
        cluster.await_true("it holds", lambda: account.may("list", POD).allowed)
        assert allowed(account, None) == rules(needs_of(None))
    finally:
        cluster.kubectl("delete", "clusterrole,clusterrolebinding", "llmperf-own-namespaces")


def test_an_account_with_just_that_sees_an_api_server_restart_through(cluster: Cluster, account: KubeApi, namespace: str) -> None:
    with watching(account, [Watched(POD, namespace)]) as watch:
        assert watch.next(60.0) is not None
        cluster.stop("kube-apiserver")
        cluster.start("kube-apiserver")
        assert account.list(POD, namespace) == []
        cluster.await_true("the API server is ready again", cluster.api.is_ready)
        # Neither has been told that it may not.
        assert watch.next(3.0) is None
