"""The shipped suites on the cluster: two cells side by side, what they leave in every kind of results, and cells that queue."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from pytest_llmperf.deploy.kubernetes.settings import RenderSettings
from pytest_llmperf.deploy.kubernetes.target import KubernetesTarget
from pytest_llmperf.errors import DeployError
from pytest_llmperf.experiment.catalog import manifests_directory
from pytest_llmperf.units import parse_duration
from tests.cluster.cluster import Cluster
from tests.cluster.k8s_pytest import GKE, K8S, PytestSessions
from tests.cluster.k8s_sessions import left_of, settings
from tests.unit.deploy.kubernetes.cells import H100

SUITES = Path(__file__).parents[2] / "suites"
XDIST = ("-n", "2", "--dist", "loadgroup")
SHORT = ("--llmperf-sla={e2e: {p50: 60s}, error_rate: 0%}", "--llmperf-trace-duration=3s")
"""What a handful of requests can show on a busy machine."""
LIGHT = """
interactive-chat: {arrivals: poisson, rate: 3/s, duration: 3s}
classification: {arrivals: poisson, rate: 5/s, duration: 3s}
summarization: {arrivals: constant, rate: 3/s, duration: 3s}
code-generation: {arrivals: constant, rate: 3/s, duration: 3s}
translation: {arrivals: constant, rate: 3/s, duration: 3s}
agentic: {arrivals: concurrency, users: 2, duration: 3s}
"""
"""The loads of the shipped suites for two cores that run a cluster beside them."""
CHOSEN = ("test_sla.py", "test_trace_replay.py", "test_progression.py::test_single_user")
"""Those that two minutes have room for: the others find capacities and wait for soaks."""
FIRST_REQUEST_S, LATE_FIRST_REQUEST_S = 1.0, 3.0
"""After the pods' readiness; a machine that is busy with the cluster itself may be late once, not always."""
CHECKED_S, LATE_CHECKED_S = 0.5, 2.0
"""Within it the endpoint is healthy, lists its model, and has completed something; the same of one on a busy machine."""
CLOCK_S = 1.0
"""A pod's own times have whole seconds: up to one later is still the same."""
ONE = """
from pathlib import Path
import pytest
from pytest_llmperf import constant

@pytest.mark.llmperf(workload="interactive-chat")
def test_one(load):
    is_first = not Path("first").exists()
    Path("first").touch()
    load(constant("2/s"), "6s" if is_first else "1s", warmup="0s")
"""
"""The first cell keeps the GPUs for as long as the other's waiting takes to be told."""
FIRST = """
from pathlib import Path
import subprocess
import pytest
from pytest_llmperf import constant

@pytest.mark.llmperf(workload="interactive-chat")
def test_first(load, deployment):
    load(constant("2/s"), "1s", warmup="0s")
    ready = "--output=jsonpath={.items[*].status.conditions[?(@.type=='Ready')].lastTransitionTime}"
    selector = f"--selector=llmperf.dev/cell={deployment.cell.id}"
    Path(deployment.cell.id).write_text(subprocess.check_output(["kubectl", "get", "pods", "-A", selector, ready], text=True))
"""


@pytest.fixture
def light(sessions: PytestSessions) -> PytestSessions:
    """The folder with light loads, and the shipped suites in it."""
    (sessions.folder / "fixtures" / "profiles.yaml").write_text(LIGHT)
    (sessions.folder / "suites").symlink_to(SUITES)
    return sessions


def test_the_shipped_suites_on_two_cells_side_by_side(light: PytestSessions) -> None:
    written = ("--llmperf-json=out.json", "--junitxml=junit.xml")
    own = replace(light, namespace=None)
    ended = own.run(*(f"suites/{name}" for name in CHOSEN), *XDIST, *SHORT, *written, matrix="two")
    assert ended.returncode == pytest.ExitCode.OK, ended.stdout
    assert "16 passed" in ended.stdout
    assert left_of(light.cluster) == []
    runs = json.loads((light.folder / "out.json").read_text())["runs"]
    assert {run["cell"]["id"] for run in runs} == {GKE, K8S}
    for run in runs:
        assert_tells_of_the_cluster(run, light.image)
    properties = ElementTree.parse(light.folder / "junit.xml").iter("property")
    told = {(one.get("name"), one.get("value")) for one in properties}
    assert ("llmperf_target", "kubernetes") in told
    assert ("llmperf_image", light.image) in told
    # Both stood at the same time: each was ready before the other's last load was over.
    ready = [ended.stdout.index(f"  {cell}: ready after ") for cell in (GKE, K8S)]
    assert max(ready) < min(ended.stdout.rindex(f"  {cell} ") for cell in (GKE, K8S))


