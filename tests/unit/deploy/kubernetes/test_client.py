"""The client on a bad day: servers that restart, refuse, break off, forget, or are something else."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from threading import Event, Thread

import pytest

from pytest_llmperf.deploy.kubernetes.api.client import KubeApi
from pytest_llmperf.deploy.kubernetes.api.kinds import CONFIG_MAP, DEPLOYMENT, NAMESPACE, NODE, POD, Kind
from pytest_llmperf.deploy.kubernetes.api.refusals import (
    ConflictError,
    ExpiredError,
    ForbiddenError,
    LoginError,
    RefusedError,
    UnreachableError,
)
from pytest_llmperf.deploy.kubernetes.api.transport import Attempts
from pytest_llmperf.errors import DeployError
from tests.unit.deploy.certificates import make_certificate
from tests.unit.deploy.kubernetes.scripted_api import CUT, Reply, api_at, credentials, scripted_api, status

OBJECT = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "namespace": "ns"}}
AWAY = Reply(503, "the server is currently unable to handle the request")


@pytest.mark.parametrize(
    ("kind", "namespace", "name", "path"),
    [
        (POD, "ns", None, "/api/v1/namespaces/ns/pods"),
        (POD, None, None, "/api/v1/pods"),
        (POD, "ns", "p", "/api/v1/namespaces/ns/pods/p"),
        (DEPLOYMENT, "ns", "d", "/apis/apps/v1/namespaces/ns/deployments/d"),
        (NODE, "ns", "n", "/api/v1/nodes/n"),
        (NAMESPACE, None, "ns", "/api/v1/namespaces/ns"),
    ],
)
def test_where_objects_are(kind: Kind, namespace: str | None, name: str | None, path: str) -> None:
    assert kind.path(namespace, name) == path


@pytest.mark.parametrize(
    "away",
    [
        AWAY,
        CUT,
        Reply(429, "", {"Retry-After": "0"}),
        Reply(504, ""),
        status(500, "InternalError", "etcdserver: leader changed"),
    ],
)
def test_a_server_that_is_away_for_a_moment_is_asked_again(away: Reply) -> None:
    told: list[str] = []
    with scripted_api(away, away, Reply(body=OBJECT)) as server:
        assert api_at(server.url, told).get(CONFIG_MAP, "x", "ns") == OBJECT
        assert len(server.heard) == 3
    assert told[0].endswith("; trying again")
    assert told[-1].startswith("the API server answers again")


DENIED = status(403, "Forbidden", 'User "jane" cannot get resource "configmaps" in API group "" in the namespace "ns"')


@pytest.mark.parametrize(
    "ready", [status(403, "Forbidden", "readyz is forbidden"), Reply(500, "[-]informer-sync failed"), Reply(body="ok"), CUT]
)
def test_a_server_that_has_just_started_knows_nobodys_permissions(ready: Reply) -> None:
    with scripted_api(DENIED, ready, Reply(body=OBJECT)) as server:
        assert api_at(server.url).get(CONFIG_MAP, "x", "ns") == OBJECT
        assert server.asked[1] == "GET /readyz"


def test_a_server_that_is_ready_is_believed_the_second_time() -> None:
    told: list[str] = []
    with scripted_api(DENIED, Reply(body="ok"), DENIED) as server:
        api = api_at(server.url, told)
        with pytest.raises(ForbiddenError, match="'jane' may not get configmaps"):
            api.get(CONFIG_MAP, "x", "ns")
        assert len(server.heard) == 3
    assert told == []


def test_an_error_of_the_server_that_does_not_pass_is_told_at_once() -> None:
    with (
        scripted_api(status(500, "InternalError", "no such luck")) as server,
        pytest.raises(RefusedError, match="cannot get configmaps/x in the namespace 'ns': 500 no such luck"),
    ):
        api_at(server.url).get(CONFIG_MAP, "x", "ns")
    assert len(server.heard) == 1


def test_what_was_made_by_an_attempt_that_was_cut_off_counts_as_made() -> None:
    exists = status(409, "AlreadyExists", 'configmaps "x" already exists')
    with scripted_api(CUT, exists, Reply(body=OBJECT)) as server:
        assert api_at(server.url).create(OBJECT) == OBJECT
        assert server.asked == ["POST /api/v1/namespaces/ns/configmaps"] * 2 + ["GET /api/v1/namespaces/ns/configmaps/x"]


@pytest.mark.parametrize("passing", [Reply(504), Reply(502), status(500, "", "etcdserver: request timed out")])
def test_what_was_made_behind_a_gateway_that_gave_up_counts_as_made(passing: Reply) -> None:
    exists = status(409, "AlreadyExists", 'configmaps "x" already exists')
    with scripted_api(passing, exists, Reply(body=OBJECT)) as server:
        assert api_at(server.url).create(OBJECT) == OBJECT


def test_a_server_that_had_no_time_has_made_nothing() -> None:
    exists = status(409, "AlreadyExists", 'configmaps "x" already exists')
    with scripted_api(Reply(429), exists) as server, pytest.raises(ConflictError):
        api_at(server.url).create(OBJECT)


def test_what_is_the_whole_clusters_is_not_applied() -> None:
    served = Reply(body={"resources": [{"kind": "Policy", "name": "policies", "namespaced": False}]})
    policy = {"apiVersion": "some.dev/v1", "kind": "Policy", "metadata": {"name": "x", "namespace": "ns"}}
    with scripted_api(served) as server:
        with pytest.raises(DeployError, match="Policy/x is no namespace's but the whole cluster's"):
            api_at(server.url).apply(policy)
        assert server.asked == ["GET /apis/some.dev/v1"]


def test_what_exists_already_is_somebody_elses() -> None:
    with (
        scripted_api(status(409, "AlreadyExists", 'configmaps "x" already exists')) as server,
        pytest.raises(ConflictError, match="it exists already") as raised,
    ):
        api_at(server.url).create(OBJECT)
    assert (raised.value.status, raised.value.reason) == (409, "AlreadyExists")


@pytest.mark.parametrize(
    ("replies", "was_there"),
    [
        ([Reply(body={})], True),
        ([status(404, "NotFound", 'pods "x" not found', name="x", kind="pods")], False),
        ([CUT, status(404, "NotFound", 'pods "x" not found', name="x", kind="pods")], True),
        ([status(409, "Conflict", "Precondition failed: UID in precondition: 1, UID in object meta: 2")], False),
    ],
)
def test_deleting_says_whether_it_was_there(replies: list[Reply], was_there: bool) -> None:
    with scripted_api(*replies) as server:
        assert api_at(server.url).delete(POD, "x", "ns", uid="1", grace_s=0) is was_there
        body = server.heard[0].body
    assert (body["preconditions"], body["gracePeriodSeconds"], body["propagationPolicy"]) == ({"uid": "1"}, 0, "Background")


def test_expired_credentials_are_read_anew() -> None:
    unauthorized = status(401, "Unauthorized", "Unauthorized")
    with scripted_api(unauthorized, Reply(body=OBJECT)) as server:
        api = api_at(server.url, None, credentials(server.url, "fresh-0123456789"))
        assert api.get(CONFIG_MAP, "x", "ns") == OBJECT
        assert [one.authorization for one in server.heard] == ["Bearer t0ken-0123456789", "Bearer fresh-0123456789"]


def test_credentials_that_do_not_count_end_it_and_are_not_shown() -> None:
    with (
        scripted_api(status(401, "Unauthorized", "Unauthorized")) as server,
        pytest.raises(LoginError) as raised,
    ):
        api_at(server.url, None, credentials(server.url, "fresh-0123456789")).version()
    assert len(server.heard) == 2
    assert "does not accept the credentials of the context 'here'" in str(raised.value)
    assert "Log in again." in str(raised.value)
    assert "0123456789" not in str(raised.value)
    assert "0123456789" not in repr(credentials("https://there"))


def test_who_closes_it_waits_for_no_server() -> None:
    told: list[str] = []
    raised: list[DeployError] = []
    with scripted_api(AWAY) as server:
        api = api_at(server.url, told)

        def ask() -> None:
            try:
                api.version()
            except DeployError as error:
                raised.append(error)

        thread = Thread(target=ask)
        thread.start()
        while not told:
            thread.join(0.01)
        api.close()
        thread.join(10)
    assert not thread.is_alive()
    assert len(raised) == 1


def test_a_port_where_nobody_listens() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    api = api_at(f"http://127.0.0.1:{port}")
    api.close()
    with pytest.raises(UnreachableError, match=f"http://127.0.0.1:{port} cannot be reached: connection refused") as raised:
        api.version()
    assert "kubectl get --raw /readyz" in str(raised.value)


def test_a_certificate_that_nobody_trusts_is_final(tmp_path: Path) -> None:
    certificate, _ = make_certificate(tmp_path)
    with (
        scripted_api(Reply(), certificate=certificate) as server,
        pytest.raises(UnreachableError, match="certificate is not to be trusted: self-signed") as raised,
    ):
        api_at(server.url, tls=ssl.create_default_context()).version()
    assert raised.value.is_final
    assert "certificate-authority-data" in str(raised.value)


def test_a_server_without_tls_is_final() -> None:
    with scripted_api(Reply()) as server, pytest.raises(UnreachableError, match="does not speak TLS") as raised:
        api_at(server.url.replace("http:", "https:"), tls=ssl.create_default_context()).version()
    assert raised.value.is_final


def test_something_that_is_no_api_server() -> None:
    with (
        scripted_api(Reply(body="<html>Sign in</html>")) as server,
        pytest.raises(UnreachableError, match=r"answers as no API server does: '<html>Sign in"),
    ):
        api_at(server.url).get(CONFIG_MAP, "x", "ns")


def page(*names: str, more: str = "") -> Reply:
    """A page of a list."""
    items = [{"metadata": {"name": name}} for name in names]
    return Reply(body={"items": items, "metadata": {"resourceVersion": "7", "continue": more}})


def test_a_long_list_comes_in_pages() -> None:
    with scripted_api(page("a", more="next"), page("b")) as server:
        found, version = api_at(server.url).listed(POD, "ns", "app=x")
        assert "continue=next" in server.heard[1].path
        assert "labelSelector=app%3Dx" in server.heard[1].path
    assert [one["metadata"]["name"] for one in found] == ["a", "b"]
    assert {(one["apiVersion"], one["kind"]) for one in found} == {("v1", "Pod")}
    assert version == "7"


def test_a_list_whose_rest_is_gone_begins_anew() -> None:
    expired = status(410, "Expired", "The provided continue parameter is too old")
    with scripted_api(page("a", more="next"), expired, page("a", "b")) as server:
        found = api_at(server.url).list(POD)
        assert "limit" not in server.heard[2].path
    assert [one["metadata"]["name"] for one in found] == ["a", "b"]


def test_a_list_that_is_refused_as_too_old_at_once_is_an_error() -> None:
    with scripted_api(status(410, "Expired", "too old")) as server, pytest.raises(ExpiredError):
        api_at(server.url).list(POD)


def test_the_log_of_what_has_not_run_is_empty() -> None:
    with scripted_api(status(400, "BadRequest", 'container "x" in pod "p" is waiting to start: ContainerCreating')) as server:
        assert api_at(server.url).log("p", "ns", "x", previous=True) == ""
        assert "previous=true" in server.heard[0].path


def test_the_log_of_a_run_that_the_node_has_no_more_is_empty() -> None:
    with scripted_api(Reply(body="unable to retrieve container logs for containerd://1f")) as server:
        assert api_at(server.url).log("p", "ns", "x", previous=True) == ""


def test_a_log_is_cut_where_it_is() -> None:
    with scripted_api(Reply(body="one\n")) as server:
        assert api_at(server.url).log("p", "ns", "x", lines=None, limit_bytes=4) == "one\n"
        assert "limitBytes=4" in server.heard[0].path
        assert "tailLines" not in server.heard[0].path


def test_a_log_that_nobody_waits_for_is_asked_for_once() -> None:
    told: list[str] = []
    with scripted_api(AWAY) as server:
        with pytest.raises(RefusedError):
            api_at(server.url, told).log("p", "ns", "x", within_s=5.0)
        assert len(server.heard) == 1
    assert told == []


def test_a_log_that_does_not_come_is_not_waited_for() -> None:
    with scripted_api(Reply(lines=(), stays=True)) as server, pytest.raises(UnreachableError, match="no answer in time"):
        api_at(server.url).log("p", "ns", "x", within_s=0.1)


def test_patience_counts_from_the_first_failure_and_again_after_a_success() -> None:
    told: list[str] = []
    attempts = Attempts(told.append, Event())
    attempts.wait(UnreachableError("away"))
    attempts.over()
    assert attempts.since is None
    attempts.patience_s = 0.0
    with pytest.raises(UnreachableError, match="away"):
        attempts.wait(UnreachableError("away"))
    assert told == ["away; trying again", "the API server answers again, after 0 s"]


def test_another_client_has_the_same_credentials_and_its_own_connections() -> None:
    with scripted_api(Reply(body=OBJECT)) as server:
        api = api_at(server.url)
        with api.new() as other:
            assert isinstance(other, KubeApi)
            assert other.credentials is api.credentials
        # Closing the one leaves the other alone.
        assert api.get(CONFIG_MAP, "x", "ns") == OBJECT
