"""A run's directory: what lies there is whole, and what its run.json names lies there, whatever the disk does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pytest_llmperf.errors import LlmperfError
from pytest_llmperf.plugin.recorder import Recorder
from pytest_llmperf.report.document import RunDocument, from_json, run_document
from pytest_llmperf.report.requests_file import read_requests
from pytest_llmperf.report.stats import stats_text
from tests.unit.report.runs import answered, judged, run_of

RUN = run_of(answered(20))
DOCUMENT = run_document(RUN, None)


def stored(storage: Path) -> RunDocument:
    document = from_json((storage / "runs" / "0123abcd" / "run.json").read_bytes())
    assert isinstance(document, RunDocument)
    return document


def names(storage: Path) -> set[str]:
    return {path.name for path in (storage / "runs" / "0123abcd").iterdir()}


def test_a_run_that_was_measured_lies_there_with_its_requests_and_a_page(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    recorder.keep(DOCUMENT, RUN.result.log)
    assert names(tmp_path) == {"run.json", "requests.parquet", "stats.txt"}
    assert stored(tmp_path).artifacts == {"requests": "requests.parquet", "stats": "stats.txt"}
    assert [stored(tmp_path)] == recorder.drain()
    assert len(read_requests(tmp_path / "runs/0123abcd/requests.parquet")["ttft_s"]) == 20


def test_requests_are_there_as_csv_where_that_is_asked_for(tmp_path: Path) -> None:
    Recorder(tmp_path).keep(DOCUMENT, RUN.result.log, requests_csv=True)
    assert stored(tmp_path).artifacts["requests_csv"] == "requests.csv"
    assert len((tmp_path / "runs/0123abcd/requests.csv").read_text().splitlines()) == 21


def test_a_run_that_is_judged_later_keeps_its_requests_and_its_page_is_written_anew(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    recorder.keep(DOCUMENT, RUN.result.log)
    recorder.drain()
    recorder.keep(judged(RUN))
    assert set(stored(tmp_path).artifacts) == {"requests", "stats"}
    assert stored(tmp_path).verdict == "FAIL"  # twenty requests have too low a throughput
    assert (tmp_path / "runs/0123abcd/stats.txt").read_text() == stats_text(judged(RUN))


def test_a_plot_that_was_drawn_meanwhile_is_named(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    recorder.keep(DOCUMENT)
    (tmp_path / "runs/0123abcd/latency_analysis.png").write_bytes(b"png")
    recorder.keep(DOCUMENT)
    assert stored(tmp_path).artifacts == {"stats": "stats.txt", "latency_png": "latency_analysis.png"}


def test_what_cannot_be_written_is_told_and_remembered_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    recorder = Recorder(tmp_path / "file")
    with pytest.raises(LlmperfError, match=r"file/runs/0123abcd/run\.json: cannot write the results: Not a directory"):
        recorder.keep(DOCUMENT, RUN.result.log)
    assert recorder.drain() == [DOCUMENT]


def test_requests_that_cannot_take_their_place_are_told_and_not_named(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    (tmp_path / "runs/0123abcd/requests.parquet/in the way").mkdir(parents=True)
    with pytest.raises(LlmperfError, match=r"0123abcd/requests\.parquet: cannot write the results: Is a directory"):
        recorder.keep(DOCUMENT, RUN.result.log)
    assert stored(tmp_path).artifacts == {"stats": "stats.txt"}
    assert recorder.drain() == [stored(tmp_path)]


ON_A_SMALL_DISK = """
import random, resource, sys
from pathlib import Path
from pytest_llmperf.errors import LlmperfError
from pytest_llmperf.plugin.recorder import Recorder
from pytest_llmperf.report.document import run_document
from pytest_llmperf.report.storage import write_run
from tests.unit.measure.logs import streamed
from tests.unit.report.runs import run_of

run = run_of([streamed(i / 10_000, random.random()) for i in range(20_000)])
document = run_document(run, None)
size = write_run(Path(sys.argv[1]) / "to measure", document).stat().st_size
limit = int(float(sys.argv[2]) * size)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    Recorder(Path(sys.argv[1])).keep(document, run.result.log, requests_csv=True)
except LlmperfError as error:
    print(error)
"""


@pytest.mark.parametrize(("room", "artifacts"), [(2.0, {"stats": "stats.txt"}), (1.0, {})])
def test_a_disk_without_room_for_the_requests_keeps_the_run(tmp_path: Path, room: float, artifacts: dict[str, str]) -> None:
    """No file may grow beyond a limit that run.json keeps and the requests do not: the writing itself fails.

    Where there is no room for a longer run.json either, that is not what is told: the one that there is says as much.
    """
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", ON_A_SMALL_DISK, str(tmp_path), str(room)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert "0123abcd/requests.parquet: cannot write the results: File too large\n  Free space there" in done.stdout
    assert done.stderr == ""
    assert stored(tmp_path).counts.total == 20_000
    assert stored(tmp_path).artifacts == artifacts
    assert names(tmp_path) == {"run.json", "stats.txt"}
