"""``pytest-llmperf list``, ``compare`` and ``trend``: what was saved, and how it went from one session to the next."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_llmperf.cli.status import INCOMPARABLE, OK, REGRESSED
from pytest_llmperf.errors import ConfigError, UnitError, Where, nearest

if TYPE_CHECKING:
    from rich.console import Console

    from pytest_llmperf.metrics import MetricKey
    from pytest_llmperf.report.results_v2 import RunDocument
    from pytest_llmperf.report.saved import Saved

_STORAGE = ".llmperf"


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare ``list``, ``compare`` and ``trend``."""
    listed = commands.add_parser("list", help="the saved sessions, oldest first")
    listed.add_argument("--runs", action="store_true", help="instead every single run that lies in the storage")
    listed.set_defaults(run=_list)
    compare = commands.add_parser(
        "compare",
        help="hold one session against another, test by test",
        description=f"Exit status: {REGRESSED} when a metric of --fail regressed; else {INCOMPARABLE} when something could not "
        f"be compared; else {OK}. A and B are names of saved sessions, their numbers, 'latest', or paths of results JSON files.",
    )
    compare.add_argument("baseline", metavar="A", help="the baseline")
    compare.add_argument("candidate", metavar="B", help="what is held against it")
    compare.add_argument(
        "--fail",
        action="append",
        default=[],
        metavar="EXPR",
        help="what may be worse by how much: ttft_p99:10%%, output_tokens_per_s:5%% (repeatable) [nothing is gated]",
    )
    compare.set_defaults(run=_compare)
    trend = commands.add_parser("trend", help="how the metrics went over the saved sessions of a name")
    trend.add_argument("name", metavar="NAME", help="of the saved sessions; '*' stands for anything: 'main*'")
    trend.add_argument(
        "--metric", action="append", default=[], metavar="KEY", help="ttft_p95, goodput, … (repeatable) [the usual five]"
    )
    trend.add_argument("--test", default="", metavar="TEXT", help="only tests and cells whose name contains this")
    trend.set_defaults(run=_trend)
    for command in (listed, compare, trend):
        add_storage(command)


def add_storage(command: argparse.ArgumentParser) -> None:
    """Declare where runs and saved sessions lie, which ``storage_of`` reads."""
    command.add_argument(
        "--storage", type=Path, metavar="DIR", help=f"where runs and sessions lie [LLMPERF_STORAGE, else {_STORAGE}]"
    )


def storage_of(options: argparse.Namespace) -> Path:
    """The storage that was named, or the usual one. Raises ``ConfigError`` for one that was named and is not there."""
    for named, place in ((options.storage, "--storage"), (os.environ.get("LLMPERF_STORAGE"), "LLMPERF_STORAGE")):
        if named:
            storage = Path(named).expanduser()
            if not storage.is_dir():
                raise ConfigError(f"there is no directory {str(named)!r}", where=Where(option=place))
            return storage
    return Path(_STORAGE)


def console() -> Console:
    """Where a command's answer goes: coloured in a terminal, plain text when it is piped."""
    from rich import console as rich

    class Console(rich.Console):
        """Ends in silence when whoever reads along (head, less) has seen enough."""

        def on_broken_pipe(self) -> None:
            """Rich would end with status 1 here, which means a regression."""
            with suppress(SystemExit):
                super().on_broken_pipe()

    return Console(highlight=False, soft_wrap=True)


def _list(options: argparse.Namespace) -> int:
    from pytest_llmperf.report.listing import runs_table, sessions_table
    from pytest_llmperf.report.saved import saved_sessions

    storage, out, now = storage_of(options), console(), datetime.now(UTC)
    if options.runs:
        runs = _stored_runs(storage)
        out.print(runs_table(runs, now, out.width) if runs else f"no runs in {storage / 'runs'}")
        return OK
    sessions = _readable(saved_sessions(storage))
    if sessions:
        out.print(sessions_table(sessions, now, out.width))
    else:
        out.print(f"no sessions in {storage / 'saved'}; pytest --llmperf-save=NAME saves one")
    return OK


def _stored_runs(storage: Path) -> list[RunDocument]:
    from pytest_llmperf.report.saved import Saved

    paths = sorted((storage / "runs").glob("*/run.json"))
    return [run for each in _readable(Saved(None, str(path), path) for path in paths) for run in each.document.runs]


def _readable(sessions: Iterable[Saved]) -> list[Saved]:
    """Those that can be read; the others are told of and passed over."""
    found = []
    for saved in sessions:
        try:
            _ = saved.document
        except ConfigError as error:
            print(f"pytest-llmperf: passed over: {error}", file=sys.stderr)
        else:
            found.append(saved)
    return found


def _compare(options: argparse.Namespace) -> int:
    from pytest_llmperf.judge.tolerance import parse_tolerances
    from pytest_llmperf.report.comparison import check_measured
    from pytest_llmperf.report.saved import find_saved
    from pytest_llmperf.report.session_comparison import compare_saved

    texts = [text.strip() for given in options.fail for text in given.split(",")]
    fail = Where(option="--fail")
    tolerances = parse_tolerances(texts, fail)
    storage = storage_of(options)
    baseline = find_saved(storage, options.baseline, Where(option="A"))
    candidate = find_saved(storage, options.candidate, Where(option="B"))
    for key in tolerances:
        check_measured(key, baseline.document.runs, baseline.label, fail)
    compared = compare_saved(baseline, candidate, tolerances)
    console().print(compared.text(), markup=False)
    return REGRESSED if compared.regressed else INCOMPARABLE if compared.incomparable else OK


def _trend(options: argparse.Namespace) -> int:
    from pytest_llmperf.report.trend import DEFAULT_KEYS, histories, trend_table

    keys = _keys(options.metric) or DEFAULT_KEYS
    found = histories(_readable(_named(storage_of(options), options.name)))
    chosen = [history for history in found if options.test in history.title]
    if not chosen:
        known = sorted({history.title for history in found})
        raise ConfigError(
            f"no test's name contains {options.test!r}",
            where=Where(option="--test"),
            hint="\n  ".join(("The tests are:", *known)) if known else "No saved session can be read.",
        )
    out = console()
    out.print(trend_table(chosen, keys, out.width))
    return OK


def _named(storage: Path, name: str) -> list[Saved]:
    """The saved sessions of this name or pattern, oldest first. Raises ``ConfigError`` with the nearest name for none."""
    from pytest_llmperf.report.saved import saved_sessions

    known = saved_sessions(storage)
    found = [saved for saved in known if fnmatchcase(saved.name, name)]
    if found:
        return found
    if not known:
        raise ConfigError(f"no session is saved in {storage / 'saved'}", hint="Save one first: pytest --llmperf-save=NAME.")
    names = list(dict.fromkeys(saved.name for saved in reversed(known)))
    close = nearest(name, names)
    meant = f"Did you mean {close!r}? " if close else ""
    more = f", and {len(names) - 5} more" if len(names) > 5 else ""
    raise ConfigError(
        f"no saved session is named {name!r}", where=Where(option="NAME"), hint=f"{meant}Names: {', '.join(names[:5])}{more}."
    )


def _keys(texts: Sequence[str]) -> tuple[MetricKey, ...]:
    from pytest_llmperf.metrics import metric_key

    try:
        return tuple(dict.fromkeys(metric_key(text.strip()) for given in texts for text in given.split(",")))
    except UnitError as error:
        raise ConfigError(str(error), where=Where(option="--metric")) from None
