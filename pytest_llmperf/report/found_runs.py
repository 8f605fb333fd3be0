"""Which runs a person means: by id, by directory, by results file, by the name of a saved session; or the newest of a storage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_llmperf.errors import ConfigError, LlmperfError, Where, nearest
from pytest_llmperf.report.saved import LATEST, Saved, find_saved, saved_sessions
from pytest_llmperf.report.storage import run_directory

if TYPE_CHECKING:
    from pytest_llmperf.report.results_v2 import DeploymentErrorPart, RunDocument, SessionDocument

NEWEST = 50
"""How many runs are taken where nobody names any."""
_SHORTEST_PREFIX = 4
_LISTED = 5


@dataclass(frozen=True)
class FoundRun:
    """A run, and the directory in which its requests lie; None where that is not known."""

    document: RunDocument
    directory: Path | None


@dataclass(frozen=True)
class FoundRuns:
    """``session`` is the one session that was named, where nothing else was."""

    runs: tuple[FoundRun, ...]
    session: SessionDocument | None = None
    deployment_errors: tuple[DeploymentErrorPart, ...] = ()
    """Of all sessions that were named, each once: cells that nothing could be measured of."""
    note: str = ""
    """Which runs of a storage were left out."""


def find_runs(storage: Path, names: Sequence[str], where: Where, pass_over: Callable[[ConfigError], None]) -> FoundRuns:
    """The runs that are asked for, in that order, each once; without ``names`` the ``NEWEST`` of the storage, oldest first.

    A name is a run's directory or a storage, a results JSON (a session's, or a ``run.json``), a saved session (``latest``, name,
    number), or a run's id or its beginning. Of a storage what cannot be read is told to ``pass_over``. Raises ``ConfigError`` at
    ``where`` with the nearest name, or naming the file that cannot be read.
    """
    if not names:
        return _newest(storage, pass_over)
    found = [_named(storage, name, where, pass_over) for name in names]
    runs: dict[str, FoundRun] = {}
    for run in (run for each in found for run in each.runs):
        known = runs.setdefault(run.document.run_id, run)
        if known.directory is None:
            runs[run.document.run_id] = replace(known, directory=run.directory)
    errors = tuple(dict.fromkeys(error for each in found for error in each.deployment_errors))
    return FoundRuns(tuple(runs.values()), found[0].session if len(found) == 1 else None, errors)


def _named(storage: Path, name: str, where: Where, pass_over: Callable[[ConfigError], None]) -> FoundRuns:
    path = Path(name).expanduser()
    if (path / "run.json").is_file():
        return FoundRuns((_run_in(path),))
    if (path / "runs").is_dir():
        return FoundRuns(tuple(_in_order(_readable(_directories(path), pass_over))))
    if "/" not in name and path.suffix != ".json":
        if _is_saved(storage, name):
            return _of_session(storage, find_saved(storage, name, where))
        # What lies where the command is run may have the name of a run or a session: those come first.
        if not (name and path.exists()) or _ids(storage, name):
            return FoundRuns((_run_in(_directory_of(storage, name, where)),))
    return _at_path(storage, name, path, where)


def _at_path(storage: Path, name: str, path: Path, where: Where) -> FoundRuns:
    """The runs of the results file that lies there. Raises ``ConfigError`` saying what is there instead, or is not."""
    if path.is_dir():
        inside = sorted(str(each.parent) for each in path.glob("*/runs"))
        hint = f"There are runs in {_some(inside)}." if inside else None
        raise ConfigError(f"the directory {name!r} holds neither a run.json nor runs", where=where, hint=hint)
    if path.is_file():
        found = Saved(None, name, path)
        if not found.document.runs:
            raise ConfigError("holds no runs", where=Where(file=name), hint=f"It was asked for at {where}.")
        return _of_session(storage, found)
    if path.exists():
        raise ConfigError(f"{name!r} is neither a directory nor a file", where=where)
    raise ConfigError(f"there is no file or directory {name!r}", where=where, hint=_beside(path))


def _beside(path: Path) -> str | None:
    """What lies there under a name that is nearly the same."""
    if not path.parent.is_dir():
        return f"There is no directory {str(path.parent)!r} either."
    try:
        close = nearest(path.name, {each.name for each in path.parent.iterdir() if each.suffix == ".json" or each.is_dir()})
    except OSError:  # not ours to look into
        return None
    return f"Did you mean {str(path.with_name(close))!r}?" if close else None


def _is_saved(storage: Path, name: str) -> bool:
    return name == LATEST or any(
        name in (saved.name, saved.label) or (name.isdecimal() and int(name) == saved.number) for saved in saved_sessions(storage)
    )


def _of_session(storage: Path, saved: Saved) -> FoundRuns:
    """The runs of a results file, with their directories where the storage, or the file's own directory, has them."""
    runs = tuple(FoundRun(run, _directory(storage, saved.path, run)) for run in saved.document.runs)
    session = saved.document if saved.path.name != "run.json" else None
    return FoundRuns(runs, session, saved.document.deployment_errors)


