"""In which order objects go, and what is said of those that stay."""

from __future__ import annotations

import pytest

from pytest_llmperf.deploy.kubernetes.api.kinds import (
    CONFIG_MAP,
    DEPLOYMENT,
    INGRESS,
    JOB,
    LEASE,
    NAMESPACE,
    POD,
    PVC,
    REPLICASET,
    SECRET,
    SERVICE,
    STATEFULSET,
    Kind,
)
from pytest_llmperf.deploy.kubernetes.api.refusals import UnreachableError
from pytest_llmperf.deploy.kubernetes.ownership.teardown import (
    APPLIED,
    ObjectSeen,
    Removal,
    in_order,
    object_seen,
    remove_process,
    telling_how,
)
from pytest_llmperf.errors import DeployError
from tests.unit.deploy.kubernetes.scripted_api import Reply, api_at, scripted_api, status

GROUPS = Kind("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet", "leaderworkersets")


def test_what_holds_an_accelerator_goes_first_and_nothing_makes_it_again() -> None:
    applied = (CONFIG_MAP, SECRET, PVC, SERVICE, POD, DEPLOYMENT, GROUPS, REPLICASET, STATEFULSET, JOB, INGRESS, SERVICE)
    assert in_order(applied) == (
        GROUPS,
        *(DEPLOYMENT, STATEFULSET, JOB),
        REPLICASET,
        POD,
        *(CONFIG_MAP, SECRET, PVC, SERVICE, INGRESS),
    )


def test_neither_leases_nor_namespaces_are_looked_for_by_an_owners_label() -> None:
    assert not {LEASE, NAMESPACE} & set(APPLIED)
    assert all(kind.namespaced for kind in APPLIED)


def test_a_cluster_that_is_gone_is_told_with_how_to_clean_up() -> None:
    with pytest.raises(DeployError) as raised, telling_how("gke_h100", "pytest-llmperf gc --session=s"):
        raise UnreachableError("https://kube cannot be reached: connection refused", hint="Is there a VPN?")
    assert raised.value.what.startswith("gke_h100: nobody can say whether all of it is gone: https://kube cannot be reached")
    assert raised.value.hint == "Is there a VPN? Then `pytest-llmperf gc --session=s` removes what is left."


@pytest.mark.parametrize("is_seen_later", [True, False])
def test_a_kind_that_could_not_be_listed_only_once_is_known_after_all(is_seen_later: bool) -> None:
    refused, nothing = status(500, "InternalError", "no such luck"), Reply(body={"items": [], "metadata": {}})
    with scripted_api(refused, nothing if is_seen_later else refused) as server:
        removal = Removal(api_at(server.url), "ns", "a=b", [SECRET])
        assert removal.begin() == []
        assert removal.begin() == []
    assert (SECRET in removal.unseen) is not is_seen_later


def test_a_lease_that_was_made_anew_is_not_the_one_to_go() -> None:
    with scripted_api(Reply(body={"items": [], "metadata": {}})) as server:
        remove_process(api_at(server.url), "ns", "llmperf-s", "again", uid="u1")
        assert server.asked[-1] == "DELETE /apis/coordination.k8s.io/v1/namespaces/ns/leases/llmperf-s"
        assert server.heard[-1].body["preconditions"] == {"uid": "u1"}


def test_what_comes_back_meanwhile_keeps_its_lease() -> None:
    def lives() -> None:
        raise DeployError("it lives again")

    with scripted_api(Reply(body={"items": [], "metadata": {}})) as server:
        with pytest.raises(DeployError, match="it lives again"):
            remove_process(api_at(server.url), "ns", "llmperf-s", "again", before_lease=lives)
        assert not any(one.startswith("DELETE") for one in server.asked)


def test_objects_say_what_keeps_them() -> None:
    metadata = {"name": "models", "uid": "u", "finalizers": ["kubernetes.io/pvc-protection"]}
    assert str(object_seen(PVC, {"metadata": metadata})) == "PersistentVolumeClaim models"
    ending = object_seen(PVC, {"metadata": {**metadata, "deletionTimestamp": "1970-01-01T00:00:30Z"}})
    assert ending == ObjectSeen(PVC, "models", "u", 30.0, ("kubernetes.io/pvc-protection",))
    assert str(ending) == "PersistentVolumeClaim models (kept by the finalizer kubernetes.io/pvc-protection)"
    assert str(ObjectSeen(POD, "engine-0", "u", 30.0, ())) == "Pod engine-0 (still ending)"
