"""What is asked for besides the watch: whose events count, and what trouble with logs and nodes does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytest_llmperf.deploy.kubernetes.api.kinds import DEPLOYMENT, EVENT, POD, PVC, REPLICASET, Kind
from pytest_llmperf.deploy.kubernetes.api.watch import Snapshot
from pytest_llmperf.deploy.kubernetes.names import Identity
from pytest_llmperf.deploy.kubernetes.ready.evidence import DIAGNOSIS, EVENTS, keep_evidence
from pytest_llmperf.deploy.kubernetes.ready.looking import Looking
from pytest_llmperf.deploy.kubernetes.ready.seen import LogOf
from pytest_llmperf.deploy.kubernetes.rendering.render import EngineRef, Rendered, ServiceRef
from tests.unit.deploy.kubernetes.cells import H100
from tests.unit.deploy.kubernetes.scripted_api import Reply, api_at, scripted_api, status
from tests.unit.deploy.kubernetes.seen_objects import container, pod, said, seen

IDENTITY = Identity("unit0000")
WORKLOAD = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "vllm"}}
RENDERED = Rendered(
    H100, (WORKLOAD,), EngineRef("Deployment", "vllm", "vllm", "vllm:1", ()), ServiceRef("vllm", 8000), "nvidia.com/gpu", 1
)
LOG = LogOf("vllm-1", "vllm")


def test_a_log_that_cannot_be_read_ends_nothing() -> None:
    """As while a kubelet restarts: the API server cannot reach it, and says so with 500."""
    gone = status(500, "InternalError", 'Get "https://10.0.0.7:10250/containerLogs": dial tcp: connect: connection refused')
    with scripted_api(Reply(), gone) as server, api_at(server.url) as api:
        looking = Looking(api, RENDERED, IDENTITY, "team")
        here = seen(pod(container(running_since_s=1.0)))
        assert looking.with_log(here, LOG).logs == {LOG: ""}


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
