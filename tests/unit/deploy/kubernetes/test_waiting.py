"""The wait for pods and its errors: what a user reads where the cause is known, and its log is or is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from pytest_llmperf.deploy.kubernetes.names import Identity
from pytest_llmperf.deploy.kubernetes.ready.waiting import await_running
from pytest_llmperf.deploy.kubernetes.rendering.render import EngineRef, Rendered, ServiceRef
from pytest_llmperf.errors import DeployError
from tests.unit.deploy.kubernetes.cells import H100
from tests.unit.deploy.kubernetes.scripted_api import Reply, api_at, scripted_api
from tests.unit.deploy.kubernetes.seen_objects import SETTINGS

WORKLOAD = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "vllm"}}
RENDERED = Rendered(
    H100, (WORKLOAD,), EngineRef("Deployment", "vllm", "vllm", "vllm:1", ()), ServiceRef("vllm", 8000), "nvidia.com/gpu", 1
)
CRASHING = {
    "name": "vllm",
    "restartCount": 1,
    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
    "lastState": {"terminated": {"exitCode": 3, "reason": "Error"}},
}
POD: dict[str, Any] = {
    "metadata": {"name": "vllm-1", "namespace": "team", "uid": "1", "resourceVersion": "1"},
    "spec": {"nodeName": "node1", "containers": [{"name": "vllm", "image": "vllm:1"}]},
    "status": {"containerStatuses": [CRASHING]},
}


class Crashing:
    """A cluster of one pod whose container ends again and again; its log is answered with ``log``."""

    def __init__(self, log: Reply) -> None:
        self.log = log

    def __call__(self, path: str) -> Reply:
        """The answer to a request."""
        if "watch=true" in path:
            return Reply(lines=(), stays=True)
        if "/log?" in path:
            return self.log
        items = [POD] if "/pods?" in path else []
        return Reply(body={"items": items, "metadata": {"resourceVersion": "2"}})


def error_of(log: Reply, folder: Path) -> DeployError:
    settings = replace(SETTINGS, log_directory=folder)
    with scripted_api(Reply()) as server, api_at(server.url) as api:
        server.next_reply = Crashing(log)  # type: ignore[method-assign]
        with pytest.raises(DeployError) as caught:
            await_running(api, RENDERED, Identity("unit0000"), "team", settings, lambda _: None)
    return caught.value


@pytest.mark.parametrize(
    ("log", "tail"),
    [
        (Reply(body="loading\nValueError: no\n"), "loading\nValueError: no"),
        (Reply(body=""), "(the container has written nothing)"),
        (
            Reply(503, "no time"),
            "(its log could not be read: cannot read the log of pods/vllm-1 in the namespace 'team': 503 no time)",
        ),
    ],
)
def test_an_error_has_the_log_alone_as_its_tail_and_says_where_the_rest_is(log: Reply, tail: str, tmp_path: Path) -> None:
    error = error_of(log, tmp_path)
    (folder,) = tmp_path.iterdir()
    assert error.what.splitlines()[0] == "container vllm ended with exit code 3 (2 times)"
    assert error.log_tail == tail
    assert (error.hint or "").splitlines()[-1] == f"  (logs, events and objects: {folder})"


LOADED = "Loading weights took 2.5 seconds\n"


class Ready:
    """A cluster of one pod that is ready; of its log and its node nothing is told until ``may_tell``."""

    pod: dict[str, Any] = {  # noqa: RUF012  (nobody changes it)
        **POD,
        "metadata": {**POD["metadata"], "ownerReferences": [{"kind": "Deployment", "name": "vllm", "controller": True}]},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": "vllm", "ready": True, "state": {"running": {}}}],
        },
    }

    def __init__(self) -> None:
        self.may_tell = Event()

    def __call__(self, path: str) -> Reply:
        """The answer to a request."""
        if "watch=true" in path:
            return Reply(lines=(), stays=True)
        if path == "/version" or path.startswith("/api/v1/namespaces/team/pods?"):
            items = [self.pod] if "pods?" in path else []
            return Reply(body={"items": items, "metadata": {"resourceVersion": "2"}})
        if "/log?" in path or "selfsubjectaccessreviews" in path:
            self.may_tell.wait()
        if "/log?" in path:
            return Reply(body=LOADED)
        if path.startswith("/api/v1/nodes/"):
            return Reply(body={"metadata": {"name": "node1", "labels": {"gpu": "h100"}}})
        return Reply(body={"items": [], "metadata": {"resourceVersion": "2"}, "status": {"allowed": True}})


def test_pods_are_told_ready_before_their_log_and_their_node_are_read() -> None:
    cluster = Ready()
    with scripted_api(Reply()) as server, api_at(server.url) as api:
        server.next_reply = cluster  # type: ignore[method-assign]
        try:
            ready = await_running(api, RENDERED, Identity("unit0000"), "team", SETTINGS, lambda _: None)
        finally:
            cluster.may_tell.set()
        assert [pod.name for pod in ready.pods] == ["vllm-1"]
        assert ready.node_labels == {"gpu": "h100"}
        assert ready.beside.read().log == LOADED
        assert [phase.name for phase in ready.phases] == ["scheduled"]


def test_pods_are_ready_whose_log_and_node_nobody_tells() -> None:
    cluster = Ready()
    with scripted_api(Reply()) as server, api_at(server.url) as api:
        server.next_reply = lambda path: (  # type: ignore[method-assign]
            Reply(500, "no") if "/log?" in path or "reviews" in path else cluster(path)
        )
        ready = await_running(api, RENDERED, Identity("unit0000"), "team", SETTINGS, lambda _: None)
        assert ready.node_labels == {}
        assert ready.beside.read().log == ""
        assert [phase.name for phase in ready.phases] == ["scheduled"]
