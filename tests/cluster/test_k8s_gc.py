"""What a killed session leaves is removed, all of it, and nothing else: by ``pytest-llmperf gc``, and by the next session."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from pytest_llmperf.deploy.kubernetes.api.client import KubeApi
from pytest_llmperf.deploy.kubernetes.api.kinds import CONFIG_MAP, LEASE, NAMESPACE
from pytest_llmperf.deploy.kubernetes.names import SESSION, Identity
from pytest_llmperf.deploy.kubernetes.ownership.lease import DURATION_S, Heartbeat, Holder, lease_manifest, lease_seen
from pytest_llmperf.deploy.kubernetes.ownership.namespaces import made_name
from pytest_llmperf.deploy.kubernetes.ownership.session import KubeSession
from pytest_llmperf.deploy.kubernetes.ownership.sweep import remove, survey, to_remove
from tests.cluster.cluster import Cluster
from tests.cluster.k8s_sessions import apply, await_pod, cell_objects, left_of, settings

ROOT = Path(__file__).parents[2]
BEAT_S = 1.0
"""Of a session of another machine; they beat ten times as seldom, and are waited for as much longer."""
# What a Deployment has made the cluster may take away before the session comes to it: then the next step is the one.
PODS = ("deleted Pod", "deleted ConfigMap")
IN_ITS_OWN = (
    ("made Namespace",),
    ("made Lease",),
    ("applied Secret",),
    ("applied Deployment",),
    ("deleted Deployment",),
    PODS,
    ("deleted Lease",),
    ("deleted Namespace",),
)
IN_ONE_THAT_WAS_GIVEN = (("made Lease",), ("applied Service",), ("applied Deployment",), ("deleted ReplicaSet", *PODS))


@dataclass(frozen=True)
class Ended:
    """What the command said."""

    status: int
    out: str
    err: str


def gc(cluster: Cluster, *words: str) -> Ended:
    command = [sys.executable, "-m", "pytest_llmperf.cli", "gc", *words]
    done = subprocess.run(command, cwd=ROOT, env=cluster.environment, capture_output=True, text=True, check=False)
    return Ended(done.returncode, done.stdout, done.stderr)


def killed_at(cluster: Cluster, *sessions: tuple[str, str, *tuple[str, ...]]) -> None:
    """Processes side by side, each killed at the first of its steps: (session, namespace, *steps)."""
    command = [sys.executable, "-m", "tests.cluster.k8s_sessions", str(cluster.kubeconfig)]
    with ExitStack() as every:
        processes = [
            every.enter_context(
                subprocess.Popen([*command, *each], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            for each in sessions
        ]
        for process, each in zip(processes, sessions, strict=True):
            assert process.stdout is not None
            assert process.stdout.readline() == "here\n", f"it did not come to {each[2:]}"
        for process in processes:
            process.kill()


def of_sessions(cluster: Cluster, sessions: Sequence[str]) -> list[str]:
    return left_of(cluster, f"{SESSION} in ({','.join(sessions)})")


def test_whatever_it_was_doing_all_that_a_killed_session_left_is_removed(
    cluster: Cluster, api: KubeApi, namespace: str, session: str
) -> None:
    living = KubeSession(api, settings(session, namespace=namespace))
    apply(api, cell_objects(living.opened(), replicas=1))
    cluster.kubectl("create", "configmap", "somebodys", f"--namespace={namespace}")
    before = left_of(cluster, f"{SESSION}={session}")
    dead = [(uuid4().hex[:8], "", *steps) for steps in IN_ITS_OWN]
    dead += [(uuid4().hex[:8], namespace, *steps) for steps in IN_ONE_THAT_WAS_GIVEN]
    killed_at(cluster, *dead)
    names = [name for name, *_ in dead]
    assert of_sessions(cluster, names) != []
    ended = gc(cluster)
    assert (ended.status, ended.err) == (0, "")
    assert of_sessions(cluster, names) == []
    assert "alive " in ended.out
    assert [line for line in ended.out.splitlines() if session in line and line.startswith("removed")] == []
    assert set(before) <= set(left_of(cluster, f"{SESSION}={session}"))
    assert api.get(CONFIG_MAP, "somebodys", namespace) is not None
    living.close()
    assert gc(cluster).out == "no sessions\n"


def test_the_next_session_removes_it_too(cluster: Cluster, api: KubeApi, namespace: str, session: str) -> None:
    killed_at(cluster, (dead := uuid4().hex[:8], namespace, "applied Deployment"))
    said: list[str] = []
    living = KubeSession(api, settings(session, namespace=namespace), said.append)
    living.opened()
    assert left_of(cluster, f"{SESSION}={dead}") == []
    assert any(phrase.startswith(f"removed what llmperf-{dead} left in the namespace {namespace}") for phrase in said)
    living.close()


def test_with_its_lease_goes_all_that_a_session_made(cluster: Cluster, api: KubeApi, namespace: str, session: str) -> None:
    """By the cluster's own garbage collector: nothing of ours has to run for it."""
    owner = KubeSession(api, settings(session, namespace=namespace))
    ownership = owner.opened()
    apply(api, cell_objects(ownership, replicas=1))
    await_pod(api, ownership)
    there = {one.split("/")[1] for one in left_of(cluster, f"{SESSION}={session}")}
    assert there >= {"ConfigMap", "Secret", "Service", "Deployment", "ReplicaSet", "Pod", "Lease"}
    cluster.kubectl("delete", "lease", ownership.identity.owner, f"--namespace={namespace}")
    cluster.await_true("all is collected", lambda: left_of(cluster, f"{SESSION}={session}") == [], timeout_s=60.0)
    owner.close()


