"""The server's side and the bottleneck in a document, and the lines that a terminal shows of them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from pytest_llmperf.measure.server import ServerSeen, ServerTimes
from pytest_llmperf.report.document import from_json, run_document, to_json
from pytest_llmperf.report.results_v2 import BottleneckPart, RunDocument
from pytest_llmperf.report.server_part import bottleneck_lines, bottleneck_part, server_part
from tests.unit.report.runs import answered, run_of

SEEN = ServerSeen(
    source="metrics",
    at_s=np.array([0.0, 1.00049, 2.0]),
    values={"running": np.array([0.0, 3.0, 2.0]), "generation_tokens_per_s": np.array([math.nan, 1000.0 / 3, 7.0])},
    samples=2,
    running_mean=2.5,
    waiting_mean=0.0,
    idle_share=0.0,
    times={name: ServerTimes(9, mean_s, None, 0.5, 0.2) for name, mean_s in (("e2e", 1.0), ("prefill", 0.1), ("decode", 0.8))},
    notes=("told",),
)


def test_what_the_server_said_is_in_the_document() -> None:
    run = replace(run_of(answered(5)), server=SEEN)
    part = server_part(run)
    assert part is not None
    assert (part.source, part.samples, part.failed_samples, part.running_mean, part.notes) == ("metrics", 2, 0, 2.5, ("told",))
    assert (part.preemptions, part.gpu_power_w) == (None, None)
    assert part.times["e2e"].model_dump() == {"count": 9, "mean_s": 1.0, "p50_s": None, "p99_s": 0.5, "resolution_s": 0.2,
        "p99_bucket_s": None}  # fmt: skip
    assert part.series is not None
    assert part.series.at_s == (0.0, 1.0, 2.0)
    assert part.series.values == {"running": (0.0, 3.0, 2.0), "generation_tokens_per_s": (None, 333.333, 7.0)}
    document = run_document(run, None)
    assert from_json(to_json(document)) == document
    assert (document.server, document.bottleneck) == (part, bottleneck_part(run))
    assert document.bottleneck is not None
    assert document.bottleneck.kind == "decode"


def test_a_run_of_which_the_server_said_nothing() -> None:
    run = run_of(answered(5))
    assert server_part(run) is None
    assert bottleneck_part(run) == BottleneckPart(kind="unknown", evidence="the server's own metrics are not known")


def told(*kinds: str, simulated: bool = True) -> list[RunDocument]:
    documents = [
        run_document(run_of(answered(5), run_id=str(at), test=f"test_{at}", simulated=simulated), None)
        for at in range(len(kinds))
    ]
    return [
        document.model_copy(update={"bottleneck": BottleneckPart(kind=kind, evidence=f"evidence {at}")})  # type: ignore[arg-type]
        for at, (document, kind) in enumerate(zip(documents, kinds, strict=True))
    ]


@pytest.mark.parametrize("width", [80, 200])
def test_a_line_a_run_of_which_something_was_short(width: int) -> None:
    lines = list(bottleneck_lines(told("kv_cache", "none", "decode", "unknown"), width))
    assert all(len(line) <= width for line in lines)
    text = " ".join(line.strip() for line in lines).replace("- ", "-")
    assert "test_0[gke_h100_standalone_llama-3.1-8b]: SIMULATED, bottleneck KV cache: evidence 0" in text
    assert "test_2[gke_h100_standalone_llama-3.1-8b]: SIMULATED, bottleneck decode: evidence 2" in text
    assert "evidence 1" not in text
    assert "evidence 3" not in text


def test_a_real_engine_s_line_says_nothing_of_a_simulation() -> None:
    (line,) = bottleneck_lines(told("queueing", simulated=False), 200)
    assert line.endswith("]: bottleneck queueing: evidence 0")


def test_what_is_said_of_a_client_that_is_not_trusted_is_not_said_twice() -> None:
    (document,) = told("client")
    assert list(bottleneck_lines([document], 200)) != []
    distrusted = document.client.model_copy(update={"distrust": ("too late",)})
    assert list(bottleneck_lines([document.model_copy(update={"client": distrusted})], 200)) == []


def test_equal_ones_are_told_together_beyond_a_few() -> None:
    lines = list(bottleneck_lines(told(*["decode"] * 6, "prefill"), 200))
    assert [line.rpartition("evidence ")[2] for line in lines] == ["0", "1", "2", "bottleneck decode in 3 more runs", "6"]
    assert list(bottleneck_lines(told(*["decode"] * 4), 200))[-1] == "bottleneck decode in 1 more run"
