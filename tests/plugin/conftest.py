"""Real sessions of pytest in a folder of their own, with real simulators."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

import pytest

from tests.disturbed import SAID

pytest_plugins = ["pytester"]

Sessions = Callable[..., pytest.RunResult]
OURS = [f"-pno:{name}" for name in ("cacheprovider", "anyio", "benchmark", "hypothesispytest", "rerunfailures", "timeout")]
"""What the tests of this project have installed, and whoever installs the plugin has not."""


@pytest.fixture(autouse=True)
def _nobodys_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions that a test starts are not those of the worker that it runs on itself."""
    for name in list(os.environ):
        if name.startswith("PYTEST_XDIST_"):
            monkeypatch.delenv(name)


@pytest.fixture
def llmperf(request: pytest.FixtureRequest, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Sessions:
    """Run pytest in the pytester's folder as a user would: a process of its own, 80 columns, no terminal."""
    for name in list(os.environ):
        if name.startswith(("LLMPERF_", "PYTEST_", "GITHUB_")) or name == "PYTHONUNBUFFERED":
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "80")
    said = request.node.stash[SAID] = []

    def run(*arguments: str) -> pytest.RunResult:
        result = pytester.runpytest_subprocess(*OURS, *arguments, timeout=120)
        text = result.stdout.str() + result.stderr.str()
        said.append(text)
        assert not re.search(r"INTERNALERROR|Exception ignored", text), text
        return result

    return run