def test_what_was_kept_stays_until_it_is_asked_for(cluster: Cluster, api: KubeApi, session: str) -> None:
    kept = KubeSession(api, settings(session))
    apply(api, cell_objects(kept.opened()))
    assert kept.keep() == (
        f"kept in the namespace {made_name(session)}; "
        f"`pytest-llmperf gc --namespace={made_name(session)} --session={session}` removes it"
    )
    before = left_of(cluster, f"{SESSION}={session}")
    kept.close()
    assert gc(cluster).status == 0
    assert left_of(cluster, f"{SESSION}={session}") == before
    dry = gc(cluster, "--kept", "--dry-run")
    assert "would remove " in dry.out
    assert left_of(cluster, f"{SESSION}={session}") == before
    assert gc(cluster, f"--namespace={made_name(session)}", f"--session={session}").status == 0
    assert left_of(cluster, f"{SESSION}={session}") == []


def test_a_living_session_is_left_alone_also_where_it_is_asked_for(
    cluster: Cluster, api: KubeApi, namespace: str, session: str
) -> None:
    living = KubeSession(api, settings(session, namespace=namespace))
    apply(api, cell_objects(living.opened()))
    before = left_of(cluster, f"{SESSION}={session}")
    ended = gc(cluster, f"--session={session}", "--kept")
    assert ended.status == 1
    assert f"the session {session} lives and was left alone" in ended.err
    assert left_of(cluster, f"{SESSION}={session}") == before
    living.close()


