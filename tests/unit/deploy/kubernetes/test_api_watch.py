"""Watching: lists and streams as an API server sends them, and the ways in which they end."""

from __future__ import annotations

from threading import enumerate as threads
from time import monotonic
from typing import Any

import pytest

from pytest_llmperf.deploy.kubernetes.api import transport
from pytest_llmperf.deploy.kubernetes.api import watch as watch_module
from pytest_llmperf.deploy.kubernetes.api.kinds import CONFIG_MAP, POD
from pytest_llmperf.deploy.kubernetes.api.refusals import ForbiddenError, LoginError, UnreachableError
from pytest_llmperf.deploy.kubernetes.api.watch import Snapshot, Watch, Watched, watching
from tests.unit.deploy.kubernetes.scripted_api import CUT, Reply, api_at, scripted_api, status

ENOUGH_S = 20.0
PODS = Watched(POD, "ns")


@pytest.fixture(autouse=True)
def _unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but what is watched is asked for: replies come in their order."""
    monkeypatch.setattr(watch_module, "ASK_S", 2 * ENOUGH_S)


def pod(name: str, version: int, uid: str = "") -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "ns", "uid": uid or f"uid-{name}", "resourceVersion": str(version)},
    }


def listed(version: int, *pods: dict[str, Any]) -> Reply:
    return Reply(body={"items": list(pods), "metadata": {"resourceVersion": str(version)}})


def event(kind: str, thing: dict[str, Any]) -> dict[str, Any]:
    return {"type": kind, "object": thing}


def streamed(*events: dict[str, Any], stays: bool = False) -> Reply:
    return Reply(lines=events, stays=stays)


def some(watch: Watch) -> Snapshot:
    snapshot = watch.next(ENOUGH_S)
    assert snapshot is not None
    return snapshot


def await_names(watch: Watch, *names: str) -> None:
    """Events that come at once may be told together or one by one."""
    seen: list[list[str]] = []
    while (snapshot := watch.next(ENOUGH_S)) is not None:
        seen.append(sorted(snapshot.of(POD)))
        if seen[-1] == sorted(names):
            return
    raise AssertionError(f"never {names}: {seen}")


def test_a_list_then_what_changes() -> None:
    stream = streamed(
        event("ADDED", pod("b", 3)),
        event("BOOKMARK", pod("", 4)),
        event("MODIFIED", pod("a", 5)),
        event("DELETED", pod("b", 6)),
        stays=True,
    )
    with scripted_api(listed(2, pod("a", 1)), stream) as server, watching(api_at(server.url), [PODS]) as watch:
        while True:
            snapshot = some(watch)
            if snapshot.of(POD) == {"a": pod("a", 5)}:
                break
        assert watch.next(0.0) is None
        assert "resourceVersion=2" in server.heard[1].path
        assert "allowWatchBookmarks=true" in server.heard[1].path


def test_nothing_there_is_told_too() -> None:
    with scripted_api(listed(2), streamed(stays=True)) as server, watching(api_at(server.url), [PODS]) as watch:
        assert some(watch).of(POD) == {}


def test_a_stream_that_ends_goes_on_where_it_was() -> None:
    replies = [
        listed(2),
        streamed(event("ADDED", pod("a", 3)), event("BOOKMARK", pod("", 9))),
        streamed(event("ADDED", pod("b", 10)), stays=True),
    ]
    with scripted_api(*replies) as server, watching(api_at(server.url), [PODS]) as watch:
        await_names(watch, "a", "b")
        assert ["resourceVersion=2" in one.path or "resourceVersion=9" in one.path for one in server.heard] == [False, True, True]


def test_a_connection_that_is_cut_goes_on_where_it_was() -> None:
    told: list[str] = []
    replies = [listed(2), CUT, Reply(503, "starting"), streamed(event("ADDED", pod("a", 3)), stays=True)]
    with scripted_api(*replies) as server, watching(api_at(server.url, told), [PODS]) as watch:
        await_names(watch, "a")
        assert [one.path for one in server.heard[1:]] == [server.heard[1].path] * 3
    assert any("trying again" in phrase for phrase in told)


def test_a_connection_that_is_cut_in_the_middle_is_told_in_plain_words() -> None:
    told: list[str] = []
    half = Reply(lines=(event("ADDED", pod("a", 3)),), breaks=True)
    replies = [listed(2), half, streamed(event("ADDED", pod("b", 4)), stays=True)]
    with scripted_api(*replies) as server, watching(api_at(server.url, told), [PODS]) as watch:
        await_names(watch, "a", "b")
        assert told[0] == f"{server.url} cannot be reached: the connection was cut; trying again"
        assert "resourceVersion=3" in server.heard[2].path


@pytest.mark.parametrize(
    "gone",
    [
        status(410, "Expired", "too old resource version: 2 (900)"),
        streamed(event("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old", "metadata": {}})),
    ],
)
def test_what_the_server_has_forgotten_is_listed_anew(gone: Reply) -> None:
    replies = [listed(2, pod("a", 1), pod("b", 1)), gone, listed(900, pod("b", 1), pod("c", 899)), streamed(stays=True)]
    with scripted_api(*replies) as server, watching(api_at(server.url), [PODS]) as watch:
        await_names(watch, "b", "c")
        assert watch.next(0.0) is None


def test_a_list_in_which_nothing_is_new_is_no_news() -> None:
    gone = status(410, "Expired", "too old resource version")
    replies = [
        listed(2, pod("a", 1)),
        gone,
        listed(900, pod("a", 1)),
        gone,
        listed(901, pod("a", 1, "another")),
        streamed(stays=True),
    ]
    with scripted_api(*replies) as server, watching(api_at(server.url), [PODS]) as watch:
        assert some(watch).of(POD)["a"] == pod("a", 1)
        assert some(watch).of(POD)["a"] == pod("a", 1, "another")


def test_a_refusal_is_raised() -> None:
    message = 'pods is forbidden: User "jane" cannot watch resource "pods" in API group "" in the namespace "ns"'
    denied = status(403, "Forbidden", message)
    replies = [listed(2), denied, Reply(body="ok"), denied]
    with (
        scripted_api(*replies) as server,
        watching(api_at(server.url), [PODS]) as watch,
        pytest.raises(ForbiddenError, match="may not watch pods"),
    ):
        await_names(watch, "never")


def test_several_kinds_are_told_when_all_of_them_are_known() -> None:
    watched = [PODS, Watched(CONFIG_MAP, None)]
    with (
        scripted_api(listed(2, pod("a", 1)), watched=streamed(stays=True)) as server,
        watching(api_at(server.url), watched) as watch,
    ):
        snapshot = some(watch)
        assert set(snapshot.of(POD)) == {"a"}
        # Of all namespaces: with the namespace.
        assert set(snapshot.of(CONFIG_MAP)) == {"ns/a"}


@pytest.mark.parametrize("reply", [streamed(stays=True), CUT, Reply(503, "away")])
def test_no_thread_outlives_it(reply: Reply) -> None:
    before = set(threads())
    with scripted_api(listed(2), reply) as server:
        serving = set(threads()) - before
        with watching(api_at(server.url), [PODS, Watched(POD, None)]) as watch:
            watch.next(0.1)
        assert not [one for one in set(threads()) - before - serving if one.name.startswith("llmperf-watch")]


class Versions:
    """Watches that stay open and tell nothing, beside a ``/version`` that is answered so, the last for ever."""

    def __init__(self, *replies: Reply) -> None:
        self._replies = list(replies)

    def __call__(self, path: str) -> Reply:
        """The answer to a request."""
        if path == "/version":
            return self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]
        return streamed(stays=True) if "watch=true" in path else listed(2)


def test_expired_credentials_end_a_watch_that_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "ASK_S", 0.01)
    with scripted_api(Reply()) as server:
        server.next_reply = Versions(Reply())  # type: ignore[method-assign]
        with watching(api_at(server.url), [PODS]) as watch:
            some(watch)
            server.next_reply = Versions(Reply(401))  # type: ignore[method-assign]
            with pytest.raises(LoginError):
                watch.next(ENOUGH_S)


def test_a_network_that_has_gone_ends_a_watch_that_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "ASK_S", 0.01)
    monkeypatch.setattr(watch_module, "ANSWER_S", 0.2)
    monkeypatch.setattr(transport, "RESTART_S", 0.5)
    told: list[str] = []
    with scripted_api(Reply()) as server:
        server.next_reply = Versions(Reply(lines=(), stays=True))  # type: ignore[method-assign]
        with (
            watching(api_at(server.url, told), [PODS]) as watch,
            pytest.raises(UnreachableError, match="no answer in time"),
        ):
            await_names(watch, "never")
        assert any(phrase.endswith("no answer in time; trying again") for phrase in told)


@pytest.mark.parametrize("reply", [CUT, Reply(503, "starting"), status(403, "Forbidden", "no"), Reply(404, "none here")])
def test_a_server_that_is_there_later_or_will_not_say_ends_no_watch(reply: Reply, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "ASK_S", 0.01)
    with scripted_api(Reply()) as server:
        server.next_reply = Versions(reply, Reply())  # type: ignore[method-assign]
        with watching(api_at(server.url), [PODS]) as watch:
            some(watch)
            give_up = monotonic() + ENOUGH_S
            while server.asked.count("GET /version") < 3 and monotonic() < give_up:
                assert watch.next(0.05) is None
        assert server.asked.count("GET /version") >= 3
