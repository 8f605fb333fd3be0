"""What a storage holds, for people: the saved sessions, and the single runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING

from pytest_llmperf.report.commit import short_commit
from pytest_llmperf.report.grid import Field, grid, together, widest
from pytest_llmperf.report.rows import hardware_id

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pytest_llmperf.report.results_v2 import RunDocument, SessionDocument
    from pytest_llmperf.report.saved import Saved

_LEAST_FOR_HARDWARE = 12
_NOT_JUDGED = "-"
_ORDER = ("PASS", "FAIL", "INCONCLUSIVE", "INVALID", _NOT_JUDGED)


def sessions_table(sessions: Sequence[Saved], now: datetime, width: int, zone: tzinfo | None = None) -> RenderableType:
    """One line a saved session, all of which can be read; times in ``zone`` (None: where this runs).

    Number, name, when and how long ago, commit (``*``: with uncommitted changes), target (SIMULATED for the simulator), how many
    cells and runs, the verdicts (``-``: not judged); which hardware, where ``width`` has room for it.
    """
    documents = [saved.document for saved in sessions]
    before = [Field("no.", tuple(f"{saved.number or 0:04d}" for saved in sessions))]
    name = Field("name", tuple(saved.name for saved in sessions))
    ago = Field("ago", tuple(age(document.created, now) for document in documents), right=True)
    after = [
        Field("saved", tuple(local_time(document.created, zone) for document in documents)),
        ago,
        Field("commit", tuple(commit_shown(document) for document in documents)),
        Field("target", tuple("SIMULATED" if document.simulated else document.target for document in documents)),
        Field("cells", tuple(str(len({run.cell.id for run in document.runs})) for document in documents), right=True),
        Field("runs", tuple(str(len(document.runs)) for document in documents), right=True),
        Field("verdicts", tuple(_verdicts(document.runs) for document in documents)),
    ]
    if widest((*before, Field("name", ()), *after), 1) > width:
        after.remove(ago)
    room = width - widest((*before, name, *after), 2) - 2
    if room >= _LEAST_FOR_HARDWARE:
        after.append(Field("hardware", tuple(_hardware(document.runs, room) for document in documents)))
    return together(grid(before, name, after, width))


def runs_table(runs: Sequence[RunDocument], now: datetime, width: int, zone: tzinfo | None = None) -> RenderableType:
    """One line a run, oldest first: its id, when, target, verdict, and the test that made it."""
    ordered = sorted(runs, key=lambda run: datetime.fromisoformat(run.timing.started_at))
    before = [
        Field("run", tuple(run.run_id for run in ordered)),
        Field("started", tuple(local_time(run.timing.started_at, zone) for run in ordered)),
        Field("ago", tuple(age(run.timing.started_at, now) for run in ordered), right=True),
        Field("target", tuple("SIMULATED" if run.simulated else run.deployment.target for run in ordered)),
        Field("verdict", tuple(run.verdict or "-" for run in ordered)),
    ]
    name = Field("test", tuple(f"{run.test}[{run.cell.id}]" + (f" {run.label}" if run.label else "") for run in ordered))
    return together(grid(before, name, (), width))


def local_time(iso: str, zone: tzinfo | None) -> str:
    """``2025-06-15 17:06`` in ``zone``; None: the machine's own."""
    return datetime.fromisoformat(iso).astimezone(zone).strftime("%Y-%m-%d %H:%M")


def age(iso: str, now: datetime) -> str:
    """``40s``, ``12min``, ``5h``, ``3d``; ``0s`` for what a faster clock dates into the future."""
    seconds = max(0.0, (now - datetime.fromisoformat(iso).astimezone(UTC)).total_seconds())
    for limit, size, unit in ((60, 1, "s"), (3600, 60, "min"), (2 * 86400, 3600, "h")):
        if seconds < limit:
            return f"{seconds // size:.0f}{unit}"
    return f"{seconds // 86400:.0f}d"


def commit_shown(document: SessionDocument) -> str:
    """``a1b2c3d4``, ``a1b2c3d4*`` with uncommitted changes, ``-`` where no commit is known."""
    return (short_commit(document.commit, dirty=False) or "-") + ("*" if document.commit and document.dirty else "")


def _verdicts(runs: Sequence[RunDocument]) -> str:
    """``6 PASS, 2 -``: the latter were not judged."""
    counted = Counter(run.verdict or _NOT_JUDGED for run in runs)
    return ", ".join(f"{counted[verdict]} {verdict}" for verdict in _ORDER if counted[verdict])


def _hardware(runs: Sequence[RunDocument], room: int) -> str:
    """``h100, l40s``; ``h100 +7`` where they do not all fit."""
    names = list(dict.fromkeys(hardware_id(run) for run in runs))
    for shown in range(len(names), 0, -1):
        text = ", ".join(names[:shown]) + (f" +{len(names) - shown}" if shown < len(names) else "")
        if len(text) <= room:
            return text
    return str(len(names))