def test_a_session_of_another_machine_is_dead_when_its_heartbeat_is(
    api: KubeApi, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_llmperf.deploy.kubernetes.ownership.sweep.SIGN_OF_LIFE_S", 2 * BEAT_S)
    holder = Holder("elsewhere", 1, 1, "another-boot.1")
    beating, returning, silent = (uuid4().hex[:8] for _ in range(3))
    api.create(lease_manifest(Identity(beating), namespace, holder, api.now()))
    made = api.create(lease_manifest(Identity(returning), namespace, holder, api.now() - DURATION_S - 1))
    api.create(lease_manifest(Identity(silent), namespace, holder, api.now() - DURATION_S - 1))
    found = survey(api, namespace)
    assert {lease.session for lease in found.of("dead")} == {returning, silent}
    # It was not heard of for so long because the API server was away, which is so no more.
    heartbeat = Heartbeat(api, lease_seen(made), beat_s=BEAT_S)
    removed, failed = remove(api, to_remove(found))
    heartbeat.stop()
    assert (len(removed), failed) == (1, ())
    assert api.get(LEASE, f"llmperf-{silent}", namespace) is None
    assert api.get(LEASE, f"llmperf-{beating}", namespace) is not None
    assert api.get(LEASE, f"llmperf-{returning}", namespace) is not None


def test_what_lost_its_lease_is_removed(cluster: Cluster, api: KubeApi, namespace: str, session: str) -> None:
    owner = KubeSession(api, settings(session, namespace=namespace))
    apply(api, cell_objects(owner.opened()))
    cluster.kubectl("delete", "lease", f"llmperf-{session}", f"--namespace={namespace}", "--cascade=orphan")
    assert len(api.list(CONFIG_MAP, namespace, labels=f"{SESSION}={session}")) == 1
    ended = gc(cluster, f"--namespace={namespace}")
    assert ended.status == 0
    assert "without a Lease" in ended.out
    assert left_of(cluster, f"{SESSION}={session}") == []
    owner.close()


def test_one_namespace_where_nobody_may_does_not_keep_the_others(cluster: Cluster, api: KubeApi, namespace: str) -> None:
    other = f"{namespace}-other"
    cluster.kubectl("create", "namespace", other)
    dead = [uuid4().hex[:8] for _ in range(2)]
    for name, place in zip(dead, (namespace, other), strict=True):
        identity = Identity(name)
        made = api.create(lease_manifest(identity, place, Holder("elsewhere", 1, 1, "boot"), 0.0))
        labels = dict(identity.labels("cell"))
        metadata = {"name": f"of-{name}", "namespace": place, "labels": labels}
        api.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})
        assert made["metadata"]["name"] == identity.owner
    kubeconfig = user_who_may(cluster, namespace, other)
    ended = gc(cluster, f"--kubeconfig={kubeconfig}")
    assert ended.status == 1
    assert "may not delete configmaps" in ended.err
    assert f"ConfigMap of-{dead[0]}" in ended.err
    assert left_of(cluster, f"{SESSION}={dead[1]}") == []
    assert len(left_of(cluster, f"{SESSION}={dead[0]}")) == 2
    assert gc(cluster).status == 0
    assert left_of(cluster, f"{SESSION}={dead[0]}") == []
    cluster.kubectl("delete", "namespace", other, "--wait=false")


def user_who_may(cluster: Cluster, look: str, delete: str) -> Path:
    """The kubeconfig of somebody who may look everywhere, and delete in one namespace only."""
    user = "somebody"
    cluster.kubectl("create", "serviceaccount", user, f"--namespace={look}")
    account = f"--serviceaccount={look}:{user}"
    cluster.kubectl("create", "clusterrolebinding", f"{look}-looks", "--clusterrole=view", account)
    cluster.kubectl("create", "clusterrole", f"{look}-leases", "--verb=get,list", "--resource=leases.coordination.k8s.io")
    cluster.kubectl("create", "clusterrolebinding", f"{look}-leases", f"--clusterrole={look}-leases", account)
    cluster.kubectl("create", "rolebinding", "deletes", "--clusterrole=cluster-admin", account, f"--namespace={delete}")
    token = cluster.kubectl("create", "token", user, f"--namespace={look}")
    kubeconfig = cluster.state.folder / f"{look}.kubeconfig"
    kubeconfig.write_bytes(cluster.kubeconfig.read_bytes())
    named = f"--kubeconfig={kubeconfig}"
    cluster.kubectl("config", "set-credentials", user, f"--token={token}", named)
    cluster.kubectl("config", "set-context", "--current", f"--user={user}", named)
    return kubeconfig


def test_a_typo_is_told_with_what_was_meant(cluster: Cluster, api: KubeApi, namespace: str, session: str) -> None:
    owner = KubeSession(api, settings(session, namespace=namespace))
    owner.opened()
    asked = gc(cluster, f"--namespace={namespace}x")
    assert asked.status == 4
    assert f"Did you mean {namespace!r}?" in asked.err
    for text in ("", f"../namespaces/{namespace}"):
        asked = gc(cluster, f"--namespace={text}")
        assert asked.status == 4
        assert f"{text!r} is no namespace's name" in asked.err
    asked = gc(cluster, f"--session={session[:-1]}")
    assert asked.status == 4
    assert f"Did you mean {session!r}?" in asked.err
    owner.close()
    assert api.get(NAMESPACE, namespace) is not None
