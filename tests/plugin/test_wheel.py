"""The wheel alone is enough in somebody else's repository: catalog, manifests, plugin, simulator."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SUITE = """
import pytest
from pytest_llmperf import Load, Sla, concurrency, poisson

pytestmark = pytest.mark.llmperf(workload="classification", sla={"ttft": {"p50": "1s"}, "error_rate": "1%"})

def test_open_loop(load: Load, sla: Sla) -> None:
    assert load(poisson("30/s"), "1s", warmup="200ms").meets(sla)

def test_closed_loop(load: Load, sla: Sla) -> None:
    assert load(concurrency(2), "1s", warmup="200ms").meets(sla)
"""


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, cwd=ROOT)
    (built,) = folder.glob("*.whl")
    return built


def test_wheel_carries_the_catalog_and_the_manifests(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("fixtures", "manifests"):
        shipped = {f"pytest_llmperf/data/{path.relative_to(ROOT)}" for path in (ROOT / folder).rglob("*") if path.is_file()}
        assert shipped
        assert shipped <= names
    assert {"pytest_llmperf/py.typed", "pytest_llmperf/report/templates/report.html.j2"} <= names


def test_wheel_works_in_another_repository(wheel: Path, tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel, cwd=tmp_path)
    suite = tmp_path / "repository"
    suite.mkdir()
    (suite / "test_mine.py").write_text(SUITE)
    output = run(python, "-m", "pytest", "-k", "h100", "--llmperf-json=out.json", cwd=suite)
    assert "2 passed" in output
    assert "SIMULATED" in output
    assert (suite / "out.json").is_file()
