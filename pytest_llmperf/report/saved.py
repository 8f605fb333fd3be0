"""Saved sessions, the baselines on disk: ``<storage>/saved/0001_NAME.json``. Which run may be in one, and finding one again."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from pytest_llmperf.errors import ConfigError, Where, nearest
from pytest_llmperf.report.commit import short_commit
from pytest_llmperf.report.comparison import flaw, matching, regressed, run_key, test_key
from pytest_llmperf.report.document import SessionDocument, from_json, to_json
from pytest_llmperf.report.storage import numbered_files, write_numbered

if TYPE_CHECKING:
    from pytest_llmperf.report.commit import Commit
    from pytest_llmperf.report.results_v2 import RunDocument

LATEST = "latest"
"""Asks for the newest saved session, whatever its name."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
_TAKEN_FOR_SOMETHING_ELSE = re.compile(r"\d+|\d+_.*|.*\.(json|py)|" + LATEST)
_SAVE_FIRST = "Save one first: pytest --llmperf-save=NAME."


@dataclass(frozen=True)
class Saved:
    """A saved session. Its document is read when it is first asked for."""

    number: int | None
    """Counts the saved sessions of a storage; None for a results file that was named by its path."""
    name: str
    """As it was saved; the path as it was given for a results file."""
    path: Path

    @property
    def label(self) -> str:
        """What names this one and no other: ``0003_main``, or the path as it was given."""
        return self.name if self.number is None else f"{self.number:04d}_{self.name}"

    @cached_property
    def document(self) -> SessionDocument:
        """What was saved. Raises ``ConfigError`` naming the file when it cannot be read."""
        return _read(self.path)


def save_session(storage: Path, name: str, document: SessionDocument) -> Saved:
    """Write ``<storage>/saved/0001_NAME.json`` under the next free number, never over another one.

    Sessions that save at once, also of the same name, all survive. Raises ``ConfigError`` for a name that cannot be one,
    ``LlmperfError`` naming the place when the disk will not.
    """
    number, path = write_numbered(_directory(storage), valid_name(name, Where(key="name")), to_json(document))
    return Saved(number, name, path)


def saved_sessions(storage: Path) -> list[Saved]:
    """All of a storage, oldest first; none are read yet, so that one that is damaged does not hide the others.

    Raises ``LlmperfError`` when the directory itself cannot be read.
    """
    return [Saved(number, name, path) for number, name, path in numbered_files(_directory(storage))]


def find_saved(storage: Path, name: str, where: Where) -> Saved:
    """The saved session that ``name`` asks for; it is there and can be read.

    ``latest`` is the newest, ``main`` the newest of that name, ``3``, ``0003`` and ``0003_main`` the one of that number.
    The path of a results JSON (a session's, or a run's ``run.json``) is taken too. Raises ``ConfigError`` at ``where`` with the
    nearest name, or naming the file that cannot be read.
    """
    path = Path(name).expanduser()
    if path.suffix == ".json" or ("/" in name and path.suffix != ".py" and path.is_file()):
        if not path.is_file():
            raise ConfigError(f"there is no results file {name!r}", where=where, hint=_known_hint(saved_sessions(storage)))
        found = Saved(None, name, path)
    else:
        found = _among(saved_sessions(storage), storage, name, where)
    if not found.document.runs:
        raise ConfigError("holds no runs", where=Where(file=str(found.path)), hint=f"It was asked for at {where}.")
    return found


def older_sessions(storage: Path, found: Saved, asked: str) -> list[Saved]:
    """The sessions that were saved before under the name of ``found``, newest first; none are read yet.

    Only where a name ``asked`` for it, or ``latest``: what was chosen by its number or its path stands alone.
    """
    if found.number is None or asked not in (found.name, LATEST):
        return []
    known = saved_sessions(storage)
    before = [saved for saved in known if saved.number is not None and saved.number < found.number and saved.name == found.name]
    return before[::-1]


@dataclass(frozen=True)
class Source:
    """Runs to compare with, and the label of the saved session that they are of."""

    label: str
    runs: tuple[RunDocument, ...]


