"""Saved sessions to list, compare and follow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pytest_llmperf.report.commit import Commit
from pytest_llmperf.report.document import RunDocument, session_document
from pytest_llmperf.report.saved import Saved, save_session
from tests.unit.report.runs import answered, cell, judged, run_of

NOON = 1_750_000_000.0
"""2025-06-15, 15:06:40 UTC."""
CONDITIONS = {"target": "sim", "hardware": "h100", "engine max-num-seqs": "128", "profile": "poisson 10/s"}


def measured(
    scale: float = 1.0,
    *,
    hardware: str = "h100",
    run_id: str = "0123abcd",
    simulated: bool = True,
    test: str = "test_meets_sla",
    conditions: Mapping[str, str] = CONDITIONS,
    engine: str = "vLLM 0.32.0",
) -> RunDocument:
    """A run whose latencies are ``scale`` times those of the others, with all that a comparison asks for."""
    run = run_of(answered(300, scale=scale), of=cell(hardware), run_id=run_id, simulated=simulated, test=test)
    changed = {"fingerprint": {**conditions, "hardware": hardware}, "context": {"engine version": engine}}
    return judged(run, {"ttft": {"p50": "1s"}}).model_copy(update=changed)


def save(storage: Path, name: str, *runs: RunDocument, days: float = 0, commit: Commit | None = None) -> Saved:
    """Save a session so many days after the first."""
    return save_session(
        storage,
        name,
        session_document(
            runs, created=NOON + days * 86400, arguments=[], target="sim", simulated=any(r.simulated for r in runs), commit=commit
        ),
    )
