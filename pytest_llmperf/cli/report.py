"""``pytest-llmperf report``: runs that were measured before, as tables, files, plots and one page of HTML."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import time
from typing import TYPE_CHECKING

from pytest_llmperf.cli.results import add_storage, console, storage_of
from pytest_llmperf.cli.status import OK, drop_output
from pytest_llmperf.errors import ConfigError, LlmperfError, UnitError, Where

if TYPE_CHECKING:
    from pytest_llmperf.metrics import MetricKey
    from pytest_llmperf.report.found_runs import FoundRun, FoundRuns
    from pytest_llmperf.report.plots import Drawn
    from pytest_llmperf.report.plots.style import Format
    from pytest_llmperf.report.results_v2 import RunDocument, SessionDocument

_STDOUT = "-"
_TO_STDOUT = ("csv", "json", "markdown")
"""The files that standard output can take as well."""
_RUNS = Where(option="RUNS")
_NAMED = 3
"""So many runs are named that something is said of."""
_DESCRIPTION = """\
RUNS are ids of runs or their beginnings, directories of runs, run.json files, results JSON files of sessions, and saved sessions
('latest', a name, a number), as many as you like. Without RUNS: the newest 50 runs of the storage, whichever sessions made them.
A table is printed, unless something else is written to standard output.
"""


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare ``report``."""
    report = commands.add_parser("report", help="tables, CSV, plots, HTML of runs that were measured", description=_DESCRIPTION)
    report.add_argument("runs", nargs="*", metavar="RUNS", help="which runs [the newest 50 of the storage]")
    add_storage(report)
    table = report.add_argument_group("the table")
    table.add_argument("--group-by", default="cell", metavar="WHAT", help="cell, workload, test, hardware, model [%(default)s]")
    table.add_argument("--sort", default="name", metavar="KEY", help="a metric (ttft_p99), best first [by name]")
    table.add_argument(
        "--columns", action="append", default=[], metavar="KEYS", help="further metrics, comma-separated: goodput,itl_p99"
    )
    files = report.add_argument_group("files", "PATH is a file, or - for standard output")
    files.add_argument("--csv", metavar="PATH", help="one row a run: every metric with its interval, in base units")
    files.add_argument("--json", metavar="PATH", help="the runs as one results document")
    files.add_argument("--markdown", metavar="PATH", help="a summary in Markdown")
    files.add_argument("--html", metavar="FILE", help="one page for mailing, with the plots in it")
    files.add_argument("--plots", metavar="DIR", help="each run's plots in DIR/RUN_ID/, and an overview, as PNG and SVG")
    files.add_argument(
        "--export",
        action="append",
        default=[],
        metavar="FORMAT=PATH",
        help="for other tools: pytest-benchmark=FILE, llm-d=DIR, openmetrics=FILE (repeatable)",
    )
    report.set_defaults(run=_report)


@dataclass(frozen=True)
class _Asked:
    """The options that need reading, read before any work is done."""

    sort: str
    columns: tuple[MetricKey, ...]
    exports: tuple[tuple[str, Path], ...]
    files: Mapping[str, Path | None]
    """By option (``csv``) where its file, or its directory, is to be; None: standard output."""

    @property
    def tells(self) -> bool:
        """Whether standard output is free for the table."""
        return None not in self.files.values()


def _report(options: argparse.Namespace) -> int:
    from pytest_llmperf.report.found_runs import find_runs

    asked = _asked(options)
    storage = storage_of(options)
    found = find_runs(storage, options.runs, _RUNS, _pass_over)
    runs = [run.document for run in found.runs]
    session = _session(found, runs)
    if asked.tells:
        with _standard_output():
            _print_table(options, asked, session)
            if found.note:
                print(found.note)
    _write_texts(asked, session)
    _write_exports(asked, session, found.runs)
    plots, html = asked.files.get("plots"), asked.files.get("html")
    drawings = _Drawings(found.runs, ("png", "svg") if plots is not None else ("svg",))
    if plots is not None:
        _write_plots(plots, drawings, runs)
    if html is not None:
        _write_html(html, drawings, session)
    for remark in (*_unmeasured(asked, runs), *_unexported(asked, found.runs), *drawings.remarks()):
        print(f"pytest-llmperf: {remark}", file=sys.stderr)
    return OK


def _asked(options: argparse.Namespace) -> _Asked:
    """Raises ``ConfigError`` naming the option, with the nearest valid choice."""
    from pytest_llmperf.report.rows import row_groups

    try:
        row_groups((), options.group_by, None)
    except ConfigError as error:
        raise ConfigError(error.what, where=Where(option="--group-by"), hint=error.hint) from None
    if options.sort != "name":
        _keys([options.sort], "--sort")
    columns, exports = _keys(options.columns, "--columns"), tuple(_exports(options.export))
    return _Asked(options.sort, columns, exports, _files(options))


