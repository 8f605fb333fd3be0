"""What is written is whole, and a disk that refuses is told by name."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from pytest_llmperf.errors import LlmperfError
from pytest_llmperf.report.document import from_json
from pytest_llmperf.report.storage import run_directory, write_atomically, write_run
from tests.unit.report.runs import answered, judged, run_of


def test_a_run_lies_where_its_id_says_and_reads_back(tmp_path: Path) -> None:
    document = judged(run_of(answered(20)))
    path = write_run(tmp_path / "not" / "yet" / "there", document)
    assert path == tmp_path / "not" / "yet" / "there" / "runs" / "0123abcd" / "run.json"
    assert from_json(path.read_bytes()) == document
    assert [child.name for child in path.parent.iterdir()] == ["run.json"]


def test_a_second_writing_replaces_the_first(tmp_path: Path) -> None:
    write_run(tmp_path, judged(run_of(answered(20), profile="poisson 1/s")))
    path = write_run(tmp_path, judged(run_of(answered(20), profile="poisson 2/s")))
    assert '"poisson 2/s"' in path.read_text()


def test_others_may_read_it(tmp_path: Path) -> None:
    write_atomically(tmp_path / "x.json", "{}\n")
    assert stat.S_IMODE((tmp_path / "x.json").stat().st_mode) == 0o644


def test_a_directory_that_cannot_be_made_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    with pytest.raises(LlmperfError, match=r"file/runs/0123abcd/run\.json: cannot write the results: Not a directory") as caught:
        write_run(in_the_way, judged(run_of(answered(20))))
    assert str(caught.value).endswith("\n  Free space there, or choose another place.")


def test_a_target_that_cannot_be_replaced_stays_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "run.json"
    (target / "kept").mkdir(parents=True)
    with pytest.raises(LlmperfError, match="Is a directory"):
        write_atomically(target, "{}\n")
    assert [child.name for child in tmp_path.iterdir()] == ["run.json"]
    assert (target / "kept").is_dir()


def test_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(LlmperfError, match="pipe: cannot write the results: it is no regular file"):
        write_atomically(tmp_path / "pipe", "text")
    assert [(path.name, path.is_fifo()) for path in tmp_path.iterdir()] == [("pipe", True)]


@pytest.mark.parametrize("run_id", ["../escape", "a/b", "", ".hidden", "a\nb", "-x"])
def test_an_id_that_is_no_plain_name_is_refused(tmp_path: Path, run_id: str) -> None:
    with pytest.raises(ValueError, match="cannot name a directory"):
        run_directory(tmp_path, run_id)
