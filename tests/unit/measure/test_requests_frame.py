"""The table of requests: what each column holds."""

from __future__ import annotations

import math

import pytest

from pytest_llmperf.load.records import Outcome
from pytest_llmperf.measure.frame import requests_frame
from tests.unit.measure.logs import Asked, failed, log_of, streamed


def test_one_row_a_request_with_its_latencies() -> None:
    frame = requests_frame(
        log_of([Asked(1.0, ((1.5, 1), (1.7, 2)), sent_s=1.2), failed(2.0, Outcome.HTTP_ERROR, "http 503"), streamed(3.0, 0.1)])
    )
    assert len(frame) == 3
    first = frame.iloc[0]
    assert first["outcome"] == "OK"
    assert first["ttft_s"] == pytest.approx(0.5)
    assert first["service_ttft_s"] == pytest.approx(0.3)
    assert first["e2e_s"] == pytest.approx(0.7)
    assert first["tpot_s"] == pytest.approx(0.1)
    assert first["output_tokens"] == 3
    assert first["chunks"] == 2
    assert first["token_fit"] == "AS_SAID"


def test_a_failed_request_has_no_latency_in_the_table() -> None:
    row = requests_frame(log_of([failed(2.0, Outcome.HTTP_ERROR, "http 503")])).iloc[0]
    assert (row["outcome"], row["error"]) == ("HTTP_ERROR", "http 503")
    assert all(math.isnan(row[name]) for name in ("ttft_s", "tpot_s", "e2e_s", "service_ttft_s", "service_e2e_s"))


def test_every_column_of_the_log_but_the_chunks_is_there() -> None:
    log = log_of([streamed(1.0, 0.1, warmup=True)])
    missing = set(vars(log)) - set(requests_frame(log).columns)
    assert missing == {"chunk_start", "chunk_s", "chunk_tokens", "chunk_read_lag_s"}


def test_an_empty_log_is_an_empty_table() -> None:
    assert len(requests_frame(log_of([]))) == 0
