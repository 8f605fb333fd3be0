"""manifests/rbac on a real API server: what they allow is what is used, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from pytest_llmperf.deploy.kubernetes.api.client import KubeApi
from pytest_llmperf.deploy.kubernetes.api.kinds import KNOWN, NAMESPACE, POD, Kind
from pytest_llmperf.deploy.kubernetes.api.watch import Watched, watching
from pytest_llmperf.deploy.kubernetes.doctor.permissions import IN_CLUSTER, IN_NAMESPACE, needs_of, rules
from pytest_llmperf.deploy.kubernetes.ownership.teardown import FOLLOWING
from pytest_llmperf.errors import DeployError
from pytest_llmperf.experiment.catalog import manifests_directory
from tests.cluster.cluster import Cluster
from tests.cluster.k8s_pytest import PytestSessions
from tests.cluster.k8s_sessions import left_of

VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
SUBRESOURCES = ((POD, "log"), (POD, "portforward"), (POD, "exec"), (POD, "attach"), (POD, "eviction"))
OTHERS = (
    Kind("rbac.authorization.k8s.io/v1", "Role", "roles"),
    Kind("rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles", namespaced=False),
)
Rules = frozenset[tuple[str, str, str]]
ACCOUNT = "llmperf"
SUITE = """
from pathlib import Path
import pytest
from pytest_llmperf import constant

pytestmark = pytest.mark.llmperf(workload="interactive-chat")

def test_measured(load):
    load(constant("5/s"), "1s", warmup="0s")

def test_whose_engine_dies(load):
    Path("loading").touch()
    load(constant("2/s"), "10s", warmup="0s")
"""


def applied(cluster: Cluster, namespace: str, file: str) -> None:
    """As its comments say: with the namespace's own name in the place of the one that is written there."""
    objects = list(yaml.safe_load_all((manifests_directory() / "rbac" / file).read_text()))
    for one in objects:
        for subject in one.get("subjects", ()):
            assert subject["namespace"] == "llmperf"
            subject["namespace"] = namespace
    cluster.kubectl("apply", f"--namespace={namespace}", "--filename=-", given=yaml.safe_dump_all(objects))


@pytest.fixture
def kubeconfig(cluster: Cluster, namespace: str, tmp_path: Path) -> Path:
    """That of the service account of namespace.yaml, with what that allows it."""
    applied(cluster, namespace, "namespace.yaml")
    token = cluster.kubectl("create", "token", ACCOUNT, f"--namespace={namespace}", "--duration=10m").strip()
    content = yaml.safe_load(cluster.kubeconfig.read_text())
    content["users"][0]["user"] = {"token": token}
    file = tmp_path / "config"
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.fixture
def account(kubeconfig: Path) -> Iterator[KubeApi]:
    """Its client."""
    with KubeApi.connect(kubeconfig) as api:
        yield api


def allowed(api: KubeApi, namespace: str | None) -> Rules:
    """All that this user may do there."""
    asked = [(kind, "") for kind in (*KNOWN.values(), *FOLLOWING, *OTHERS)] + list(SUBRESOURCES)
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


def test_a_session_with_just_that_measures_tells_how_an_engine_died_and_leaves_nothing(
    cluster: Cluster, sessions: PytestSessions, kubeconfig: Path
) -> None:
    sessions.write(test_suite=SUITE)
    session, place = replace(sessions, kubeconfig=kubeconfig).start(), f"--namespace={sessions.namespace}"
    try:
        session.await_true("a load goes on", (sessions.folder / "loading").exists)
        (pod,) = cluster.kubectl("get", "pods", place, "--output=name").split()
        with suppress(DeployError):  # it may be ended with its container, before it can say that it has done its work
            cluster.kubectl("exec", pod, place, "--", "sh", "-c", "kill 1")
        assert session.end() == pytest.ExitCode.TESTS_FAILED, session.said
    finally:
        session.kill()
    assert left_of(cluster) == [], session.said
    assert "1 failed, 1 passed" in session.said
    assert len(sessions.runs()) == 2, "what was measured until then is kept"
    name = pod.removeprefix("pod/")
    lost = re.search(rf"the container vllm of the pod {name} ended with exit code 0; logs and events: (\S+)$", session.said, re.M)
    assert lost is not None, session.said
    kept = Path(lost[1])
    assert kept.is_relative_to(sessions.folder / ".llmperf")
    assert f"the container vllm of the pod {name} ended" in (kept / "diagnosis.txt").read_text()
    assert '"port": 8000' in (kept / f"{name}_vllm_previous.log").read_text()
    assert re.search(rf"Started +{pod} ", (kept / "events.txt").read_text())
    assert f"name: {name}" in (kept / "objects.yaml").read_text()


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
