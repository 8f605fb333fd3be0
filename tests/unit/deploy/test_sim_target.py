"""The sim target: a process that is ready, one that dies while it starts, and nothing left behind in any case."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import monotonic

import httpx
import pytest

from pytest_llmperf.deploy import sim
from pytest_llmperf.deploy.base import check_standing
from pytest_llmperf.deploy.sim import SimDeployment, SimTarget
from pytest_llmperf.errors import DeployError
from pytest_llmperf.experiment.catalog import builtin_directory, load_catalog
from pytest_llmperf.experiment.matrix import expand

CATALOG = load_catalog([builtin_directory()])
CELL = expand(CATALOG.matrix_named("default"), CATALOG)[0]


@pytest.fixture
def deployment() -> Iterator[SimDeployment]:
    standing = SimTarget(ready_timeout_s=30.0).deploy(CELL, lambda _: None)
    yield standing
    standing.close()


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_close_leaves_nothing(deployment: SimDeployment) -> None:
    assert httpx.get(f"{deployment.endpoint.base_url}/health", trust_env=False).is_success
    assert deployment.lost() is None
    deployment.close()
    assert is_gone(deployment.process.pid)
    assert deployment.log_tail() == ""
    deployment.close()


def test_what_is_simulated_is_documented(deployment: SimDeployment) -> None:
    info = deployment.info
    assert info.engine == f"vLLM simulator {info.engine_version}"
    assert info.gpu == f"{CELL.hardware.title} (simulated)"
    assert info.driver is None
    assert "--tensor-parallel-size=1" in info.engine_arguments
    assert "--enable-prefix-caching" in info.engine_arguments


def test_several_simulated_accelerators_are_counted_and_arguments_are_the_cells() -> None:
    hardware = replace(CELL.hardware, count=2, interconnect="nvlink-h100")
    variant = replace(CELL.variant, engine_args={"max-num-seqs": 8, "tensor-parallel-size": 2, "enable-prefix-caching": False})
    standing = SimTarget(ready_timeout_s=30.0).deploy(replace(CELL, hardware=hardware, variant=variant), lambda _: None)
    standing.close()
    assert standing.info.gpu == f"2 x {CELL.hardware.title} (simulated)"
    assert {"--max-num-seqs=8", "--tensor-parallel-size=2", "--no-enable-prefix-caching"} <= set(standing.info.engine_arguments)


def test_close_ends_a_simulator_that_ignores_sigterm(deployment: SimDeployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sim, "END_TIMEOUT_S", 0.5)
    deployment.process.send_signal(signal.SIGSTOP)  # a stopped process takes no SIGTERM
    deployment.close()
    assert is_gone(deployment.process.pid)
    assert deployment.process.returncode == -signal.SIGKILL


def test_a_simulator_that_was_killed_is_lost(deployment: SimDeployment) -> None:
    check_standing(deployment)
    deployment.process.kill()
    deployment.process.wait(10)
    with pytest.raises(DeployError, match=rf"{CELL.id}: the deployment was lost: its process was killed by SIGKILL"):
        check_standing(deployment)


def test_a_spec_that_the_simulator_refuses_is_told_at_once_with_its_log() -> None:
    variant = replace(CELL.variant, name="vast", engine_args={"max-model-len": 100_000_000})
    started = monotonic()
    with pytest.raises(DeployError) as caught:
        SimTarget(ready_timeout_s=60.0).deploy(replace(CELL, variant=variant), lambda _: None)
    assert monotonic() - started < 20.0
    text = str(caught.value)
    assert "the simulator did not start: its process ended with status 4" in text
    assert "log tail:" in text
    assert "max_model_len" in text
    assert "Waited" not in text


def test_a_simulator_that_is_not_ready_in_time_is_ended() -> None:
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    before = children.read_text().split() if children.exists() else []
    with pytest.raises(DeployError, match=r"Waited 1ms; --llmperf-ready-timeout sets more\."):
        SimTarget(ready_timeout_s=0.001).deploy(CELL, lambda _: None)
    assert (children.read_text().split() if children.exists() else []) == before


def test_files_of_the_working_directory_shadow_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "random.py").write_text("raise SystemExit('the user has a random.py')")
    monkeypatch.chdir(tmp_path)
    deployment = SimTarget(ready_timeout_s=30.0).deploy(CELL, lambda _: None)
    deployment.close()
    assert deployment.endpoint.simulated
