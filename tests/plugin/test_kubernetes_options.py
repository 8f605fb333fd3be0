"""Sessions for a cluster that is not there: what can be known without one is told before the first test, in one line."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

Sessions = Callable[..., pytest.RunResult]

SUITE = "def test_one(deployment):\n    assert deployment\n"
KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: there
clusters: [{{name: there, cluster: {{server: 'http://127.0.0.1:{port}'}}}}]
users: [{{name: me, user: {{token: very-secret-token}}}}]
contexts: [{{name: there, context: {{cluster: there, user: me}}}}]
"""
XDIST = ("-n", "2", "--dist", "loadgroup")
ON_KUBERNETES = "--llmperf-target=kubernetes"


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A suite, in a folder whose owner has no cluster."""
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(pytester.path))
    pytester.makepyfile(test_suite=SUITE)
    return pytester.path


@pytest.fixture
def closed_port(suite: Path) -> Path:
    """A kubeconfig of an API server that nobody is."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    file = suite / "config.yaml"
    file.write_text(KUBECONFIG.format(port=port))
    return file


def assert_refused(result: pytest.RunResult, *said: str) -> None:
    """A usage error that says so, and no test."""
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    text = result.stdout.str() + result.stderr.str()
    for each in said:
        assert each in text
    assert "Traceback" not in text
    assert "passed" not in text
    assert "very-secret-token" not in text


@pytest.mark.usefixtures("suite")
@pytest.mark.parametrize("more", [(), XDIST], ids=["alone", "xdist"])
def test_a_kubeconfig_that_is_not_there(llmperf: Sessions, more: tuple[str, ...]) -> None:
    assert_refused(llmperf(ON_KUBERNETES, "--llmperf-kubeconfig=nowhere.yaml", *more), "llmperf: ", "nowhere.yaml")


@pytest.mark.usefixtures("suite")
def test_no_kubeconfig_at_all(llmperf: Sessions) -> None:
    assert_refused(llmperf(ON_KUBERNETES, "-k", "h100"), "there is no such kubeconfig", "KUBECONFIG")


def test_a_context_that_the_kubeconfig_does_not_have(llmperf: Sessions, closed_port: Path) -> None:
    result = llmperf(ON_KUBERNETES, f"--llmperf-kubeconfig={closed_port}", "--llmperf-context=ther", "-k", "h100")
    assert_refused(result, "'ther'", "Did you mean 'there'?")


@pytest.mark.parametrize("more", [(), XDIST], ids=["alone", "xdist"])
def test_a_cluster_that_is_not_there(llmperf: Sessions, closed_port: Path, more: tuple[str, ...]) -> None:
    result = llmperf(ON_KUBERNETES, f"--llmperf-kubeconfig={closed_port}", "-k", "h100", *more)
    assert_refused(result, "llmperf: ", "127.0.0.1")


def test_collecting_asks_no_cluster(llmperf: Sessions, closed_port: Path) -> None:
    result = llmperf(ON_KUBERNETES, f"--llmperf-kubeconfig={closed_port}", "-k", "h100", "--collect-only", "-q")
    assert result.ret == pytest.ExitCode.OK
    assert "test_one[gke_h100_standalone_llama-3.1-8b]" in result.stdout.str()


@pytest.mark.parametrize("more", [(), XDIST], ids=["alone", "xdist"])
def test_what_would_be_applied_is_written_and_nothing_is_run(llmperf: Sessions, suite: Path, more: tuple[str, ...]) -> None:
    result = llmperf("--llmperf-render=out", "--llmperf-image=registry.example/vllm:7", "-k", "h100", *more)
    assert result.ret == pytest.ExitCode.OK
    assert "rendered: 1 cell in out" in result.stdout.str()
    assert "passed" not in result.stdout.str()
    (cell,) = (suite / "out").iterdir()
    assert cell.name == "gke_h100_standalone_llama-3.1-8b"
    texts = [file.read_text() for file in sorted(cell.iterdir())]
    objects = [yaml.safe_load(text) for text in texts]
    assert {"Deployment", "Service"} <= {one["kind"] for one in objects}
    assert any("registry.example/vllm:7" in text for text in texts)


@pytest.mark.usefixtures("suite")
def test_a_chart_that_is_not_there(llmperf: Sessions) -> None:
    assert_refused(llmperf("--llmperf-render=out", "--llmperf-manifests=nowhere", "-k", "h100"), "nowhere")


def test_a_folder_that_cannot_be_written(llmperf: Sessions, suite: Path) -> None:
    (suite / "out").write_text("a file")
    assert_refused(llmperf("--llmperf-render=out", "-k", "h100"), "--llmperf-render: cannot write")


@pytest.mark.usefixtures("suite")
def test_an_option_of_a_cluster_for_another_target(llmperf: Sessions) -> None:
    result = llmperf("--llmperf-namespace=perf")
    assert_refused(result, "--llmperf-namespace: a namespace is named, but the target is 'sim'", "--llmperf-target=kubernetes")


def test_the_lines_of_workers_are_read(llmperf: Sessions, suite: Path) -> None:
    """The same on the simulator: xdist's workers have no terminal, and are heard."""
    result = llmperf("-k", "h100 or l40s", *XDIST)
    result.assert_outcomes(passed=2)
    for cell in ("gke_h100_standalone_llama-3.1-8b", "eks_l40s_standalone_llama-3.1-8b"):
        result.stdout.fnmatch_lines([f"  {cell}: ready after * SIMULATED"])
    assert "ready after" not in llmperf("-k", "h100", "-q", *XDIST).stdout.str()
    assert list(suite.glob("*.sock")) == []
