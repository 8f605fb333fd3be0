"""Pages of metrics -> series: what is kept of a page, what is read of it, and what is passed over."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_llmperf.measure.exposition import MOST_SERIES, Page, TooLargeError, has_any, named, packed, series_of
from pytest_llmperf.measure.server_metrics import BY_KEY, ENGINE_NAMES

PAGE = b"""# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a model, of {two} \\"words\\""} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 4
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 9.0
vllm:prompt_tokens_total 1e+06
process_cpu_seconds_total 7.5
http_requests_total{handler="/v1/models"} 1.0
"""


def value(pages: list[Page], name: str) -> list[float]:
    (one,) = (series for series in series_of(pages) if series.name == name)
    return [float(number) for number in one.value]


def test_a_page_s_series_with_their_labels() -> None:
    series = series_of([Page(0.5, packed(PAGE))])
    assert {(one.name, one.labels.get("engine"), *one.at_s.tolist(), *one.value.tolist()) for one in series} == {
        ("vllm:num_requests_running", "0", 0.5, 3.0),
        ("vllm:num_requests_running", "1", 0.5, 4.0),
        ("vllm:prompt_tokens_total", None, 0.5, 1e6),
        ("process_cpu_seconds_total", None, 0.5, 7.5),
    }
    assert {one.labels.get("model_name") for one in series} == {'a model, of {two} "words"', "m", None}


def test_a_series_is_known_again_on_the_next_page() -> None:
    pages = [Page(float(second), packed(b"vllm:prompt_tokens_total %d\n" % (10 * second))) for second in range(3)]
    assert value(pages, "vllm:prompt_tokens_total") == [0, 10, 20]


def test_what_two_sources_say_stays_apart() -> None:
    pages = [Page(0.0, packed(b"process_cpu_seconds_total 1\n"), source) for source in ("", "http://h:1/metrics")]
    assert [one.labels.get("source") for one in series_of(pages)] == [None, "http://h:1/metrics"]


@pytest.mark.parametrize(
    "line", [b"vllm:prompt_tokens_total", b"vllm:prompt_tokens_total{a= 3", b"vllm:prompt_tokens_total x", b"\xff 3"]
)
def test_what_is_no_line_of_the_format_is_passed_over(line: bytes) -> None:
    page = packed(line + b"\nvllm:generation_tokens_total 5\n")
    assert [one.name for one in series_of([Page(0.0, page)])] == ["vllm:generation_tokens_total"]


def test_a_value_that_is_none_is_passed_over_where_its_series_is_known() -> None:
    pages = [Page(0.0, packed(b"vllm:prompt_tokens_total 1\n")), Page(1.0, packed(b"vllm:prompt_tokens_total one\n"))]
    assert value(pages, "vllm:prompt_tokens_total") == [1.0]


@pytest.mark.parametrize("none", [b"NaN", b"+Inf", b"-Inf", b"1e999"])
def test_a_value_that_is_not_finite_is_passed_over(none: bytes) -> None:
    pages = [Page(0.0, packed(b"vllm:prompt_tokens_total %b\n" % none)), Page(1.0, packed(b"vllm:prompt_tokens_total 1\n"))]
    assert value(pages, "vllm:prompt_tokens_total") == [1.0]


def test_more_series_than_any_engine_has_are_not_read() -> None:
    with pytest.raises(TooLargeError):
        packed(b"vllm:prompt_tokens_total 1\n" * (MOST_SERIES + 1))
    line = b'vllm:prompt_tokens_total{page="%d",line="%d"} x y\n'
    halves = [Page(float(n), packed(b"".join(line % (n, i) for i in range(MOST_SERIES // 2 + 1)))) for n in (0, 1)]
    assert series_of(halves[:1]) == ()
    with pytest.raises(TooLargeError):
        series_of(halves)


def test_a_renamed_metric_is_found_by_either_name() -> None:
    names = BY_KEY["kv_cache_usage"].names
    for page in (b"vllm:gpu_cache_usage_perc 0.5\n", b"vllm:kv_cache_usage_perc 0.5\nvllm:gpu_cache_usage_perc 0.1\n"):
        (only,) = named(series_of([Page(0.0, packed(page))]), names)
        assert only.value.tolist() == [0.5]
    assert named(series_of([Page(0.0, packed(PAGE))]), names) == ()


def test_a_page_is_known_by_what_it_has() -> None:
    assert has_any(packed(PAGE), ENGINE_NAMES)
    assert not has_any(packed(PAGE), ["DCGM_FI_DEV_POWER_USAGE"])
    assert not has_any(packed(b"<html></html>"), ENGINE_NAMES)


def test_a_real_page_of_vllm() -> None:
    shared = os.environ.get("LLMPERF_SHARED")
    capture = (Path(shared) if shared else Path(__file__).resolve().parents[4] / "shared") / "wire" / "vllm-0.32" / "metrics.txt"
    if not capture.is_file():
        pytest.skip("no captures of a real vLLM here; LLMPERF_SHARED names the folder that holds wire/")
    page = capture.read_bytes()
    kept = packed(page)
    assert len(kept) * 15 < len(page)
    # Every name that vLLM has now; the others are the older ones.
    older = {name for name in ENGINE_NAMES if "gpu_" in name or "time_per_output_token" in name}
    assert {one.name for one in series_of([Page(0.0, kept)])} & ENGINE_NAMES == ENGINE_NAMES - older
    assert value([Page(0.0, kept)], "vllm:generation_tokens_total") == [6409.0]
