"""Real sessions of pytest in a folder of their own, with real simulators."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

import pytest

pytest_plugins = ["pytester"]

Sessions = Callable[..., pytest.RunResult]


@pytest.fixture
def llmperf(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Sessions:
    """Run pytest in the pytester's folder as a user would: a process of its own, 80 columns, no terminal."""
    for name in list(os.environ):
        if name.startswith(("LLMPERF_", "PYTEST_", "GITHUB_")) or name == "PYTHONUNBUFFERED":
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: str) -> pytest.RunResult:
        result = pytester.runpytest_subprocess("-p", "no:cacheprovider", *arguments, timeout=120)
        text = result.stdout.str() + result.stderr.str()
        assert not re.search(r"INTERNALERROR|Exception ignored", text), text
        return result

    return run
