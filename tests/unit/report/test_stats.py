"""A run on one page: everything that matters, in 80 columns."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_llmperf.deploy.base import DeploymentInfo
from pytest_llmperf.measure.run import Steadiness, Stopped
from pytest_llmperf.report.commit import Commit
from pytest_llmperf.report.document import run_document
from pytest_llmperf.report.results_v2 import (
    BottleneckPart,
    ComparisonPart,
    CostPart,
    RunDocument,
    ServerPart,
    ServerTimesPart,
)
from pytest_llmperf.report.run_context import RunContext
from pytest_llmperf.report.stats import WIDTH, stats_text
from tests.unit.report.runs import answered, judged, run_of

FULL = judged(run_of(answered(300, failures=2), invalid=("worker 0 was late",))).model_copy(
    update={
        "server": ServerPart(
            source="metrics",
            samples=30,
            running_mean=4.5,
            running_max=12,
            waiting_mean=0,
            kv_cache_usage_mean=0.25,
            kv_cache_usage_max=0.5,
            preemptions=3,
            prefix_cache_hit_rate=0.125,
            generation_tokens_per_s=1500,
            gpu_power_w=650,
            times={
                "queue": ServerTimesPart(
                    count=300, mean_s=0.002, p50_s=0.001, p99_s=0.01, resolution_s=0.005, p99_bucket_s=(0.0075, 0.0125)
                ),
                "decode": ServerTimesPart(count=300, mean_s=0.2, p50_s=0.1, p99_s=0.3, resolution_s=0.25),
            },
        ),
        "bottleneck": BottleneckPart(kind="kv_cache", evidence="the KV cache was full for 40% of the window"),
        "cost": CostPart(
            price_per_gpu_hour=2.1,
            price_per_hour=8.4,
            source="a price list",
            date="2025-06-01",
            per_million_input_tokens=0.5,
            per_million_output_tokens=1.25,
            per_million_total_tokens=None,
            output_tokens_per_dollar=None,
            requests_per_gpu_hour=None,
        ),
        "comparison": ComparisonPart(
            baseline="0001_main",
            runs=(),
            verdict="incomparable",
            changes=(),
            differences={"model": "a -> b"},
            note="not the same",
        ),
    }
)


def lines(document: RunDocument) -> list[str]:
    text = stats_text(document)
    assert text.endswith("\n")
    return text.splitlines()


@pytest.mark.parametrize(
    "document",
    [
        FULL,
        run_document(run_of([]), None),
        judged(run_of(answered(30), test="test_of_a_name_that_is_longer_than_any_terminal_" + 60 * "x")),
        judged(run_of(answered(30)), {"goodput": {"min": "40%", "within": {"ttft": "200ms", "tpot": "50ms", "e2e": "20s"}}}),
        judged(run_of(answered(30)), {"ttft": {"p50": {"target": "100ms", "acceptable": "300ms"}}}),
    ],
    ids=["full", "empty", "long name", "long limit", "graded"],
)
def test_it_is_no_wider_than_a_terminal_and_has_every_metric(document: RunDocument) -> None:
    told = lines(document)
    assert max(len(line) for line in told if "xxx" not in line) <= WIDTH
    for part in document.metrics.values():
        assert any(line.startswith(f"{part.title}  ") for line in told), part.title
    assert "nan" not in " ".join(told)


def test_everything_is_told() -> None:
    text = " ".join("\n".join(lines(FULL)).split())
    for said in (
        "suites/test_chat.py::test_meets_sla[gke_h100_standalone_llama-3.1-8b]\nINVALID by SLA interactive-chat",
        "SIMULATED: no real server was measured",
        "run          0123abcd, started 2025-06-15T15:06:40.250+00:00",
        "load         poisson 10/s for 1m, seed 42",
        "requests     302: 300 ok, 2 failed, 0 cancelled; 0 more of the warm-up",
        "             2 x http 503",
        "error rate <= 0.1%",
        "steadiness   nothing speaks against a steady state",
        "client       1 worker, sent 302 of 302 requests, lateness p99 1ms",
        "  worker 0 was late",
        "server side  running 4.5 (most 12); waiting 0; KV cache 25% (most 50%); prefix-cache hits 12.5%;",
        "3 preemptions; generated tokens 1,500/s; 650 W",
        "             queue mean 2ms, p99 7.5ms..12.5ms; decode mean 200ms bottleneck",
        "bottleneck   KV cache: the KV cache was full for 40% of the window",
        "cost         h100 $8.40/h ($2.10 a GPU; a price list, 2025-06-01); a million tokens: input $0.50, output $1.25",
        "baseline 0001_main: INCOMPARABLE (SIMULATED: no real server was measured)",
    ):
        assert " ".join(said.split()) in text


def test_a_value_stands_with_its_interval_in_its_unit() -> None:
    document = judged(run_of(answered(300, failures=2)))
    (row,) = [line.split() for line in lines(document) if line.startswith("TTFT p99  ")]
    assert row[2:] == ["300ms", "300ms..inf", "302"]


def test_a_note_that_a_reason_has_is_not_said_twice() -> None:
    told = " ".join(lines(judged(run_of(answered(300, failures=2)))))
    assert told.count("2 of 302 requests failed") == 1


def test_a_real_server_is_not_simulated_and_its_gpu_is_named() -> None:
    run = run_of(answered(20), simulated=False)
    info = DeploymentInfo("process", False, "vLLM 0.32.0", gpu="NVIDIA H100 80GB HBM3", driver="550.54.15")
    document = run_document(replace(run, deployment=info), None, session=RunContext(commit=Commit("a" * 40, dirty=True)))
    told = "\n".join(lines(document))
    assert "not judged\n\nrun" in told
    assert "SIMULATED" not in told
    assert "accelerator  NVIDIA H100 80GB HBM3, driver 550.54.15\ncommit       aaaaaaaa-dirty" in told


def test_how_a_load_ended_is_told() -> None:
    stopped = Stopped("TTFT p95 cannot be met any more", "FAIL", 12.0, 48.0)
    run = replace(run_of(answered(20)), stopped=stopped, steadiness=Steadiness(5.0, "the backlog grew"))
    told = "\n".join(lines(run_document(run, None)))
    assert "ended early  after 12s, 48s saved: TTFT p95 cannot be met any more" in told
    assert "steadiness   the backlog grew; warm-up lengthened by 5s" in told
