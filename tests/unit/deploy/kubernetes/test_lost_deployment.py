"""A deployment that is lost costs its first test what it costs to see how, and those that follow next to nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import pytest

from pytest_llmperf.deploy.base import DeploymentInfo, Endpoint
from pytest_llmperf.deploy.kubernetes.access.reach import Reached
from pytest_llmperf.deploy.kubernetes.api.client import KubeApi
from pytest_llmperf.deploy.kubernetes.api.refusals import UnreachableError
from pytest_llmperf.deploy.kubernetes.deployment import KubernetesDeployment, Placed
from pytest_llmperf.deploy.kubernetes.ownership.session import KubeSession, Ownership
from pytest_llmperf.deploy.kubernetes.ready.pods import pod_of
from pytest_llmperf.deploy.kubernetes.ready.waiting import ReadyPods
from pytest_llmperf.deploy.kubernetes.rendering.render import EngineRef, Rendered, ServiceRef
from pytest_llmperf.deploy.kubernetes.settings import KubernetesSettings, RenderSettings
from tests.unit.deploy.kubernetes.cells import H100
from tests.unit.deploy.kubernetes.forwarding import kubeconfig
from tests.unit.deploy.kubernetes.scripted_api import Reply, ScriptedApi, api_at, scripted_api

NOWHERE = "http://127.0.0.1:9"
RENDERED = Rendered(H100, (), EngineRef("Deployment", "vllm", "vllm", "vllm:1", ()), ServiceRef("vllm", 8000), "gpu", 1)


class OnePod:
    """A cluster of one pod and its node, as they are said to be."""

    def __init__(self) -> None:
        self.restarts = 0
        self.hears_of_node = True

    def pod(self) -> dict[str, Any]:
        """The pod."""
        ended = {"terminated": {"exitCode": 4, "reason": "Error"}}
        status = {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": str(self.hears_of_node)}],
            "containerStatuses": [
                {"name": "vllm", "ready": True, "restartCount": self.restarts, "lastState": ended if self.restarts else {}}
            ],
        }
        spec = {"nodeName": "node1", "containers": [{"name": "vllm", "image": "vllm:1"}]}
        return {"metadata": {"name": "vllm-1", "namespace": "ns", "uid": "1"}, "spec": spec, "status": status}

    def __call__(self, path: str) -> Reply:
        """The answer to a request."""
        if "/log?" in path:
            return Reply(body="its last words\n")
        if "selfsubjectaccessreviews" in path:
            return Reply(body={"status": {"allowed": True}})
        if "/nodes/" in path:
            ready = {"type": "Ready", "status": str(self.hears_of_node), "reason": "NodeStatusUnknown", "message": "silent"}
            return Reply(body={"metadata": {"name": "node1"}, "status": {"conditions": [ready]}})
        return Reply(body={"items": [self.pod()] if "/pods?" in path else [], "metadata": {}, "gitVersion": "v1.36.0"})


@pytest.fixture
def cluster() -> OnePod:
    return OnePod()


@pytest.fixture
def server(cluster: OnePod) -> Iterator[ScriptedApi]:
    with scripted_api(Reply()) as serving:
        serving.next_reply = cluster  # type: ignore[method-assign]
        yield serving


@pytest.fixture
def api(server: ScriptedApi, tmp_path: Path) -> Iterator[KubeApi]:
    with api_at(server.url) as connected:
        connected.kubeconfig = kubeconfig(tmp_path, server.url, {})
        yield connected


@pytest.fixture
def deployment(api: KubeApi, cluster: OnePod, tmp_path: Path) -> KubernetesDeployment:
    settings = KubernetesSettings(RenderSettings(), "abcd1234", namespace="ns", log_directory=tmp_path / "kept")
    ownership = Ownership("ns", {}, settings.identity)
    placed = Placed(api, settings, H100, RENDERED, ownership, (), (), KubeSession(api, settings))
    ready = cast(ReadyPods, SimpleNamespace(pods=(pod_of(cluster.pod()),)))
    info = DeploymentInfo("kubernetes", simulated=True, engine="vLLM")
    return KubernetesDeployment(H100, Endpoint(NOWHERE, "m"), info, placed, ready, Reached(NOWHERE, "service"))


def test_what_was_seen_of_a_loss_is_kept_once_and_told_again(
    deployment: KubernetesDeployment, cluster: OnePod, server: ScriptedApi, tmp_path: Path
) -> None:
    assert deployment.lost() is None
    cluster.restarts = 1
    first = deployment.lost()
    (folder,) = (tmp_path / "kept").iterdir()
    assert first == f"the container vllm of the pod vllm-1 ended with exit code 4; logs and events: {folder}"
    assert deployment.log_tail() == "its last words"
    before = len(server.heard)
    for _ in range(3):
        assert (deployment.lost(), deployment.log_tail()) == (first, "its last words")
    # Whether it is lost still is one question, and nothing of what was seen is read anew.
    assert {asked.rpartition("/")[2] for asked in server.asked[before:]} == {"pods"}
    assert len(server.asked) == before + 3
    assert list((tmp_path / "kept").iterdir()) == [folder]


def test_a_node_that_has_come_back_brings_the_deployment_back(
    deployment: KubernetesDeployment, cluster: OnePod, tmp_path: Path
) -> None:
    cluster.hears_of_node = False
    first = deployment.lost()
    assert first is not None
    assert first.startswith("the node node1 is not ready: NodeStatusUnknown: silent; logs and events: ")
    assert deployment.lost() == first
    cluster.hears_of_node = True
    assert deployment.lost() is None
    cluster.hears_of_node = False
    assert deployment.lost() not in {None, first}
    assert len(list((tmp_path / "kept").iterdir())) == 2


class Away:
    """A call that nobody answers, after a minute."""

    def __init__(self) -> None:
        self.waited = 0

    def __call__(self, *_: object, **__: object) -> NoReturn:
        self.waited += 1
        raise UnreachableError("nobody has answered for a minute")


def test_an_api_server_that_is_away_is_waited_for_once(
    deployment: KubernetesDeployment,
    api: KubeApi,
    server: ScriptedApi,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What goes on with ``api`` waits; what is connected anew, as here to a server that speaks no TLS, fails at once.
    kubeconfig(tmp_path, server.url.replace("http://", "https://"), {})
    away = Away()
    monkeypatch.setattr(api, "list", away)
    told = deployment.lost()
    assert told == "nobody can say whether it stands: nobody has answered for a minute"
    for _ in range(2):
        assert str(deployment.lost()).startswith("nobody can say whether it stands: https://127.0.0.1")
        assert deployment.log_tail() == ""
    assert away.waited == 1
    assert not (tmp_path / "kept").exists()
    kubeconfig(tmp_path, server.url, {})
    monkeypatch.undo()
    assert deployment.lost() is None
    assert server.asked.count("GET /version") == 1
    assert deployment.log_tail() == "its last words"
    assert deployment.lost() is None
    assert server.asked.count("GET /version") == 1


@pytest.mark.parametrize("trouble", [lambda file: file.unlink(), lambda file: file.write_text("{}")])
def test_a_loss_that_is_known_stays_known_while_nobody_answers(
    deployment: KubernetesDeployment,
    cluster: OnePod,
    api: KubeApi,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trouble: Callable[[Path], object],
) -> None:
    cluster.restarts = 1
    first = deployment.lost()
    monkeypatch.setattr(api, "list", Away())
    trouble(tmp_path / "kubeconfig.yaml")
    for _ in range(3):
        assert (deployment.lost(), deployment.log_tail()) == (first, "its last words")