@dataclass
class History:
    """A saved session and those of its name before it: what the newest has no run of was last measured in one of these.

    A test that fails, is interrupted or is not selected is left out of the session that is saved; it is still to be compared
    with its last good run. Older sessions are read one by one, only while something is missing; one that cannot be read is told
    to ``pass_over``.
    """

    newest: Source
    older: Iterable[Saved]
    """Newest first; none are read yet."""
    pass_over: Callable[[ConfigError], None]

    def __post_init__(self) -> None:
        self._unread = iter(self.older)
        self._last: dict[tuple[str, str] | tuple[str, str, int], Source] = {}
        self._add(self.newest)

    def source(self, test: str, cell_id: str, ordinal: int | None = None) -> Source:
        """Where a test (its key) was last measured in a cell, and there the same of its loads; the newest, where it never was.

        Raises what ``pass_over`` raises.
        """
        wanted = (test, cell_id) if ordinal is None else (test, cell_id, ordinal)
        while wanted not in self._last and (saved := next(self._unread, None)) is not None:
            try:
                runs = _read(saved.path).runs
            except ConfigError as error:
                self.pass_over(error)
                continue
            # What a newer session has as well is not kept: there may be years of them.
            self._add(Source(saved.label, tuple(run for run in runs if _question(run) not in self._last)))
        return self._last.get(wanted) or self._last.get((test, cell_id), self.newest)

    def source_for(self, run: RunDocument) -> Source:
        """What a run is compared with: where the same of its test's loads was last measured, if that can be compared.

        A load in the same place may have been another one, given up since. Raises what ``pass_over`` raises.
        """
        test, cell_id, ordinal = _question(run)
        source = self.source(test, cell_id, ordinal)
        if source is self.newest or matching(source.runs, run).runs:
            return source
        return self.source(test, cell_id)

    def _add(self, source: Source) -> None:
        for run in source.runs:
            if not run.label:
                test, cell_id, ordinal = _question(run)
                self._last.setdefault((test, cell_id), source)
                self._last.setdefault((test, cell_id, ordinal), source)


def _question(run: RunDocument) -> tuple[str, str, int]:
    """The test, without the label that a part of an experiment has, in its cell, and which of its loads it is."""
    return test_key(run.node_id, run.cell.id), run.cell.id, run.ordinal


def _among(known: list[Saved], storage: Path, name: str, where: Where) -> Saved:
    if _is_path_of_tests(name):
        raise ConfigError(f"{name!r} is a path, not the name of a saved session", where=where, hint=_path_hint(where))
    if not known:
        raise ConfigError(f"no session is saved in {_directory(storage)}", where=where, hint=_SAVE_FIRST)
    if name.isdecimal():
        of_number = [saved for saved in known if saved.number == int(name)]
        if len(of_number) > 1:
            labels = ", ".join(saved.label for saved in of_number)
            raise ConfigError(f"{name} is the number of several saved sessions", where=where, hint=f"Name one of {labels}.")
    else:
        of_number = [saved for saved in known if saved.label == name]
    found = of_number or [saved for saved in known if name in (saved.name, LATEST)]
    if not found:
        raise ConfigError(f"unknown saved session {name!r}", where=where, hint=_known_hint(known, name))
    return found[-1]


def _known_hint(known: list[Saved], meant: str | None = None) -> str:
    """The nearest name, and the newest few: a storage may hold hundreds."""
    if not known:
        return _SAVE_FIRST
    close = nearest(meant, {LATEST, *(saved.name for saved in known)}) if meant else None
    newest = ", ".join(saved.label for saved in known[-5:])
    earlier = f", and {len(known) - 5} before them" if len(known) > 5 else ""
    return f"{f'Did you mean {close!r}? ' if close else ''}Saved: {newest}{earlier}."


def _is_path_of_tests(name: str) -> bool:
    return "/" in name or "::" in name or name.endswith(".py") or name in {".", ".."}


def _path_hint(where: Where) -> str:
    if where.option is not None and where.option.startswith("--"):
        # pytest gives an option with an optional value the word that follows it.
        return f"{where.option} took the word after it: write {where.option}={LATEST}, or put it behind the tests' paths."
    return "Write a name, a number, or the path of a results JSON."


