"""The files that belong to a run in Allure's report: the SLA's table, plots, the document, requests, manifests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

from pytest_llmperf.report.document import to_json
from pytest_llmperf.report.sla_html import sla_html

if TYPE_CHECKING:
    from pathlib import Path

    from _typeshed import ReadableBuffer

    from pytest_llmperf.report.results_v2 import RunDocument

MOST_ROWS = 100_000
"""Of the requests as CSV: some 20 MB. Beyond that a report is too large to be passed on; the Parquet file has them all."""
_PLOTS = {"latency_png": "Latency", "throughput_png": "Throughput"}


@dataclass(frozen=True)
class Attachment:
    """A file: its name, what is in it (or where that lies), its MIME type and extension (without the dot)."""

    name: str
    content: bytes | Path
    mime: str
    extension: str


def run_attachments(run: RunDocument, directory: Path) -> Iterator[Attachment]:
    """A run's files; those that were not written to its ``directory`` are left out. Raises ``OSError``, ``LlmperfError``."""
    if run.sla is not None:
        yield Attachment(f"SLA {run.sla.name}: {run.sla.outcome}", sla_html(run).encode(), "text/html", "html")
    for key, name in _PLOTS.items():
        if (plot := _file(run, directory, key)) is not None:
            yield Attachment(name, plot, "image/png", "png")
    if (stats := _file(run, directory, "stats")) is not None:
        yield Attachment(stats.name, stats, "text/plain", "txt")
    yield Attachment("run.json", to_json(run).encode(), "application/json", "json")
    if (requests := _file(run, directory, "requests")) is not None:
        yield requests_attachment(requests, run.counts.total + run.counts.warmup)
    for number, manifest in enumerate(run.configuration.manifests, 1):
        yield Attachment(f"manifest {number} of {len(run.configuration.manifests)}", manifest.encode(), "text/yaml", "yaml")


def log_attachment(tail: str) -> Attachment:
    """The end of an engine's log, in which the deployment has masked secrets."""
    return Attachment("engine log (its end)", tail.encode(), "text/plain", "txt")


def requests_attachment(source: Path, rows: int, most: int = MOST_ROWS) -> Attachment:
    """The requests in the Parquet file ``source`` as CSV; of more than ``most`` rows the first, and the name says so."""
    from pytest_llmperf.report.requests_file import write_requests_csv

    name = "requests.csv" if rows <= most else f"requests.csv (the first {most:,} of {rows:,})"
    target = _FirstLines(most + 1)  # the heading is a line too
    write_requests_csv(source, target)
    return Attachment(name, target.getvalue(), "text/csv", "csv")


def _file(run: RunDocument, directory: Path, key: str) -> Path | None:
    path = directory / run.artifacts[key] if key in run.artifacts else None
    return path if path is not None and path.is_file() else None


class _FirstLines(BytesIO):
    """Keeps so many lines and passes over the rest."""

    def __init__(self, lines: int) -> None:
        super().__init__()
        self._left = lines

    def write(self, data: ReadableBuffer, /) -> int:
        """Take what is wanted of it; the value is the length of all, as if it were written."""
        text = bytes(data)
        if self._left:
            kept = text.splitlines(keepends=True)[: self._left]
            self._left -= sum(line.endswith(b"\n") for line in kept)
            super().write(b"".join(kept))
        return len(text)