def _directory(storage: Path, path: Path, run: RunDocument) -> Path | None:
    if path.name == "run.json":
        return path.parent
    try:
        directory = run_directory(storage, run.run_id)
    except ValueError:  # no id that we give
        return None
    return directory if directory.is_dir() else None


def _directory_of(storage: Path, name: str, where: Where) -> Path:
    """Where the run lies whose id is ``name`` or begins with it, as that of no other. Raises ``ConfigError``."""
    found = _ids(storage, name)
    if len(found) == 1:
        return storage / "runs" / found[0]
    if found:
        raise ConfigError(f"{name!r} is the beginning of {len(found)} runs' ids", where=where, hint=f"They are {_some(found)}.")
    known = _known_ids(storage)
    if name and any(each.startswith(name) for each in known):
        what = f"of a run's id the first {_SHORTEST_PREFIX} characters or more are needed, and {name!r} has {len(name)}"
        beginning = [each for each in known if each.startswith(name)]
        raise ConfigError(what, where=where, hint=f"Runs that begin so: {_some(beginning)}.")
    saved = [each.name for each in saved_sessions(storage)]
    close = nearest(name, {*known, *saved})
    meant = f"Did you mean {close!r}? " if close else ""
    what = f"Runs in {storage / 'runs'}: {_some(known)}. " if known else f"There are no runs in {storage / 'runs'}. "
    sessions = f"Saved sessions: {_some(list(dict.fromkeys(saved)))}." if saved else "No session is saved."
    raise ConfigError(f"there is no run or saved session {name!r}", where=where, hint=f"{meant}{what}{sessions}")


def _ids(storage: Path, name: str) -> list[str]:
    """The ids of runs that are ``name``, or begin with it, where it is long enough for that."""
    known = _known_ids(storage)
    exact = [each for each in known if each == name]
    return exact or [each for each in known if len(name) >= _SHORTEST_PREFIX and each.startswith(name)]


def _known_ids(storage: Path) -> list[str]:
    return [path.name for path in _directories(storage)]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _newest(storage: Path, pass_over: Callable[[ConfigError], None]) -> FoundRuns:
    directories = _directories(storage)
    runs = _in_order(_readable(directories[-NEWEST:], pass_over))
    if not runs:
        raise ConfigError(
            f"there are no runs in {storage / 'runs'}",
            hint="A pytest session writes them there (pytest suites/ -k h100); --storage names another place.",
        )
    left_out = len(directories) - NEWEST
    note = (
        f"the newest {NEWEST} of {len(directories)} runs in {storage / 'runs'}; name those that you want" if left_out > 0 else ""
    )
    return FoundRuns(tuple(runs), note=note)


def _directories(storage: Path) -> list[Path]:
    """Those of a storage's runs, in the order in which they were written last. Raises ``LlmperfError`` when it cannot be read.

    A storage may have thousands of runs, so they are put in order without being read.
    """
    try:
        found = [(path.stat().st_mtime_ns, path.parent) for path in (storage / "runs").glob("*/run.json")]
    except OSError as error:
        raise LlmperfError(f"cannot be read: {error.strerror or error}", where=Where(file=str(storage / "runs"))) from error
    return [directory for _, directory in sorted(found)]


def _readable(directories: Sequence[Path], pass_over: Callable[[ConfigError], None]) -> Iterator[FoundRun]:
    for directory in directories:
        try:
            yield _run_in(directory)
        except ConfigError as error:
            pass_over(error)


def _in_order(runs: Iterator[FoundRun]) -> list[FoundRun]:
    return sorted(runs, key=lambda run: datetime.fromisoformat(run.document.timing.started_at))


def _run_in(directory: Path) -> FoundRun:
    path = directory / "run.json"
    runs = Saved(None, str(path), path).document.runs
    if len(runs) != 1:
        raise ConfigError("is not the document of one run", where=Where(file=str(path)))
    return FoundRun(runs[0], directory)
