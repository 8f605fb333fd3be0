"""What of a cluster's sessions is to go, and what is not."""

from __future__ import annotations

from time import time

import pytest

from pytest_llmperf.deploy.kubernetes.names import MANAGED_BY, MANAGER, SESSION, Identity
from pytest_llmperf.deploy.kubernetes.ownership.lease import Here, Holder, LeaseSeen, lease_manifest
from pytest_llmperf.deploy.kubernetes.ownership.namespaces import HOLDER, MadeNamespace, made_namespace
from pytest_llmperf.deploy.kubernetes.ownership.sweep import Orphans, Process, State, Survey, remove, survey, to_remove
from tests.unit.deploy.kubernetes.scripted_api import Reply, api_at, scripted_api


def process(session: str, state: State, worker: str = "", namespace: str | None = None) -> Process:
    name = "-".join(filter(None, ("llmperf", session, worker)))
    lease = LeaseSeen(name, namespace or f"llmperf-{session}", f"uid of {name}", session, name, None, 0.0, 90.0, state == "kept")
    return Process(lease, state, 5.0)


def made(session: str) -> MadeNamespace:
    return MadeNamespace(f"llmperf-{session}", f"uid of {session}", session, None, 0.0)


ALIVE, DEAD, KEPT = process("alive", "alive"), process("dead", "dead"), process("kept", "kept")
ORPHANS = Orphans("team", "llmperf-gone", "gone", 3)
FOUND = Survey((ALIVE, DEAD, KEPT), (ORPHANS,), (made("alive"), made("dead"), made("kept"), made("leaseless")))


def test_the_dead_go_with_their_namespaces_and_so_does_what_has_no_lease() -> None:
    assert to_remove(FOUND) == Survey((DEAD,), (ORPHANS,), (made("dead"), made("leaseless")))


def test_what_was_kept_goes_when_that_is_asked_for() -> None:
    assert to_remove(FOUND, kept=True) == Survey((DEAD, KEPT), (ORPHANS,), (made("dead"), made("kept"), made("leaseless")))


@pytest.mark.parametrize(
    ("session", "expected"),
    [
        ("dead", Survey((DEAD,), (), (made("dead"),))),
        ("kept", Survey((KEPT,), (), (made("kept"),))),
        ("gone", Survey((), (ORPHANS,), ())),
        ("leaseless", Survey((), (), (made("leaseless"),))),
        ("alive", Survey()),
        ("unknown", Survey()),
    ],
)
def test_one_session_alone(session: str, expected: Survey) -> None:
    assert to_remove(FOUND, session=session) == expected


@pytest.mark.parametrize("other", ["alive", "kept"])
def test_a_dead_worker_goes_but_not_the_namespace_that_others_are_in(other: State) -> None:
    dead = process("s", "dead", "gw0")
    found = Survey((dead, process("s", other, "gw1")), (), (made("s"),))
    assert to_remove(found) == Survey((dead,), (), ())


def test_a_namespace_that_was_made_for_one_session_and_given_to_another_stays_with_that() -> None:
    guest = process("guest", "alive", namespace="llmperf-dead")
    assert to_remove(Survey((DEAD, guest), (), (made("dead"),))) == Survey((DEAD,), (), ())


def test_every_session_is_known_by_whatever_there_is_of_it() -> None:
    assert FOUND.sessions == {"alive", "dead", "kept", "gone", "leaseless"}


@pytest.mark.parametrize(
    ("silent_s", "lives", "may_return"),
    [
        pytest.param(100.0, None, True, id="elsewhere"),
        pytest.param(100.0, False, False, id="dead for certain"),
        pytest.param(60.0, None, False, id="alive"),
        pytest.param(3601.0, None, False, id="too long ago"),
    ],
)
def test_who_is_only_silent_may_come_back(silent_s: float, lives: bool | None, may_return: bool) -> None:
    lease = lease_manifest(Identity("s"), "ns", Holder("host", 1, 2, "boot.3"), time() - silent_s)
    lease["metadata"]["uid"] = "u"
    nothing: dict[str, object] = {"items": [], "metadata": {}}
    replies = (Reply(body=nothing), Reply(body={**nothing, "items": [lease]}), Reply(body={}))
    with scripted_api(*replies) as server:
        found = survey(api_at(server.url), None, with_orphans=False, at=Here("host", "boot.3", lambda _pid, _start: lives))
    assert [one.may_return for one in found.processes] == [may_return]


def test_what_has_a_lease_again_is_no_orphan() -> None:
    with scripted_api(Reply(body={"metadata": {"name": "llmperf-gone"}})) as server:
        assert remove(api_at(server.url), Survey((), (ORPHANS,), ())) == ((), ())
        assert server.asked == ["GET /apis/coordination.k8s.io/v1/namespaces/team/leases/llmperf-gone"]


OURS = {MANAGED_BY: MANAGER, SESSION: "s"}


def namespace(name: str, labels: dict[str, str]) -> dict[str, object]:
    annotations = {HOLDER: "host/1/2/boot.3"}
    metadata = {
        "name": name,
        "uid": "u",
        "labels": labels,
        "annotations": annotations,
        "creationTimestamp": "1970-01-01T00:00:09Z",
    }
    return {"metadata": metadata}


def test_a_namespace_that_was_made_says_for_whom_by_whom_and_when() -> None:
    found = made_namespace(namespace("llmperf-s", OURS))
    assert found is not None
    assert (found.session, str(found.holder), found.made_s) == ("s", "host/1/2/boot.3", 9.0)


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        pytest.param("llmperf-s", {}, id="only its name"),
        pytest.param("llmperf-s", {**OURS, MANAGED_BY: "Helm"}, id="another manager"),
        pytest.param("llmperf-s", {**OURS, SESSION: "t"}, id="another session"),
        pytest.param("team", OURS, id="a team's own, with our labels"),
    ],
)
def test_a_namespace_that_was_not_made_for_the_session_is_not_taken_for_one(name: str, labels: dict[str, str]) -> None:
    assert made_namespace(namespace(name, labels)) is None