def _directory(storage: Path) -> Path:
    return storage / "saved"


def _read(path: Path) -> SessionDocument:
    try:
        document = from_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror or error}", where=Where(file=str(path))) from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or None
        raise ConfigError(f"is no results document: {first['msg']}", where=Where(file=str(path), key=key)) from None
    except ValueError as error:
        raise ConfigError(f"is a results document {error}", where=Where(file=str(path), key="schema_version")) from None
    return document if isinstance(document, SessionDocument) else _session_of(document)


def _session_of(run: RunDocument) -> SessionDocument:
    """A single run, as the session that it would have been alone."""
    return SessionDocument(
        created=run.timing.started_at, arguments=(), target=run.deployment.target, simulated=run.simulated, runs=(run,)
    )


def eligible(run: RunDocument, failed_tests: Collection[str]) -> str | None:
    """Why a run may not be in a baseline; None when it may. ``failed_tests`` are node ids.

    An INCONCLUSIVE run may: it measured as well as any other, and a comparison knows by itself what so few samples can tell. (Its
    test must not have failed either, so INCONCLUSIVE is saved only where ``--llmperf-inconclusive`` lets it pass or skip.) No
    run may that had no steady state, judged or not: its values depend on how long it ran.
    """
    if why := flaw(run):
        return f"it {why}"
    if run.verdict == "FAIL":
        return "its verdict is FAIL"
    if run.stopped is not None and run.stopped.outcome == "FAIL":
        return "it was stopped early, because it was settled that it fails"
    if run.steadiness is not None and run.steadiness.unstable:
        return f"it had no steady state: {run.steadiness.unstable}"
    return "its test failed" if run.node_id in failed_tests else None


def unfit(runs: Sequence[RunDocument], failed_tests: Collection[str], *, only_compared: bool = False) -> dict[str, str]:
    """Why runs of a session may not be in a baseline, by run id; those that may are not in it.

    The repetitions of a test stand or fall together: only one of them fails when they regressed, and what the last of them that
    was compared says holds for all. ``only_compared``: the session compares, so that a test none of whose runs was compared did
    not come to its end.
    """
    cells = {run.cell.id for run in runs}
    failed = {(test_key(node_id, cell_id), cell_id) for node_id in failed_tests for cell_id in cells}
    last = {run_key(run): (_question(run)[:2], run.comparison) for run in runs if run.comparison is not None}
    compared = {question for question, _ in last.values()}
    worse = {question for question, comparison in last.values() if regressed(comparison)}

    def reason(run: RunDocument) -> str | None:
        question = _question(run)[:2]
        if why := eligible(run, failed_tests):
            return why
        if question in failed:
            return "another repetition of its test failed"
        if question in worse:
            return "its test regressed"
        return "its test ended before it was compared" if only_compared and not run.label and question not in compared else None

    return {run.run_id: why for run in runs if (why := reason(run)) is not None}


def valid_name(text: str, where: Where) -> str:
    """``text``, when it can name a saved session and can mean nothing else. Raises ``ConfigError`` with a name that can."""
    if _NAME.fullmatch(text) and not _TAKEN_FOR_SOMETHING_ELSE.fullmatch(text):
        return text
    if _NAME.fullmatch(text):
        raise ConfigError(
            f"{text!r} cannot name a saved session: it would be taken for a number, a file or the newest one",
            where=where,
            hint=f"Write 'v{text}', say." if text[0].isdigit() and "." not in text else "Choose another name, such as 'main'.",
        )
    better = re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("._+-")[:100]
    raise ConfigError(
        f"{text!r} cannot name a saved session: use at most 100 letters, digits and '._+-', a letter or digit first",
        where=where,
        hint=f"Write {better!r}, say." if _NAME.fullmatch(better) else "Choose a name such as 'main'.",
    )


def autosave_name(commit: Commit | None, now: float) -> str:
    """``a1b2c3d4-20250615T150640Z``, with ``-dirty`` where the commit is not all; without one just the time.

    ``now``: seconds since the epoch.
    """
    time = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    if commit is None:
        return time
    return f"{short_commit(commit.hash, dirty=False)}-{time}" + ("-dirty" if commit.dirty else "")
