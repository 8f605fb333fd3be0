"""Which plots a run has and where they lie: ``latency_analysis`` and ``throughput_analysis``, each as PNG and SVG."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pytest_llmperf.errors import ConfigError, Where
from pytest_llmperf.report.document import RunDocument, from_json
from pytest_llmperf.report.plots.latency import latency_figure
from pytest_llmperf.report.plots.overview import overview_figure
from pytest_llmperf.report.plots.samples import COLUMNS, Ecdf, latency_ecdfs
from pytest_llmperf.report.plots.style import FORMATS, Format, encoded, styled
from pytest_llmperf.report.plots.throughput import throughput_figure
from pytest_llmperf.report.storage import REQUESTS, file_in_place

LATENCY, THROUGHPUT, OVERVIEW = "latency_analysis", "throughput_analysis", "overview"


@dataclass(frozen=True)
class Drawn:
    """The plots of one run, by file name (``latency_analysis.svg``); ``missing`` says what could not be drawn, and why."""

    files: dict[str, bytes] = field(default_factory=dict)
    missing: tuple[str, ...] = ()


def draw_run(document: RunDocument, requests: Path | None, formats: Collection[Format] = FORMATS) -> Drawn:
    """Draw a run from its document, and from its requests file where there is one. Raises ``LlmperfError`` naming that file."""
    ecdfs = _ecdfs(document, requests)
    files: dict[str, bytes] = {}
    missing: tuple[str, ...] = () if ecdfs is not None else ("how the latencies are spread: the run's requests were not kept",)
    with styled():
        for name, figure in ((LATENCY, latency_figure(document, ecdfs)), (THROUGHPUT, throughput_figure(document))):
            files |= {f"{name}.{form}": encoded(figure, form) for form in FORMATS if figure is not None and form in formats}
    if document.series is None:
        missing += ("anything over time: the run was measured by a version that kept no series",)
    return Drawn(files, missing)


def write_plots(drawn: Drawn, directory: Path) -> tuple[Path, ...]:
    """Write each file whole or not at all. Raises ``LlmperfError`` naming the one that the disk refuses."""
    for name, content in drawn.files.items():
        _write(directory / name, content)
    return tuple(directory / name for name in drawn.files)


def write_run_plots(directory: Path, formats: Collection[Format] = FORMATS) -> tuple[Path, ...]:
    """Draw the run whose ``run.json`` and ``requests.parquet`` lie in ``directory``, and put the plots beside them.

    Without the requests there are only the plots over time; without a series either there are none, and nothing is written.
    Raises ``LlmperfError`` (``ConfigError`` for a document that cannot be read) naming the file.
    """
    path = directory / "run.json"
    try:
        document = from_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror or error}", where=Where(file=str(path))) from None
    except ValueError as error:
        raise ConfigError(f"is no results document: {error}", where=Where(file=str(path))) from None
    if not isinstance(document, RunDocument):
        raise ConfigError("is the document of a session, not of a run", where=Where(file=str(path)))
    return write_plots(draw_run(document, requests_in(directory), formats), directory)


def requests_in(directory: Path | None) -> Path | None:
    """A run's requests file, where it was kept."""
    path = directory / REQUESTS if directory is not None else None
    return path if path is not None and path.is_file() else None


def draw_overview(documents: Sequence[RunDocument], form: Format) -> bytes:
    """Latency against throughput, one point a run, as a file's content."""
    with styled():
        return encoded(overview_figure(documents), form)


def write_overview_plot(documents: Sequence[RunDocument], path: Path) -> None:
    """The same in a file; ``.png`` or ``.svg`` says which. Raises ``ConfigError`` for another ending."""
    for form in FORMATS:
        if path.suffix == f".{form}":
            _write(path, draw_overview(documents, form))
            return
    raise ConfigError(f"{path.name!r} is no picture that can be drawn", where=Where(file=str(path)), hint="Known: .png, .svg.")


def _ecdfs(document: RunDocument, requests: Path | None) -> dict[str, Ecdf] | None:
    if requests is None:
        return None
    from pytest_llmperf.report.requests_file import read_requests

    return latency_ecdfs(read_requests(requests, COLUMNS), document)


def _write(path: Path, content: bytes) -> None:
    with file_in_place(path) as file:
        file.write(content)
