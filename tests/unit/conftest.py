"""What several units' tests are held against."""

from __future__ import annotations

import os
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def reference() -> ModuleType:
    """An implementation without numpy or scipy; skips where it is not at hand."""
    shared = os.environ.get("LLMPERF_SHARED")
    file = (Path(shared) if shared else Path(__file__).resolve().parents[3] / "shared") / "reference" / "sequential_verdict.py"
    if not file.is_file():
        pytest.skip(
            "no reference implementation here; LLMPERF_SHARED names the folder that holds reference/sequential_verdict.py"
        )
    spec = spec_from_file_location("sequential_verdict", file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