def _files(options: argparse.Namespace) -> dict[str, Path | None]:
    """Where each file is to be, by option. Raises ``ConfigError`` where that can be known to be wrong."""
    given = {name: getattr(options, name) for name in (*_TO_STDOUT, "html", "plots")}
    files: dict[str, Path | None] = {}
    for name, text in given.items():
        place = Where(option=f"--{name}")
        if text == "":
            raise ConfigError("needs a path", where=place)
        if text == _STDOUT:
            if name not in _TO_STDOUT:
                raise _no_stdout(place)
            files[name] = None
        elif text is not None:
            path = files[name] = Path(text).expanduser()
            _check_place(path, is_file=name != "plots", place=place)
    to_stdout = [f"--{name}" for name, path in files.items() if path is None]
    if len(to_stdout) > 1:
        raise ConfigError(
            f"{' and '.join(to_stdout)} cannot both be written to standard output", where=Where(option=to_stdout[1])
        )
    return files


def _check_place(path: Path, *, is_file: bool, place: Where) -> None:
    """Raises ``ConfigError`` where a file, or files into a directory, cannot be written."""
    from pytest_llmperf.report.writable import refusal

    if (why := refusal(path, is_file=is_file)) is not None:
        raise ConfigError(why, where=place, hint="Name a file." if is_file else "Name a directory, which is made where needed.")


def _no_stdout(place: Where) -> ConfigError:
    what = f"cannot be written to standard output: only {', '.join(f'--{name}' for name in _TO_STDOUT)} can"
    return ConfigError(what, where=place, hint="Name a file, or ./- for one of that name.")


def _keys(texts: Sequence[str], option: str) -> tuple[MetricKey, ...]:
    from pytest_llmperf.metrics import metric_key

    names = [text.strip() for given in texts for text in given.split(",") if text.strip()]
    try:
        return tuple(dict.fromkeys(map(metric_key, names)))
    except UnitError as error:
        raise ConfigError(str(error), where=Where(option=option)) from None


def _exports(texts: Sequence[str]) -> Iterator[tuple[str, Path]]:
    from pytest_llmperf.errors import unknown
    from pytest_llmperf.report.exports import FORMATS, LLM_D, check_target

    place = Where(option="--export")
    for text in texts:
        form, equals, path = text.partition("=")
        if form not in FORMATS:
            raise unknown("export format", form, FORMATS, place)
        if not equals or not path:
            raise ConfigError(f"{text!r} names no path", where=place, hint=f"Write {form}=PATH.")
        if path == _STDOUT:
            raise _no_stdout(place)
        target = Path(path).expanduser()
        check_target(form, target, place)
        _check_place(target, is_file=form != LLM_D, place=place)
        yield form, target


def _pass_over(error: ConfigError) -> None:
    print(f"pytest-llmperf: passed over: {error}", file=sys.stderr)


def _print_table(options: argparse.Namespace, asked: _Asked, session: SessionDocument) -> None:
    from pytest_llmperf.report.answers import fast_enough
    from pytest_llmperf.report.client_health import client_lines
    from pytest_llmperf.report.comparison_table import comparison_lines
    from pytest_llmperf.report.server_part import bottleneck_lines
    from pytest_llmperf.report.tables import DEFAULT_KEYS, summary_table, warmup_lines

    out, runs = console(), session.runs
    columns = (*DEFAULT_KEYS, *asked.columns)
    out.print(summary_table(runs, out.width, group_by=options.group_by, sort=asked.sort, columns=columns))
    for lines in (warmup_lines, client_lines, bottleneck_lines, comparison_lines):
        for line in lines(runs, out.width):
            out.print(line, markup=False)
    mark = " (SIMULATED)" if any(run.simulated for run in runs) else ""
    out.print(f"fast enough? {fast_enough(runs)}{mark}", markup=False)
    for error in session.deployment_errors:
        out.print(f"not deployed: {error.cell_id}: {error.error}", markup=False)


def _session(found: FoundRuns, runs: Sequence[RunDocument]) -> SessionDocument:
    """The session that was named, or one that the runs would have made together; its commit is theirs, where they have one."""
    if found.session is not None:
        return found.session
    from pytest_llmperf.report.commit import Commit
    from pytest_llmperf.report.document import session_document

    commits = {(run.configuration.commit, run.configuration.dirty) for run in runs}
    (commit, dirty) = commits.pop() if len(commits) == 1 else (None, False)
    return session_document(
        runs,
        created=time(),
        arguments=(),
        target=", ".join(dict.fromkeys(run.deployment.target for run in runs)),
        simulated=any(run.simulated for run in runs),
        deployment_errors=found.deployment_errors,
        commit=Commit(commit, dirty) if commit is not None else None,
    )


