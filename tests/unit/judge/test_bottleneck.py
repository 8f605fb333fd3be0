"""What a run waited for: each rule by hand, and each kind on a real simulator that lacks just that."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pytest_llmperf.experiment.profile import Concurrency, LoadProfile, Poisson
from pytest_llmperf.experiment.records import Lengths
from pytest_llmperf.judge.bottleneck import Bottleneck, Kind, bottleneck
from pytest_llmperf.measure.run import Run, Steadiness
from pytest_llmperf.measure.server import ServerSeen, ServerTimes
from pytest_llmperf.measure.trust import TrustLimits, distrust
from tests.unit.load.loads import workload
from tests.unit.measure.logs import worker_health
from tests.unit.measure.simulated import simulator, watched
from tests.unit.report.runs import answered, run_of

RUN = run_of(answered(5))
GREW = Steadiness(unstable="the backlog grew by 12.0 requests per 100 arrivals")


def seen(times: dict[str, float] | None = None, **more: Any) -> ServerSeen:
    """A server that decodes four requests at a time, but for what is given; mean times in seconds."""
    means = {"ttft": 0.1, "e2e": 1.0, "queue": 0.01, "prefill": 0.05, "decode": 0.9} if times is None else times
    known: dict[str, Any] = {
        "running_mean": 4.0,
        "waiting_mean": 0.0,
        "idle_share": 0.0,
        "kv_cache_usage_max": 0.5,
        "preemptions": 0,
    }
    return ServerSeen(
        "metrics",
        np.arange(3.0),
        {},
        3,
        times={name: ServerTimes(10, mean_s, None, None, None) for name, mean_s in means.items()},
        **{**known, **more},
    )


def found(server: ServerSeen | None, **run: Any) -> Bottleneck:
    return bottleneck(replace(RUN, server=server, **run))


QUEUED = {"ttft": 0.1, "e2e": 1.0, "queue": 0.08, "prefill": 0.02, "decode": 0.8}


@pytest.mark.parametrize(
    ("kind", "server"),
    [
        ("decode", seen()),
        ("prefill", seen({"e2e": 1.0, "queue": 0.1, "prefill": 0.5, "decode": 0.4})),
        ("prefill", seen({"e2e": 1.0, "queue": 0.4, "prefill": 0.35, "decode": 0.25})),
        ("none", seen(running_mean=0.9)),
        ("none", seen(idle_share=0.25)),
        ("queueing", seen(QUEUED, waiting_mean=1.0)),
        ("decode", seen(QUEUED, waiting_mean=0.9)),
        ("decode", seen(waiting_mean=3.0)),  # they wait, but not for long beside what a prompt takes
        ("queueing", seen({}, waiting_mean=3.0)),
        ("kv_cache", seen(QUEUED, waiting_mean=1.0, kv_cache_usage_max=0.95)),
        ("kv_cache", seen(preemptions=1, kv_cache_usage_max=0.99)),
        ("queueing", seen(QUEUED, waiting_mean=1.0, kv_cache_usage_max=0.94, preemptions=3)),
        ("decode", seen(kv_cache_usage_max=1.0)),
        ("decode", seen(kv_cache_usage_max=None, preemptions=None)),
        ("unknown", seen({})),
        ("unknown", seen(running_mean=None)),
        ("unknown", None),
    ],
)
def test_the_rules_in_their_order(kind: Kind, server: ServerSeen | None) -> None:
    assert found(server).kind == kind


def test_a_growing_backlog_is_a_queue_unless_the_server_contradicts() -> None:
    assert found(None, steadiness=GREW).kind == "queueing"
    assert (
        found(None, steadiness=Steadiness(unstable="still warming up: TPOT had not settled after 300 requests")).kind == "unknown"
    )
    assert found(seen(waiting_mean=3.0), steadiness=GREW).kind == "queueing"
    # With room in the batch the backlog runs instead of waiting: then what it does there is slow.
    assert found(seen(), steadiness=GREW).kind == "decode"


@pytest.mark.parametrize(
    ("health", "said"),
    [
        ({"lateness_p99_s": 0.041}, "load worker 3 is near its limit: lateness p99 41ms (limit 50ms)"),
        ({"loop_lag_p99_s": 0.045}, "load worker 3 is near its limit: event-loop lag p99 45ms (limit 50ms)"),
        ({"cpu_share": 0.8}, "load worker 3 is near its limit: CPU 80% (limit 95%)"),
    ],
)
def test_a_client_near_its_limits(health: dict[str, Any], said: str) -> None:
    result = replace(RUN.result, health=replace(RUN.result.health, workers=(worker_health(), worker_health(3, **health))))
    assert found(seen(), result=result) == Bottleneck("client", said)
    idle = replace(RUN.result, health=replace(RUN.result.health, workers=(worker_health(requests=0, **health),)))
    assert found(seen(), result=idle).kind == "decode"


def test_an_invalid_run_waited_for_its_client_whatever_the_server_says() -> None:
    assert found(seen(QUEUED, waiting_mean=9.0), invalid=("too late", "too busy")) == Bottleneck("client", "too late")


def test_the_evidence_has_the_numbers() -> None:
    assert found(seen(waiting_mean=2.5, kv_cache_usage_max=1.0, preemptions=1)).evidence == (
        "the KV cache was up to 100% full, with 1 preemption, 2.5 requests waiting and 4 running on average"
    )
    assert found(seen(QUEUED, waiting_mean=2.5), steadiness=GREW).evidence == (
        "2.5 requests waiting and 4 running on average; 80ms in the queue of 100ms to the first token; "
        "the KV cache at most 50% full; the backlog grew by 12.0 requests per 100 arrivals"
    )
    assert found(seen()).evidence == "of 1s in the engine: queue 1%, prefill 5%, decode 90%; 4 requests running on average"
    assert found(seen(running_mean=1.004)).evidence.endswith("; 1 request running on average")
    assert found(seen(QUEUED, waiting_mean=1.0)).evidence.startswith("1 request waiting and 4 running on average; ")
    assert found(seen(running_mean=1.0, idle_share=0.5)).evidence.startswith("1 request running and 0 waiting on average; ")
    assert found(seen(running_mean=0.3, idle_share=0.6)).evidence == (
        "0.3 requests running and 0 waiting on average; none at all in 60% of the samples"
    )


@pytest.mark.parametrize(
    ("kind", "engine_args", "profile", "lengths"),
    [
        ("kv_cache", {"max_model_len": 2048, "num_gpu_blocks_override": 160}, Concurrency(16), (200, 200)),
        ("queueing", {"max_num_seqs": 2}, Concurrency(12), (50, 50)),
        ("prefill", {"max_num_batched_tokens": 32_768}, Concurrency(2), (15_000, 4)),
        ("decode", {}, Concurrency(8), (20, 200)),
        ("none", {}, Poisson(2.0), (50, 10)),
    ],
)
def test_a_simulator_that_lacks_just_that(
    kind: Kind, engine_args: dict[str, Any], profile: LoadProfile, lengths: tuple[int, int]
) -> None:
    asked = workload(input=Lengths(lengths[0]), output=Lengths(lengths[1]), timeout=60.0)
    with simulator(**engine_args) as endpoint:
        result, told = watched(endpoint, profile, 2.0, asked, warmup_s=0.5)
    assert told.server is not None
    # Whether the client kept up on this machine is another rule's matter.
    judged = bottleneck(replace(RUN, result=replace(result, health=RUN.result.health), server=told.server))
    assert judged.kind == kind, judged.evidence


def test_a_client_that_is_trusted_with_less_than_it_can_do() -> None:
    strict = TrustLimits(lateness_p99_s=1e-9)
    with simulator() as endpoint:
        result, told = watched(endpoint, Poisson(20.0), 1.0, workload())
    run: Run = replace(RUN, result=result, server=told.server, trust=strict, invalid=distrust(result.health, strict))
    assert bottleneck(run).kind == "client"
    assert bottleneck(run).evidence.startswith("worker 0 sent its requests late: p99 ")
