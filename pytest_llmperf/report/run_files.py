"""What lies beside a run's ``run.json``: its requests, and a page that a person reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pytest_llmperf.report.requests_file import about_run, write_requests, write_requests_csv
from pytest_llmperf.report.stats import stats_text
from pytest_llmperf.report.storage import REQUESTS, REQUESTS_CSV, STATS, write_atomically

if TYPE_CHECKING:
    from pytest_llmperf.load.records import RequestLog
    from pytest_llmperf.report.results_v2 import RunDocument


def write_beside(directory: Path, document: RunDocument, log: RequestLog | None = None, *, requests_csv: bool = False) -> None:
    """Write a run's ``stats.txt``; where its log is given its requests as Parquet, and as CSV too where that was asked for.

    The smallest first, so that a disk that is full keeps what fits. Raises ``LlmperfError`` naming the first file that the disk
    will not take.
    """
    write_atomically(directory / STATS, stats_text(document))
    if log is not None:
        write_requests(directory / REQUESTS, log, about_run(document))
        if requests_csv:
            write_requests_csv(directory / REQUESTS, directory / REQUESTS_CSV)
