"""A run's requests as Parquet hold what its log holds, and as CSV what a spreadsheet takes."""

from __future__ import annotations

import io
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from pytest_llmperf.errors import ConfigError, LlmperfError
from pytest_llmperf.load.records import Outcome, RequestLog
from pytest_llmperf.measure.frame import requests_frame
from pytest_llmperf.report import requests_file
from pytest_llmperf.report.requests_file import (
    CHUNK_COLUMNS,
    CHUNK_START,
    COLUMNS,
    about_run,
    read_requests,
    write_requests,
    write_requests_csv,
)
from tests.unit.measure.logs import NAN, Asked, failed, log_of, streamed
from tests.unit.report.runs import answered, judged, run_of


@pytest.fixture
def log() -> RequestLog:
    return log_of(
        [
            streamed(0.0, 0.25, gap_s=0.125, tokens=4, warmup=True),
            failed(0.5, Outcome.HTTP_ERROR, 'http 503 "busy", try later'),
            Asked(1.0, ((1.5, 2), (1.75, 3))),
            Asked(1.5, end_s=2.0, output_tokens=9),
            Asked(2.0, sent_s=NAN, end_s=2.5, outcome=Outcome.CANCELLED),
            streamed(2.5, 0.1, tokens=2),
        ]
    )


@pytest.fixture(params=[1 << 16, 2], ids=["one row group", "several"])
def path(request: pytest.FixtureRequest, tmp_path: Path, log: RequestLog, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(requests_file, "_GROUP", request.param)
    path = tmp_path / "requests.parquet"
    write_requests(path, log, {"run_id": "0123abcd"})
    return path


def test_it_has_every_column_of_the_log_and_of_the_frame(path: Path, log: RequestLog) -> None:
    read, frame = read_requests(path), requests_frame(log)
    assert set(read) == set(frame) == set(COLUMNS) - set(CHUNK_COLUMNS)
    for name, values in read.items():
        assert_array_equal(values, frame[name].to_numpy(), err_msg=name)
    for each in fields(log):
        if each.name in read and each.name not in {"outcome", "token_fit", "error"}:
            assert read[each.name].dtype == getattr(log, each.name).dtype, each.name
    assert read["outcome"].tolist() == ["OK", "HTTP_ERROR", "OK", "OK", "CANCELLED", "OK"]
    assert read["error"][1] == 'http 503 "busy", try later'


def test_every_chunk_is_there_to_the_microsecond(path: Path, log: RequestLog) -> None:
    read = read_requests(path, ["chunk_us", "chunk_tokens"])
    assert set(read) == {"chunk_us", "chunk_tokens", CHUNK_START}
    assert_array_equal(read[CHUNK_START], log.chunk_start)
    assert_array_equal(read["chunk_tokens"], log.chunk_tokens)
    scheduled = np.repeat(log.scheduled_s, np.diff(log.chunk_start))
    assert_allclose(scheduled + read["chunk_us"] / 1e6, log.chunk_s, atol=0.5e-6)
    assert [str(read[name].dtype) for name in CHUNK_COLUMNS] == ["int32", "uint16"]


def test_a_chunk_that_comes_after_more_than_half_an_hour_has_the_most_there_is(tmp_path: Path) -> None:
    write_requests(tmp_path / "x", log_of([Asked(0.0, ((2000.0, 1), (4000.0, 1)))]))
    assert read_requests(tmp_path / "x", ["chunk_us"])["chunk_us"].tolist() == [2_000_000_000, 2_147_483_647]


def test_no_requests_are_a_file_too(tmp_path: Path) -> None:
    write_requests(tmp_path / "x", log_of([]))
    read = read_requests(tmp_path / "x", list(COLUMNS))
    assert set(read) == {*COLUMNS, CHUNK_START}
    assert read.pop(CHUNK_START).tolist() == [0]
    assert {len(values) for values in read.values()} == {0}


def test_the_file_says_whose_it_is_and_what_its_columns_mean(tmp_path: Path) -> None:
    run = run_of(answered(5))
    write_requests(tmp_path / "x", run.result.log, about_run(judged(run)))
    schema = pq.read_schema(tmp_path / "x")
    about = {name.decode(): value.decode() for name, value in schema.metadata.items()}
    assert {name: about[name] for name in ("run_id", "cell", "workload", "simulated", "requests_schema_version")} == {
        "run_id": "0123abcd",
        "cell": "gke_h100_standalone_llama-3.1-8b",
        "workload": "interactive-chat",
        "simulated": "true",
        "requests_schema_version": "1",
    }
    assert {each.name: each.metadata[b"description"].decode() for each in schema} == COLUMNS


def test_what_never_was_is_null(path: Path) -> None:
    table = pq.read_table(path, columns=["first_token_s", "ttft_s"])
    assert [column.null_count for column in table.columns] == [3, 3]


def test_as_csv_it_reads_back_the_same_without_the_chunks(path: Path, tmp_path: Path, log: RequestLog) -> None:
    write_requests_csv(path, tmp_path / "requests.csv")
    stream = io.BytesIO()
    write_requests_csv(path, stream)
    assert stream.getvalue() == (tmp_path / "requests.csv").read_bytes()
    table = pd.read_csv(tmp_path / "requests.csv", keep_default_na=False, na_values={"ttft_s": "", "sent_s": ""})
    assert list(table) == [name for name in COLUMNS if name not in CHUNK_COLUMNS]
    assert_array_equal(table["sent_s"], log.sent_s)
    assert table["error"].tolist() == list(log.error)
    assert table["outcome"].tolist() == ["OK", "HTTP_ERROR", "OK", "OK", "CANCELLED", "OK"]


def test_chunks_are_read_only_where_they_are_named(path: Path) -> None:
    assert list(read_requests(path, ["error", "ttft_s"])) == ["error", "ttft_s"]


def test_a_column_that_is_not_there_is_named_with_the_nearest(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"requests\.parquet: unknown column 'tfft_s'\n  Did you mean 'ttft_s'"):
        read_requests(path, ["tfft_s"])


@pytest.mark.parametrize("content", [None, b"", b"no Parquet"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "requests.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"requests\.parquet: the requests cannot be read: [Nn]o "):
        read_requests(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        write_requests_csv(path, tmp_path / "x.csv")
    assert not (tmp_path / "x.csv").exists()


def test_a_disk_that_refuses_is_named_and_leaves_nothing(tmp_path: Path, log: RequestLog) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LlmperfError, match=r"file/x/requests\.parquet: cannot write the results: Not a directory"):
        write_requests(tmp_path / "file" / "x" / "requests.parquet", log)


def test_a_log_that_breaks_off_in_the_middle_leaves_no_half_a_file(tmp_path: Path, log: RequestLog) -> None:
    broken = replace(log, error=())  # as no log is: every row has an entry
    with pytest.raises(ValueError, match=r"."):
        write_requests(tmp_path / "requests.parquet", broken)
    assert list(tmp_path.iterdir()) == []