def _write_texts(asked: _Asked, session: SessionDocument) -> None:
    from pytest_llmperf.report.document import to_json
    from pytest_llmperf.report.runs_csv import runs_csv

    if "csv" in asked.files:
        _write(asked.files["csv"], runs_csv(session.runs))
    if "json" in asked.files:
        _write(asked.files["json"], to_json(session))
    if "markdown" in asked.files:
        from pytest_llmperf.report.markdown import markdown

        _write(asked.files["markdown"], markdown(session))


def _write(path: Path | None, text: str) -> None:
    from pytest_llmperf.report.storage import write_atomically

    if path is not None:
        write_atomically(path, text)
        return
    with _standard_output():
        sys.stdout.write(text)


@contextmanager
def _standard_output() -> Iterator[None]:
    """What is written within the block has arrived when it ends. Raises ``LlmperfError`` for a disk that takes no more."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read along has seen enough
        raise
    except OSError as error:
        drop_output()
        raise LlmperfError(f"standard output cannot be written: {error.strerror or error}") from error


def _write_exports(asked: _Asked, session: SessionDocument, runs: Sequence[FoundRun]) -> None:
    from pytest_llmperf.report.exports import write_export

    directories = {run.document.run_id: run.directory for run in runs}
    for form, path in asked.exports:
        write_export(form, path, session, directories)


def _unmeasured(asked: _Asked, runs: Sequence[RunDocument]) -> Iterator[str]:
    """What the table is to be sorted by, or to show, and no run has."""
    wanted = [("--sort", asked.sort)] if asked.sort != "name" else []
    wanted += [("--columns", key.name) for key in asked.columns]
    for option, name in wanted if asked.tells else ():
        if not any(name in run.metrics for run in runs):
            yield f"{option}: no run has {name}"


def _unexported(asked: _Asked, runs: Sequence[FoundRun]) -> Iterator[str]:
    """What the exports say less, since requests are missing."""
    from pytest_llmperf.report.exports import WITHOUT_REQUESTS
    from pytest_llmperf.report.storage import REQUESTS

    forms = [form for form in dict.fromkeys(form for form, _ in asked.exports) if form in WITHOUT_REQUESTS]
    missing = [run.document.run_id for run in runs if run.directory is None or not (run.directory / REQUESTS).is_file()]
    for form in forms if missing else ():
        yield f"{form}: the requests of {_some(missing)} were not found: {WITHOUT_REQUESTS[form]}"


def _some(run_ids: Sequence[str]) -> str:
    """The first few, and how many more."""
    more = f" and {len(run_ids) - _NAMED} more" if len(run_ids) > _NAMED else ""
    return f"{', '.join(run_ids[:_NAMED])}{more}"


@dataclass
class _Drawings:
    """Each run's plots, drawn once, whoever asks for them."""

    runs: Sequence[FoundRun]
    formats: Sequence[Format]
    _drawn: dict[str, Drawn] = field(default_factory=dict)

    def of_each(self) -> Iterator[tuple[str, Drawn]]:
        """The runs' ids and plots. Raises ``LlmperfError`` naming the requests that cannot be read."""
        from pytest_llmperf.report.plots import draw_run, requests_in

        for run in self.runs:
            run_id = run.document.run_id
            if run_id not in self._drawn:
                self._drawn[run_id] = draw_run(run.document, requests_in(run.directory), self.formats)
            yield run_id, self._drawn[run_id]

    def remarks(self) -> Iterator[str]:
        """What could not be drawn, each reason once."""
        of_reason: dict[str, list[str]] = {}
        for run_id, drawn in self._drawn.items():
            for reason in drawn.missing:
                of_reason.setdefault(reason, []).append(run_id)
        for reason, run_ids in of_reason.items():
            yield f"not drawn of {_some(run_ids)}: {reason}"


def _write_plots(directory: Path, drawings: _Drawings, runs: Sequence[RunDocument]) -> None:
    from pytest_llmperf.report.plots import OVERVIEW, write_overview_plot, write_plots
    from pytest_llmperf.report.storage import file_name_of

    for run_id, drawn in drawings.of_each():
        write_plots(drawn, directory / file_name_of(run_id))
    for ending in ("png", "svg"):
        write_overview_plot(runs, directory / f"{OVERVIEW}.{ending}")


def _write_html(path: Path, drawings: _Drawings, session: SessionDocument) -> None:
    from pytest_llmperf.report.html import html_report
    from pytest_llmperf.report.plots import OVERVIEW, draw_overview
    from pytest_llmperf.report.storage import write_atomically

    plots = {
        f"{run_id}/{name.removesuffix('.svg')}": content
        for run_id, drawn in drawings.of_each()
        for name, content in drawn.files.items()
        if name.endswith(".svg")
    }
    plots[OVERVIEW] = draw_overview(session.runs, "svg")
    write_atomically(path, html_report(session.runs, plots, session.deployment_errors))
