"""What a process owns on a cluster: its Lease, that it beats, and the namespace that is made."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from threading import Thread
from time import monotonic, sleep
from uuid import uuid4

import pytest

from pytest_llmperf.deploy.kubernetes.api.client import KubeApi
from pytest_llmperf.deploy.kubernetes.api.kinds import CONFIG_MAP, LEASE, NAMESPACE
from pytest_llmperf.deploy.kubernetes.ownership.lease import Heartbeat, lease_seen
from pytest_llmperf.deploy.kubernetes.ownership.namespaces import made_name, make_namespace
from pytest_llmperf.deploy.kubernetes.ownership.session import KubeSession, end_session
from pytest_llmperf.errors import ConfigError, DeployError
from tests.cluster.cluster import Cluster
from tests.cluster.k8s_sessions import apply, cell_objects, left_of, settings


def await_true(what: str, check: Callable[[], bool], timeout_s: float = 30.0) -> None:
    give_up = monotonic() + timeout_s
    while not check():
        assert monotonic() < give_up, what
        sleep(0.02)


def test_two_workers_share_the_namespace_that_was_made_and_the_controller_removes_it(
    cluster: Cluster, api: KubeApi, session: str
) -> None:
    workers = [KubeSession(api, settings(session, worker)) for worker in ("gw0", "gw1")]
    threads = [Thread(target=worker.opened) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    owned = [worker.opened() for worker in workers]
    assert {one.namespace for one in owned} == {made_name(session)}
    for one in owned:
        apply(api, cell_objects(one))
    assert api.get(CONFIG_MAP, "kube-root-ca.crt", made_name(session)) is not None
    workers[0].close()
    # What the other one has stands, and so does its namespace.
    assert len(api.list(CONFIG_MAP, made_name(session), labels=f"llmperf.dev/session={session}")) == 1
    assert workers[1].lost() is None
    workers[1].close()
    assert left_of(cluster, f"llmperf.dev/session={session}") == [f"<none>/Namespace/{made_name(session)}"]
    end_session(api, settings(session))
    assert left_of(cluster, f"llmperf.dev/session={session}") == []
    end_session(api, settings(session))


def test_a_session_of_one_process_leaves_nothing_and_may_be_closed_twice(cluster: Cluster, api: KubeApi, session: str) -> None:
    owner = KubeSession(api, settings(session))
    ownership = owner.opened()
    assert owner.opened() is ownership
    apply(api, cell_objects(ownership, replicas=1))
    owner.close()
    owner.close()
    assert left_of(cluster, f"llmperf.dev/session={session}") == []


def test_a_session_that_never_deployed_has_nothing_to_end(api: KubeApi, session: str) -> None:
    owner = KubeSession(api, settings(session))
    owner.close()
    assert owner.keep() == ""
    assert api.get(NAMESPACE, made_name(session)) is None


def test_a_namespace_that_was_given_stays_with_what_others_have_in_it(
    cluster: Cluster, api: KubeApi, session: str, namespace: str
) -> None:
    cluster.kubectl("create", "configmap", "somebodys", f"--namespace={namespace}")
    owner = KubeSession(api, settings(session, namespace=namespace))
    apply(api, cell_objects(owner.opened()))
    owner.close()
    names = [one["metadata"]["name"] for one in api.list(CONFIG_MAP, namespace)]
    assert sorted(names) == ["kube-root-ca.crt", "somebodys"]
    assert left_of(cluster, f"llmperf.dev/session={session}") == []


def test_a_namespace_that_was_made_stays_while_anything_of_others_is_in_it(cluster: Cluster, api: KubeApi, session: str) -> None:
    name = made_name(session)
    owner, guest = KubeSession(api, settings(session)), KubeSession(api, settings(uuid4().hex[:8], namespace=name))
    owner.opened()
    guest.opened()
    owner.close()
    assert guest.lost() is None
    found = api.get(NAMESPACE, name)
    assert found is not None
    assert "deletionTimestamp" not in found["metadata"]
    guest.close()
    cluster.kubectl("create", "service", "clusterip", "somebodys", "--clusterip=None", f"--namespace={name}")
    with pytest.raises(DeployError, match="what is not of a session is in it: Service somebodys") as raised:
        end_session(api, settings(session))
    assert raised.value.hint == f"`kubectl delete namespace {name}` removes it with all that."
    cluster.kubectl("delete", "service", "somebodys", f"--namespace={name}")
    end_session(api, settings(session))
    assert api.get(NAMESPACE, name) is None


def test_a_namespace_that_does_not_exist_is_told_with_the_nearest(api: KubeApi, session: str, namespace: str) -> None:
    with pytest.raises(ConfigError, match=f"there is no namespace '{namespace}x'") as raised:
        KubeSession(api, settings(session, namespace=f"{namespace}x")).opened()
    assert raised.value.hint is not None
    assert f"Did you mean {namespace!r}?" in raised.value.hint


def test_a_namespace_that_is_not_the_sessions_is_not_taken(cluster: Cluster, api: KubeApi, session: str) -> None:
    name = made_name(session)
    cluster.kubectl("create", "namespace", name)
    with pytest.raises(DeployError, match="is not this session's"):
        KubeSession(api, settings(session)).opened()
    found = api.get(NAMESPACE, name)
    assert found is not None
    assert "deletionTimestamp" not in found["metadata"]
    cluster.kubectl("delete", "namespace", name, "--wait=false")


def test_a_second_session_with_the_same_id_is_refused_and_harms_nothing(
    cluster: Cluster, api: KubeApi, session: str, namespace: str
) -> None:
    first = KubeSession(api, settings(session, namespace=namespace))
    apply(api, cell_objects(first.opened()))
    there = left_of(cluster, f"llmperf.dev/session={session}")
    with pytest.raises(DeployError, match="already"):
        KubeSession(api, settings(session, namespace=namespace)).opened()
    assert left_of(cluster, f"llmperf.dev/session={session}") == there
    first.close()


def test_the_heart_beats_through_a_restart_of_the_api_server(
    cluster: Cluster, api: KubeApi, session: str, namespace: str
) -> None:
    owner = KubeSession(api, settings(session, namespace=namespace))
    owner.opened()

    def renewed() -> float | None:
        found = api.get(LEASE, f"llmperf-{session}", namespace)
        assert found is not None
        return lease_seen(found).renewed_s

    found = api.get(LEASE, f"llmperf-{session}", namespace)
    assert found is not None
    heartbeat = Heartbeat(api, lease_seen(found), beat_s=0.05)
    first = renewed()
    await_true("it beats", lambda: renewed() != first)
    cluster.stop("kube-apiserver")
    cluster.start("kube-apiserver")
    second = renewed()
    await_true("it beats again", lambda: renewed() != second)
    lost = heartbeat.lost
    assert lost is None
    owner.close()
    await_true("the loss is told", lambda: "somebody deleted its Lease" in (heartbeat.lost or ""))
    heartbeat.stop()


def test_a_lease_that_was_taken_away_is_told_and_made_again(
    cluster: Cluster, api: KubeApi, session: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_llmperf.deploy.kubernetes.ownership.session.Heartbeat", partial(Heartbeat, beat_s=0.05))
    owner = KubeSession(api, settings(session, namespace=namespace))
    before = owner.opened()
    api.delete(LEASE, f"llmperf-{session}", namespace)
    await_true("the loss is told", lambda: owner.lost() is not None)
    after = owner.opened()
    assert owner.lost() is None
    assert after.owner["uid"] != before.owner["uid"]
    apply(api, cell_objects(after))
    owner.close()
    assert left_of(cluster, f"llmperf.dev/session={session}") == []


def test_a_heartbeat_ends_also_while_the_api_server_is_away(cluster: Cluster, session: str, namespace: str) -> None:
    api = KubeApi.connect(cluster.kubeconfig)
    owner = KubeSession(api, settings(session, namespace=namespace))
    owner.opened()
    found = api.get(LEASE, f"llmperf-{session}", namespace)
    assert found is not None
    cluster.stop("kube-apiserver")
    try:
        heartbeat = Heartbeat(api, lease_seen(found), beat_s=0.0)
        began = monotonic()
        heartbeat.stop()
        assert monotonic() - began < 5.0
    finally:
        cluster.start("kube-apiserver")
    owner.close()
    api.close()


def test_a_crashed_workers_part_goes_alone(cluster: Cluster, api: KubeApi, session: str, namespace: str) -> None:
    crashed, living = (KubeSession(api, settings(session, worker, namespace)) for worker in ("gw0", "gw1"))
    for one in (crashed, living):
        apply(api, cell_objects(one.opened()))
    end_session(api, settings(session, namespace=namespace), "gw0")
    assert left_of(cluster, f"llmperf.dev/owner=llmperf-{session}-gw0") == []
    kinds = {name.split("/")[1] for name in left_of(cluster, f"llmperf.dev/owner=llmperf-{session}-gw1")}
    assert kinds >= {"ConfigMap", "Deployment", "Lease", "Secret", "Service"}
    living.close()
    crashed.close()


def test_a_namespace_that_is_going_is_waited_for_and_made_again(cluster: Cluster, api: KubeApi, session: str) -> None:
    first = KubeSession(api, settings(session))
    first.opened()
    before = api.get(NAMESPACE, made_name(session))
    cluster.kubectl("delete", "namespace", made_name(session), "--wait=false")
    again = KubeSession(api, settings(session))
    again.opened()
    after = api.get(NAMESPACE, made_name(session))
    assert before is not None
    assert after is not None
    assert before["metadata"]["uid"] != after["metadata"]["uid"]
    again.close()
    assert api.get(NAMESPACE, made_name(session)) is None


def test_nobodys_namespace_is_made_twice(api: KubeApi, session: str) -> None:
    from pytest_llmperf.deploy.kubernetes.ownership.lease import this_process

    names = {make_namespace(api, session, this_process()) for _ in range(2)}
    assert names == {made_name(session)}
    end_session(api, settings(session))
