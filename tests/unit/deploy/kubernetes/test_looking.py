"""What is asked for besides the watch: whose events count, and what trouble with logs and nodes does."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import pytest

from pytest_llmperf.deploy.kubernetes.api.kinds import DEPLOYMENT, EVENT, POD, PVC, REPLICASET, SECRET, Kind
from pytest_llmperf.deploy.kubernetes.api.refusals import LoginError
from pytest_llmperf.deploy.kubernetes.api.watch import Snapshot
from pytest_llmperf.deploy.kubernetes.names import Identity
from pytest_llmperf.deploy.kubernetes.ready.container_log import log_text, plain, whole_log
from pytest_llmperf.deploy.kubernetes.ready.evidence import DIAGNOSIS, EVENTS, MOST_PODS, keep_evidence
from pytest_llmperf.deploy.kubernetes.ready.looking import Looking
from pytest_llmperf.deploy.kubernetes.ready.seen import LogOf
from pytest_llmperf.deploy.kubernetes.rendering.render import EngineRef, Rendered, ServiceRef
from tests.unit.deploy.kubernetes.cells import H100
from tests.unit.deploy.kubernetes.scripted_api import Reply, api_at, scripted_api, status
from tests.unit.deploy.kubernetes.seen_objects import OOM, container, pod, said, seen

IDENTITY = Identity("unit0000")
WORKLOAD = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "vllm"}}
RENDERED = Rendered(
    H100, (WORKLOAD,), EngineRef("Deployment", "vllm", "vllm", "vllm:1", ()), ServiceRef("vllm", 8000), "nvidia.com/gpu", 1
)
LOG = LogOf("vllm-1", "vllm")
EMPTY = Reply(body={"items": [], "metadata": {}})


def served_pod(number: int) -> dict[str, Any]:
    """One that is ready, unless it is the last of 20."""
    conditions = [{"type": "Ready", "status": "False" if number == 19 else "True"}]
    spec = {"containers": [{"name": "vllm", "image": "vllm:1"}]}
    return {"metadata": {"name": f"p{number}", "namespace": "team"}, "spec": spec, "status": {"conditions": conditions}}


def test_a_log_that_cannot_be_read_ends_nothing() -> None:
    """As while a kubelet restarts: the API server cannot reach it, and says so with 500."""
    gone = status(500, "InternalError", 'Get "https://10.0.0.7:10250/containerLogs": dial tcp: connect: connection refused')
    with scripted_api(Reply(), gone) as server, api_at(server.url) as api:
        looking = Looking(api, RENDERED, IDENTITY, "team")
        here = seen(pod(container(running_since_s=1.0)))
        assert looking.with_log(here, LOG).logs == {LOG: ""}


def test_a_log_that_is_refused_keeps_nobody_from_looking_and_what_was_read_stays() -> None:
    """As of an API server that has no time: everything else would be asked again for a minute."""
    replies = (Reply(), Reply(body="loading\n"), Reply(503, "no time"))
    with scripted_api(*replies) as server, api_at(server.url) as api:
        looking = Looking(api, RENDERED, IDENTITY, "team")
        assert looking.with_log(seen(pod(container(running_since_s=1.0))), LOG).logs == {LOG: "loading\n"}
        ended = seen(pod(container(ended=OOM)))
        assert looking.with_log(ended, LOG).logs == {LOG: "loading\n"}
        assert len(server.heard) == 3


def test_credentials_that_do_not_count_any_more_end_the_looking() -> None:
    """A watch that goes on hears of it only when it ends."""
    with scripted_api(Reply(), status(401, "Unauthorized", "Unauthorized")) as server, api_at(server.url) as api:
        looking = Looking(api, RENDERED, IDENTITY, "team")
        with pytest.raises(LoginError, match="does not accept the credentials"):
            looking.with_log(seen(pod(container(running_since_s=1.0))), LOG)


def test_events_of_what_had_the_name_before_do_not_count() -> None:
    def event(number: int, at: str, **about: str) -> dict[str, Any]:
        meta = {"name": f"e{number}", "resourceVersion": str(number)}
        return {"metadata": meta, "involvedObject": {"kind": "Pod", **about}, "reason": f"R{number}", "lastTimestamp": at}

    events = (
        event(1, "2026-01-31T12:00:00Z", name="vllm-0", uid="old"),
        event(2, "2026-01-31T12:00:59Z", name="vllm-0", uid="new"),
        # Who does not know the uid, by a clock that is late.
        event(10, "2026-01-31T12:00:01Z", name="vllm-0"),
        event(11, "2026-01-31T12:00:01Z", name="other", uid="new"),
    )
    objects: dict[Kind, dict[str, dict[str, Any]]] = {kind: {} for kind in (DEPLOYMENT, REPLICASET, PVC)}
    objects[POD] = {"vllm-0": {"metadata": {"name": "vllm-0", "uid": "new"}}}
    objects[EVENT] = {one["metadata"]["name"]: one for one in events}
    with scripted_api(Reply()) as server, api_at(server.url) as api:
        found = Looking(api, RENDERED, IDENTITY, "team").seen(Snapshot(objects, 0.0))
    assert [one.reason for one in found.events] == ["R2", "R10"]


def test_evidence_asks_a_server_that_is_away_once(tmp_path: Path) -> None:
    api = api_at("http://127.0.0.1:1")
    api.close()  # it does not wait for who does not answer
    place = keep_evidence(api, IDENTITY, H100, "team", tmp_path, "the cause", [said("Killing", "heard of before")])
    cause, *troubles = (place / DIAGNOSIS).read_text().splitlines()
    assert cause == "the cause"
    assert len(troubles) == 1
    assert "heard of before" in (place / EVENTS).read_text()


def test_evidence_asks_a_server_that_has_no_time_with_patience_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that goes too fast, the second refusal is one too many."""
    clock = count(step=100)
    monkeypatch.setattr("pytest_llmperf.deploy.kubernetes.api.transport.monotonic", lambda: float(next(clock)))
    with scripted_api(Reply(503, "no time")) as server, api_at(server.url) as api:
        place = keep_evidence(api, IDENTITY, H100, "team", tmp_path, "the cause")
        assert len(server.heard) == 2
    assert (place / DIAGNOSIS).read_text().count("not kept: ") == 1


