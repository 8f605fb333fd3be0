"""The progress line on a real (pseudo) terminal, in a file, and where there is neither."""

from __future__ import annotations

import io
import os
import re
import select
from queue import Queue
from typing import Any

import pytest

from pytest_llmperf.deploy.base import Phase
from pytest_llmperf.errors import DeployError
from pytest_llmperf.experiment.catalog import builtin_directory, load_catalog
from pytest_llmperf.experiment.matrix import expand
from pytest_llmperf.load.options import LoadProgress
from pytest_llmperf.plugin import progress
from pytest_llmperf.plugin.progress import ProgressLine

CATALOG = load_catalog([builtin_directory()])
CELL = expand(CATALOG.matrix_named("default"), CATALOG)[0]
HALF = LoadProgress(elapsed_s=5.0, duration_s=10.0, warming_up=False, in_flight=3, finished=1200, failed=2, output_tokens=9)


def reporter(config: pytest.Config, file: Any) -> Any:
    """pytest's own reporter, writing to ``file``."""
    plugin: Any = config.pluginmanager.get_plugin("terminalreporter")
    return type(plugin)(config, file)


def drive(line: ProgressLine) -> None:
    with line.deploying(CELL) as say:
        say("pulling the image")
    with line.loading("a load") as report:
        report(HALF)


def test_a_file_gets_one_line_when_something_is_done(pytestconfig: pytest.Config) -> None:
    file = io.StringIO()
    drive(ProgressLine(reporter(pytestconfig, file), None, 80, simulated=True))
    ready, loaded = (line for line in file.getvalue().splitlines() if line.strip())
    assert ready.startswith(f"  {CELL.id}: ready after ")
    assert loaded.startswith("  a load: loaded for ")
    assert ready.endswith(" SIMULATED")
    assert loaded.endswith(" SIMULATED")


def test_a_real_server_is_not_called_simulated(pytestconfig: pytest.Config) -> None:
    file = io.StringIO()
    drive(ProgressLine(reporter(pytestconfig, file), None, 80, simulated=False))
    assert "SIMULATED" not in file.getvalue()


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs pseudo terminals")
@pytest.mark.parametrize("width", [80, 30])
def test_a_terminal_sees_each_state(pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w") as file:
        drive(ProgressLine(reporter(pytestconfig, file), None, width, simulated=True))
        file.flush()
        seen = ""
        # A pseudo terminal hands out what was written piece by piece.
        while "loaded for" not in seen and select.select([ours], [], [], 5.0)[0]:
            seen += os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert "ready after" in seen
    assert "loaded for" in seen
    assert "5s/10s, 3 in flight" in seen
    if width == 80:
        assert f"{CELL.id}: pulling the image" in seen
        assert "1,200 done, 2 failed SIMULATED: a load" in seen
    else:
        assert "…" in seen


def test_without_a_reporter_nothing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    drive(ProgressLine(None, None, 80, simulated=True))
    assert capsys.readouterr() == ("", "")


def test_what_fails_is_not_called_ready(pytestconfig: pytest.Config) -> None:
    file = io.StringIO()
    line = ProgressLine(reporter(pytestconfig, file), None, 80, simulated=True)
    with pytest.raises(ZeroDivisionError), line.deploying(CELL):
        _ = 1 / 0
    assert "ready" not in file.getvalue()


def test_the_phases_of_a_deployment_that_has_some_to_show(pytestconfig: pytest.Config) -> None:
    file = io.StringIO()
    line = ProgressLine(reporter(pytestconfig, file), None, 80, simulated=False)
    with line.deploying(CELL) as showing:
        showing.phases = (Phase("scheduled", 1.0), Phase("image pulled", 12.0))
    assert file.getvalue().splitlines()[-1] == f"  {CELL.id}: scheduled 1s, image pulled 12s"


def test_a_deployment_that_failed_is_told_at_once_where_nobody_watches(pytestconfig: pytest.Config) -> None:
    file = io.StringIO()
    line = ProgressLine(reporter(pytestconfig, file), None, 80, simulated=False)
    with pytest.raises(DeployError), line.deploying(CELL):
        raise DeployError(f"{CELL.id}: no node has nvidia.com/gpu", hint="Add one.")
    (told,) = (each for each in file.getvalue().splitlines() if each.strip())
    assert re.fullmatch(rf"  {re.escape(CELL.id)}: not deployed after \S+: no node has nvidia.com/gpu", told)


def test_in_a_log_a_state_that_lasts_gets_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LASTING_S", 0.0)
    monkeypatch.setattr(progress, "_LOOK_S", 0.001)
    told: Queue[str] = Queue()
    with progress._Lasting(told.put) as show:
        show("waiting for 2 nvidia.com/gpu")
        assert told.get(timeout=10) == "waiting for 2 nvidia.com/gpu"
        show("waiting for 1 nvidia.com/gpu")  # only the number is another
        show("pulling the image")
        assert told.get(timeout=10) == "pulling the image"
    assert told.empty()


def test_the_first_request_is_told_once_a_deployment(pytestconfig: pytest.Config) -> None:
    file = io.StringIO()
    line = ProgressLine(reporter(pytestconfig, file), None, 80, simulated=False)
    for pods_ready_at in (199.0, 199.0, 200.0):
        line.first_request("a cell", pods_ready_at, 200.5)
    told = [each for each in file.getvalue().splitlines() if each.strip()]
    assert told == [f"  a cell: first request {after} after the pods were ready" for after in ("1.5s", "500ms")]


def test_a_line_begins_where_pytest_has_left_one(pytestconfig: pytest.Config) -> None:
    file = io.StringIO()
    into = reporter(pytestconfig, file)
    line = ProgressLine(into, None, 80, simulated=False, writer=into._tw)
    line.note("loaded")
    into.write(".   [100%]")  # behind a line of ours pytest no longer knows of a test file's
    line.note("removing")
    line.note("removed")
    assert [each for each in file.getvalue().splitlines() if each] == ["  loaded", ".   [100%]", "  removing", "  removed"]
