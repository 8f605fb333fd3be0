"""One real vLLM for all tests, served by the process target; without its environment every test is skipped, and says why."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_llmperf.deploy.process import ProcessDeployment, ProcessTarget
from pytest_llmperf.deploy.sim import SimDeployment, SimTarget
from pytest_llmperf.experiment.catalog import builtin_directory, load_catalog
from pytest_llmperf.experiment.matrix import expand
from pytest_llmperf.experiment.records import Cell
from tests.engine.install import environment, is_complete

pytest_plugins = ["pytester"]

CATALOG_DIRECTORY = Path(__file__).with_name("catalog")
READY_S = 300.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what lies here where there is no vLLM."""
    if is_complete(environment()):
        return
    reason = f"no vLLM for CPU in {environment()}: `make test-engine` installs it"
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def engine_command() -> str:
    """What serves the tiny model, as ``--llmperf-engine-command`` takes it; vLLM keeps what it compiles for the next session."""
    place = environment()
    model = place / "tiny-model"
    subprocess.run([place / "bin" / "python", Path(__file__).with_name("tiny.py"), model], check=True)
    settings = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CACHE_ROOT": str(place / "vllm-cache"),
        "HF_HUB_OFFLINE": "1",
    }
    words = ["env", *(f"{name}={value}" for name, value in settings.items()), str(place / "bin" / "vllm"), "serve", str(model)]
    words += ["--served-model-name={served_model}", "--host={host}", "--port={port}"]
    return shlex.join([*words, "--load-format=dummy", "--max-model-len=4096", "{args}"])


@pytest.fixture(scope="session")
def cell() -> Cell:
    """The tiny model on a CPU."""
    catalog = load_catalog([builtin_directory(), CATALOG_DIRECTORY])
    (only,) = expand(catalog.matrix_named("default"), catalog)
    return only


@pytest.fixture(scope="session")
def vllm(engine_command: str, cell: Cell) -> Iterator[ProcessDeployment]:
    """The real engine."""
    deployment = ProcessTarget(command=engine_command, ready_timeout_s=READY_S).deploy(cell, lambda _: None)
    for phase in deployment.info.phases:
        print(f"vLLM: {phase.name} {phase.seconds:.1f} s")
    yield deployment
    deployment.close()


@pytest.fixture(scope="session")
def simulator(cell: Cell) -> Iterator[SimDeployment]:
    """The simulator of the same cell."""
    deployment = SimTarget(ready_timeout_s=60.0).deploy(cell, lambda _: None)
    yield deployment
    deployment.close()