def test_a_log_that_no_node_gives_keeps_nobody_from_the_others(tmp_path: Path) -> None:
    pods = Reply(body={"items": [served_pod(number) for number in range(2)], "metadata": {}})
    gone = status(500, "InternalError", 'Get "https://10.0.0.7:10250/containerLogs": dial tcp: connection refused')
    replies = (*[EMPTY] * 4, pods, *[EMPTY] * 4, Reply(503, "no time"), gone, EMPTY)
    with scripted_api(*replies) as server, api_at(server.url) as api:
        place = keep_evidence(api, IDENTITY, H100, "team", tmp_path, "the cause")
        assert server.asked[-1] == "GET /api/v1/namespaces/team/events"
    assert (place / DIAGNOSIS).read_text().count("not kept: ") == 2


SET = Kind("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet", "leaderworkersets")


def test_evidence_has_the_objects_of_all_kinds_that_were_applied(tmp_path: Path) -> None:
    with scripted_api(Reply(), EMPTY) as server, api_at(server.url) as api:
        assert Looking(api, RENDERED, IDENTITY, "team").kinds == (DEPLOYMENT,)
        keep_evidence(api, IDENTITY, H100, "team", tmp_path, kinds=(DEPLOYMENT, SET, SECRET))
        asked = [path.rpartition("/")[2] for path in server.asked]
    assert asked.count("leaderworkersets") == 1
    assert asked.count("deployments") == 1
    assert asked.count("secrets") == 1, "for what is to be hidden alone"


def test_evidence_has_the_logs_of_so_many_pods_first_of_those_that_are_not_ready(tmp_path: Path) -> None:
    pods = Reply(body={"items": [served_pod(number) for number in range(20)], "metadata": {}})
    replies = (*[EMPTY] * 4, pods, *[EMPTY] * 4, *[Reply(body="up\n")] * MOST_PODS, EMPTY)
    with scripted_api(*replies) as server, api_at(server.url) as api:
        place = keep_evidence(api, IDENTITY, H100, "team", tmp_path, "the cause")
    logs = {file.name for file in place.glob("*.log")}
    assert len(logs) == MOST_PODS
    assert "p19_vllm.log" in logs
    assert (place / DIAGNOSIS).read_text() == "the cause\nnot kept: the logs of 4 of 20 pods\n"


def test_a_log_is_kept_whole_or_its_beginning_and_its_end_in_whole_lines() -> None:
    with scripted_api(Reply(body="one\ntwo\n")) as server, api_at(server.url) as api:
        assert whole_log(api, "team", LOG, longest_bytes=9) == "one\ntwo\n"
        assert len(server.heard) == 1
    with scripted_api(Reply(body="one\ntwo\nt"), Reply(body="three\nfour\nfive\n")) as server, api_at(server.url) as api:
        start, _, _, _, *end = whole_log(api, "team", LOG, longest_bytes=9).splitlines()[1:]
    assert (start, end) == ("two", ["five"])
    gone = Reply(500, body="no such node")
    with scripted_api(Reply(body="one\ntwo\nt"), gone) as server, api_at(server.url) as api:
        assert whole_log(api, "team", LOG, longest_bytes=9).startswith("one\ntwo\n\n[… it goes on; its last lines are missing: ")


@pytest.mark.parametrize(
    ("written", "lines"),
    [
        ("\x1b[1m\x1b[31mError: Model 'a/b' not found.\x1b[0m\n", "Error: Model 'a/b' not found.\n"),
        ("\rFetching 2 files:   0%\rFetching 2 files:  50%\rFetching 2 files: 100%\ndone\n", "Fetching 2 files: 100%\ndone\n"),
        ("Loading:  50%\r\nLoading: 100%\r", "Loading:  50%\nLoading: 100%"),
        ("\x1b]8;;https://a\x1b\\link\x1b]8;;\x1b\\\x00\x08\ttab\n", "link\ttab\n"),
    ],
)
def test_a_log_is_as_it_would_stand_on_a_terminal(written: str, lines: str) -> None:
    assert plain(written) == lines
    with scripted_api(Reply(body=written)) as server, api_at(server.url) as api:
        assert log_text(api, "team", LOG, lines=20) == lines
        assert whole_log(api, "team", LOG) == lines
