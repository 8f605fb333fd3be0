"""A million requests of thirty chunks: what the files of such a run cost. Quiet machine, alone: timings are the point."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest

from pytest_llmperf.load.records import Outcome, RequestLog
from pytest_llmperf.measure.series import series
from pytest_llmperf.report.requests_file import read_requests, write_requests, write_requests_csv

REQUESTS = 1_000_000
CHUNKS = 30


@pytest.fixture(scope="module")
def log() -> RequestLog:
    """Ten minutes of a busy server."""
    random = np.random.default_rng(1)
    scheduled = np.sort(random.uniform(0, 600, REQUESTS))
    first = scheduled + random.gamma(2, 0.1, REQUESTS)
    chunks = np.empty((REQUESTS, CHUNKS))
    chunks[:, 0] = first
    for chunk in range(1, CHUNKS):
        chunks[:, chunk] = chunks[:, chunk - 1] + random.gamma(4, 0.005, REQUESTS)
    failed = random.random(REQUESTS) < 0.001
    tokens = np.full(REQUESTS, CHUNKS, dtype=np.int64)
    prompts = random.integers(10, 500, REQUESTS)
    return RequestLog(
        scheduled_s=scheduled,
        sent_s=scheduled + 1e-4,
        connected_s=scheduled + 1e-4,
        first_byte_s=first,
        first_token_s=first,
        last_token_s=chunks[:, -1].copy(),
        end_s=chunks[:, -1] + 1e-4,
        outcome=np.where(failed, Outcome.TIMEOUT, Outcome.OK).astype(np.uint8),
        http_status=np.full(REQUESTS, 200, dtype=np.int16),
        prompt_tokens=prompts,
        output_tokens=tokens,
        usage_reported=np.ones(REQUESTS, dtype=np.bool_),
        planned_prompt_tokens=prompts,
        planned_output_tokens=tokens,
        received_bytes=random.integers(5000, 6000, REQUESTS),
        session=np.arange(REQUESTS),
        turn=np.zeros(REQUESTS, dtype=np.int32),
        worker=(np.arange(REQUESTS) % 4).astype(np.int16),
        warmup=scheduled < 5,
        error=tuple("timeout idle" if each else "" for each in failed),
        chunk_start=np.arange(REQUESTS + 1) * CHUNKS,
        chunk_s=chunks.reshape(-1),
        chunk_tokens=np.ones(REQUESTS * CHUNKS, dtype=np.uint16),
    )


@pytest.fixture(scope="module")
def path(log: RequestLog, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("run") / "requests.parquet"
    write_requests(path, log)
    yield path
    path.unlink()


def most_memory() -> int:
    """The most bytes this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def test_the_course_of_the_run_takes_under_two_seconds(log: RequestLog) -> None:
    started = perf_counter()
    found = series(log)
    took = perf_counter() - started
    print(f"\nseries of {REQUESTS:,} requests: {took:.2f} s")
    assert found is not None
    assert found.sent.sum() == REQUESTS
    assert took < 2.0


def test_they_are_written_in_under_ten_seconds_and_two_gigabytes(log: RequestLog, tmp_path: Path) -> None:
    started = perf_counter()
    write_requests(tmp_path / "requests.parquet", log)
    took = perf_counter() - started
    size = (tmp_path / "requests.parquet").stat().st_size
    print(
        f"\nParquet of {REQUESTS:,} requests: {took:.2f} s, {size / 1e6:.0f} MB, at most {most_memory() / 1e6:.0f} MB of memory"
    )
    assert took < 10.0
    assert most_memory() < 2e9


def test_they_are_read_without_their_chunks_and_copied_as_csv(path: Path, tmp_path: Path) -> None:
    started = perf_counter()
    read = read_requests(path)
    read_s = perf_counter() - started
    assert len(read["ttft_s"]) == REQUESTS
    started = perf_counter()
    write_requests_csv(path, tmp_path / "requests.csv")
    csv_s = perf_counter() - started
    print(f"\nread: {read_s:.2f} s; CSV: {csv_s:.2f} s; at most {most_memory() / 1e6:.0f} MB of memory")
    (tmp_path / "requests.csv").unlink()
    assert read_s < 3.0
    assert csv_s < 10.0
    assert most_memory() < 2e9
