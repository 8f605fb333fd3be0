"""What a storage holds, at 80 and at 120 columns."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from pytest_llmperf.report.commit import Commit
from pytest_llmperf.report.listing import age, local_time, runs_table, sessions_table
from pytest_llmperf.report.saved import saved_sessions
from pytest_llmperf.report.tables import render_text
from tests.unit.report.stored import NOON, measured, save

NOW = datetime.fromtimestamp(NOON, UTC) + timedelta(days=3)
LONG = "pr-1234-a-name-that-is-much-longer-than-any-column-is-wide-and-longer-than-what-is-left-of-the-line"


def listed(storage: Path, width: int) -> str:
    commit = Commit("a1b2c3d4" * 5, dirty=False)
    save(storage, "main", measured(), measured(hardware="l40s"), commit=commit)
    save(storage, LONG, measured(simulated=False), days=1)
    not_judged = measured().model_copy(update={"verdict": None})
    save(storage, "main", measured(), measured(), not_judged, days=2.99, commit=Commit(commit.hash, dirty=True))
    return render_text(sessions_table(saved_sessions(storage), NOW, width, UTC), 300)


AT_80 = f"""\
no.  name saved              ago commit    target    cells runs verdicts
0001 main 2025-06-15 15:06    3d a1b2c3d4  SIMULATED     2    2 2 PASS
0002 {LONG}
          2025-06-16 15:06    2d -         sim           1    1 1 PASS
0003 main 2025-06-18 14:52 14min a1b2c3d4* SIMULATED     1    3 2 PASS, 1 -
"""


def test_sessions_at_80_columns(tmp_path: Path) -> None:
    text = listed(tmp_path, 80)
    assert text == AT_80
    assert all(len(line) <= 80 for line in text.splitlines() if LONG not in line)


def test_how_long_ago_gives_way_to_what_cannot(tmp_path: Path) -> None:
    verdicts = ["PASS"] * 10 + ["INCONCLUSIVE"] * 10
    save(tmp_path, "main", *(measured().model_copy(update={"verdict": verdict}) for verdict in verdicts))
    lines = render_text(sessions_table(saved_sessions(tmp_path), NOW, 80, UTC), 200).splitlines()
    assert lines[0].split()[:4] == ["no.", "name", "saved", "commit"]
    assert lines[1].endswith(" 20 10 PASS, 10 INCONCLUSIVE")
    assert max(map(len, lines)) <= 80


def test_hardware_where_there_is_room(tmp_path: Path) -> None:
    assert "hardware" not in listed(tmp_path, 120)
    lines = listed(tmp_path / "wide", 230).splitlines()
    assert max(map(len, lines)) <= 230
    assert lines[1].endswith("2 PASS       h100, l40s")


def test_hardware_that_does_not_fit_is_counted(tmp_path: Path) -> None:
    names = ["h100", "a100-80gb", "l40s", "mi300x", "t4"]
    save(tmp_path, "main", *(measured(hardware=name) for name in names))
    lines = render_text(sessions_table(saved_sessions(tmp_path), NOW, 92, UTC), 92).splitlines()
    assert len(lines[1]) <= 92
    assert lines[1].endswith("5 PASS    h100 +4")


def test_runs_oldest_first_and_whole_names() -> None:
    early, late = measured(run_id="early"), measured(run_id="late", test="test_later").model_copy(update={"label": "8/s"})
    late = late.model_copy(update={"timing": late.timing.model_copy(update={"started_at": "2025-06-17T00:00:00+00:00"})})
    wide = render_text(runs_table([late, early], NOW, 120, UTC), 120).splitlines()
    assert [line.split()[0] for line in wide] == ["run", "early", "late"]
    assert wide[2].endswith("SIMULATED  PASS     test_later[gke_h100_standalone_llama-3.1-8b] 8/s")
    narrow = render_text(runs_table([late, early], NOW, 80, UTC), 80).splitlines()
    assert max(map(len, narrow)) <= 80
    assert narrow[4].strip() == "test_later[gke_h100_standalone_llama-3.1-8b] 8/s"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0s"), (0, "0s"), (59.9, "59s"), (60, "1min"), (3599, "59min"), (3600, "1h"), (47.9 * 3600, "47h"), (48 * 3600, "2d")],
)
def test_age(seconds: float, text: str) -> None:
    then = NOW - timedelta(seconds=seconds)
    assert age(then.isoformat(), NOW) == text


def test_times_are_local() -> None:
    assert local_time("2025-06-15T23:30:00.250+00:00", timezone(timedelta(hours=2))) == "2025-06-16 01:30"
