"""Runs on disk to draw and report: their documents and requests files, written as a session writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pytest_llmperf.measure.run import Run
from pytest_llmperf.report.document import RunDocument
from pytest_llmperf.report.requests_file import write_requests
from pytest_llmperf.report.storage import write_run
from tests.unit.measure.logs import Asked, streamed
from tests.unit.report.runs import SLA, judged, run_of


def warmed_up(requests: int, warmup: int = 10) -> list[Asked]:
    """Requests every 0.1 s, the first of which are of the warm-up and ten times as slow."""
    return [
        streamed(i / 10, 1.0 if i < warmup else 0.1 + i % 7 / 50, gap_s=0.02, tokens=3, warmup=i < warmup)
        for i in range(requests)
    ]


def store(storage: Path, run: Run, sla: Mapping[str, object] = SLA) -> tuple[Path, RunDocument]:
    """Write a run as the session does; its directory and its document."""
    document = judged(run, sla)
    directory = write_run(storage, document).parent
    write_requests(directory / "requests.parquet", run.result.log)
    return directory, document


def stored(storage: Path, asked: Sequence[Asked], run_id: str = "0123abcd", **of_run: object) -> tuple[Path, RunDocument]:
    """The same of requests."""
    return store(storage, run_of(asked, run_id=run_id, **of_run))  # type: ignore[arg-type]  # as run_of takes them