def assert_tells_of_the_cluster(run: dict[str, dict[str, object]], image: str) -> None:
    deployment, configuration = run["deployment"], run["configuration"]
    assert (deployment["target"], deployment["simulated"]) == ("kubernetes", True)
    phases = deployment["phases"]
    assert isinstance(phases, list)
    assert {"applied", "scheduled", "started", "ready", "reached", "first completion"} <= {phase["name"] for phase in phases}
    assert configuration["image"] == image
    assert str(configuration["image_digest"]).startswith("sha256:")
    assert "h100" in str(configuration["gpu"]).lower()
    assert str(configuration["gpu"]).endswith("(simulated)")
    manifests = configuration["manifests"]
    assert isinstance(manifests, list)
    assert any("kind: Deployment" in one for one in manifests)
    notes = run["client"]["notes"]
    assert isinstance(notes, list)
    assert any("reached by port-forward" in note for note in notes)


def test_the_first_request_follows_the_pods_readiness(sessions: PytestSessions) -> None:
    sessions.write(test_suite=FIRST)
    ended = sessions.run("--llmperf-json=out.json", matrix="two")
    assert ended.returncode == pytest.ExitCode.OK, ended.stdout
    told = [parse_duration(one) for one in re.findall(r"first request (\S+) after the pods were ready", ended.stdout)]
    runs = json.loads((sessions.folder / "out.json").read_text())["runs"]
    # By the pods' own times too: what is counted from the watch says nothing of a watch that hears late.
    since_ready = [
        (datetime.fromisoformat(run["timing"]["started_at"]) - datetime.fromisoformat(ready)).total_seconds()
        for run in runs
        for ready in [(sessions.folder / run["cell"]["id"]).read_text()]
    ]
    after = ("reached", "first completion")
    checked = [sum(one["seconds"] for one in run["deployment"]["phases"] if one["name"] in after) for run in runs]
    print(f"first requests: {told} s after readiness was heard of, {since_ready} s after it; checked in {checked} s")
    assert len(told) == len(since_ready) == len(checked) == 2
    assert min(told) <= FIRST_REQUEST_S
    assert min(since_ready) <= FIRST_REQUEST_S + CLOCK_S
    assert max(told) <= LATE_FIRST_REQUEST_S
    assert max(since_ready) <= LATE_FIRST_REQUEST_S + CLOCK_S
    assert min(checked) <= CHECKED_S
    assert max(checked) <= LATE_CHECKED_S


def test_a_cell_that_finds_no_free_gpus_queues_and_says_so(sessions: PytestSessions) -> None:
    sessions.write(test_suite=ONE)
    ended = sessions.run(*XDIST, matrix="whole-nodes")
    assert ended.returncode == pytest.ExitCode.OK, ended.stdout
    assert "2 passed" in ended.stdout
    assert re.search(r"^  \w+_h100x8_\S+: waiting for 8 nvidia.com/gpu", ended.stdout, re.MULTILINE), ended.stdout


def test_a_queue_has_an_end(sessions: PytestSessions) -> None:
    sessions.write(test_suite=ONE)
    ended = sessions.run(*XDIST, "--llmperf-queue-timeout=3s", matrix="whole-nodes")
    assert ended.returncode == pytest.ExitCode.TESTS_FAILED, ended.stdout
    assert "1 passed, 1 error" in ended.stdout
    assert re.search(r"DeployError: \w+_h100x8_\S+: ", ended.stdout)
    assert "--llmperf-queue-timeout" in ended.stdout


def test_a_cell_in_a_queue_of_kueues_says_so_until_its_time_is_over(
    cluster: Cluster, namespace: str, session: str, tmp_path: Path
) -> None:
    """Kueue's gate keeps a pod from the scheduler, also where no Kueue takes it away."""
    for file in (manifests_directory() / "standalone").glob("*.yaml"):
        manifest = yaml.safe_load(file.read_text())
        if manifest["kind"] == "Deployment":
            manifest["spec"]["template"]["spec"]["schedulingGates"] = [{"name": "kueue.x-k8s.io/admission"}]
        (tmp_path / file.name).write_text(yaml.safe_dump(manifest))
    render = RenderSettings(manifests=tmp_path, model_cache="none", queue="team")
    known = replace(settings(session, namespace=namespace), render=render, kubeconfig=cluster.kubeconfig, queue_timeout_s=1.0)
    target, told = KubernetesTarget(known), list[str]()
    try:
        with pytest.raises(DeployError, match=r"waited 1s for Kueue to admit the pod .* from its queue team") as raised:
            target.deploy(H100, told.append)
    finally:
        target.end()
    assert raised.value.hint is not None
    assert "--llmperf-queue-timeout" in raised.value.hint
    assert "waiting in Kueue's queue team" in told
    assert left_of(cluster) == []
