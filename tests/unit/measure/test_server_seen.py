"""What series say of a server over the window: means, differences, several engines, restarts, accelerators."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pytest_llmperf.measure.exposition import Series
from pytest_llmperf.measure.over_time import Window, counted_on, increase, mean_within
from pytest_llmperf.measure.ownership import belonging, engines_in
from pytest_llmperf.measure.server import ServerSeen, server_seen
from pytest_llmperf.report.server_part import server_part
from tests.unit.measure.told import histogram, series
from tests.unit.report.runs import answered, run_of

RUNNING, WAITING, KV = "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"
GENERATED = "vllm:generation_tokens_total"


def seen(told: Sequence[Series], window: tuple[float, float] = (1.0, 3.0), accelerators: int = 1, **more: Any) -> ServerSeen:
    found = server_seen(told, Window(*window), model="m", accelerators=accelerators, **more)
    assert found is not None
    return found


def test_the_window_s_means_maxima_and_rates() -> None:
    told = seen(
        [
            series(RUNNING, [9, 2, 4, 2, 9]),
            series(WAITING, [9, 0, 1, 0, 9]),
            series(KV, [0.9, 0.2, 0.4, 0.6, 0.9]),
            series(GENERATED, [0, 100, 300, 600, 1000]),
            series("vllm:prompt_tokens_total", [0, 10, 20, 30, 40]),
            series("vllm:num_preemptions_total", [0, 1, 2, 4, 8]),
            series("vllm:prefix_cache_queries_total", [0, 100, 200, 300, 400]),
            series("vllm:prefix_cache_hits_total", [0, 0, 50, 50, 90]),
        ]
    )
    assert [told.running_mean, told.running_max] == pytest.approx([3, 4])
    assert [told.waiting_mean, told.waiting_max, told.idle_share] == pytest.approx([0.5, 1, 0])
    assert [told.kv_cache_usage_mean, told.kv_cache_usage_max] == pytest.approx([0.4, 0.6])
    assert told.generation_tokens_per_s == pytest.approx(250)
    assert told.prompt_tokens_per_s == pytest.approx(10)
    assert told.preemptions == 3
    assert told.prefix_cache_hit_rate == pytest.approx(0.25)
    assert told.samples == 3
    assert told.values["generation_tokens_per_s"].tolist() == pytest.approx([math.nan, 100, 200, 300, 400], nan_ok=True)
    assert told.values["prefix_cache_hit_rate"].tolist() == pytest.approx([math.nan, 0, 0.5, 0, 0.4], nan_ok=True)
    assert told.notes == ()


def test_bounds_between_samples_are_read_off_a_straight_line() -> None:
    told = seen([series(RUNNING, [0, 4, 4]), series(GENERATED, [0, 100, 300])], (0.5, 1.5))
    assert told.generation_tokens_per_s == pytest.approx(150)  # from 50 to 200
    assert told.running_mean == pytest.approx(0.5 * 3 + 0.5 * 4)


def test_engines_of_one_model_are_added_up_and_their_usage_is_not() -> None:
    told = seen(
        [
            *(series(RUNNING, value, engine=engine) for engine, value in (("0", [1, 1, 1, 1]), ("1", [2, 2, 2, 2]))),
            *(series(KV, value, engine=engine) for engine, value in (("0", [0.2] * 4), ("1", [0.8] * 4))),
        ]
    )
    assert told.running_mean == pytest.approx(3)
    assert [told.kv_cache_usage_mean, told.kv_cache_usage_max] == pytest.approx([0.5, 0.8])


def test_another_model_s_series_are_not_the_run_s() -> None:
    other = Series(RUNNING, {"model_name": "other"}, np.arange(4.0), np.full(4, 7.0))
    assert seen([series(RUNNING, [1] * 4), other]).running_mean == pytest.approx(1)
    # A model that no label names is an adapter, or has two names: then whatever there is counts.
    found = server_seen([other], Window(1, 3), model="m", accelerators=1)
    assert found is not None
    assert found.running_mean == pytest.approx(7)


def test_a_restarted_engine_is_counted_on_and_told() -> None:
    told = seen(
        [series(RUNNING, [1] * 5), series(GENERATED, [100, 200, 300, 50, 150])],
        (0.0, 4.0),
    )
    assert told.generation_tokens_per_s == pytest.approx((200 + 150) / 4)
    assert told.notes == ("an engine's counters fell (it was started anew): seen at 3s; counted on from there",)


def test_one_of_two_engines_that_restarts_loses_nothing_of_the_other() -> None:
    one, other = series(GENERATED, [500, 600, 10], engine="0"), series(GENERATED, [700, 800, 900], engine="1")
    assert increase([one, other], Window(0, 2)) == pytest.approx(100 + 10 + 200)


def test_a_counter_falls_more_than_once() -> None:
    assert counted_on(np.array([5.0, 1.0, 3.0, 0.0, 2.0])).tolist() == [5, 6, 8, 8, 10]


def test_a_histogram_is_what_it_took_within_the_window() -> None:
    below = {"0.1": [5, 5, 10, 10], "0.5": [5, 5, 20, 20], "+Inf": [6, 6, 21, 26]}
    told = seen([series(RUNNING, [1] * 4), *histogram("vllm:time_to_first_token_seconds", below, [9, 9, 12, 99])], (1.0, 2.0))
    ttft = told.times["ttft"]
    assert [ttft.count, ttft.mean_s] == pytest.approx([15, 3 / 15])
    assert ttft.p50_s == pytest.approx(0.1 + 0.4 * 2.5 / 10)
    assert ttft.p99_s == pytest.approx(0.1 + 0.4 * 9.85 / 10)
    assert ttft.resolution_s == pytest.approx(0.4)
    assert ttft.p99_bucket_s == pytest.approx((0.1, 0.5))
    assert "e2e" not in told.times


def test_a_bound_below_which_nothing_lies_is_none() -> None:
    below = {"-Inf": [0, 0], "0.1": [0, 9], "+Inf": [0, 9]}
    told = seen([series(RUNNING, [1, 1]), *histogram("vllm:e2e_request_latency_seconds", below, [0, 0.9])], (0.0, 1.0))
    assert told.times["e2e"].p99_bucket_s == (0.0, 0.1)


def test_beyond_the_last_bucket_there_is_no_p99() -> None:
    below = {"0.1": [0, 1], "+Inf": [0, 9]}
    told = seen([series(RUNNING, [1, 1]), *histogram("vllm:e2e_request_latency_seconds", below, [0, 9])], (0.0, 1.0))
    assert (told.times["e2e"].p99_s, told.times["e2e"].resolution_s) == (None, None)
    assert told.times["e2e"].mean_s == pytest.approx(1)


def test_the_older_name_of_itl() -> None:
    told = seen(
        [series(RUNNING, [1, 1]), *histogram("vllm:time_per_output_token_seconds", {"0.1": [0, 4], "+Inf": [0, 4]}, [0, 0.2])],
        (0.0, 1.0),
    )
    assert told.times["itl"].mean_s == pytest.approx(0.05)


@pytest.mark.parametrize("window", [(10.0, 20.0), (-9.0, -1.0)])
def test_samples_elsewhere_say_nothing_of_the_window(window: tuple[float, float]) -> None:
    assert server_seen([series(RUNNING, [1] * 4)], Window(*window), model="m", accelerators=1) is None
    assert server_seen([], Window(*window), model="m", accelerators=1) is None


def test_the_largest_gap_within_the_window_is_told() -> None:
    at_s = np.array([*range(10), 30, 31, *range(50, 61)], float)
    told = Series(RUNNING, {"model_name": "m"}, at_s, np.ones(len(at_s)))
    assert seen([told], (0.0, 60.0)).notes == (
        "nothing is known of the server's side from 9s to 30s: there it is taken for a straight line",
    )
    # What is missing before or after the window is of no account.
    assert seen([told], (50.0, 60.0)).notes == ()
    one_late = Series(RUNNING, {"model_name": "m"}, np.array([0.0, 1, 2, 4, 5, 6]), np.ones(6))
    assert seen([one_late], (0.0, 6.0)).notes == ()


def test_what_an_engine_had_counted_before_it_was_seen_is_left_out_and_told() -> None:
    late = Series(GENERATED, {"model_name": "m", "engine": "1"}, np.array([3.0, 4.0]), np.array([500.0, 600.0]))
    told = seen([series(RUNNING, [1] * 5), series(GENERATED, [0, 100, 200, 300, 400], engine="0"), late], (0.0, 4.0))
    assert told.generation_tokens_per_s == pytest.approx((400 + 100) / 4)
    assert told.notes == ("an engine was first seen at 3s: what it had counted by then is left out",)


def test_an_engine_that_dies_within_the_window_is_told() -> None:
    told = seen([*engine(range(31), "a"), *engine(range(21), "b"), *engine(range(6), "c")], (10.0, 30.0))
    # What it counted until then is of the window; its silence after that would otherwise read as a slower server.
    assert told.generation_tokens_per_s == pytest.approx((20_000 + 10_000) / 20)
    assert told.notes == ("an engine was last seen at 20s: what it counted after that is left out",)
    # Read a little earlier than the other, it is no less alive.
    assert seen([*engine(range(31), "a"), *engine(range(29), "b")], (10.0, 30.0)).notes == ()
    # Where the reading ends for all of them, that is told and no death.
    (note,) = seen([*engine(range(21), "a"), *engine(range(21), "b")], (10.0, 30.0)).notes
    assert "is known from" in note


def test_two_samples_beside_one_another_make_no_rate() -> None:
    at_s = np.array([0.0, 1.0, 1.999, 2.0, 3.0])
    # 20 tokens a step of 20 ms: one step lies between the two.
    counted = Series(GENERATED, {"model_name": "m"}, at_s, np.array([0.0, 1000, 1980, 2000, 3000]))
    told = seen([Series(RUNNING, {"model_name": "m"}, at_s, np.ones(5)), counted], (0.0, 3.0))
    rates = told.values["generation_tokens_per_s"]
    assert math.isnan(rates[0])
    assert rates[1:].tolist() == pytest.approx([1000, 980 / 0.999, 1020 / 1.001, 1020 / 1.001])


ODD_TTFT = [series("vllm:time_to_first_token_seconds_bucket", [0, 5], le=bound) for bound in ("", "abc", "nan", "1")]


@pytest.mark.parametrize(
    "odd",
    [
        ODD_TTFT,
        [*ODD_TTFT, series("vllm:time_to_first_token_seconds_sum", [0, 5])],
        [series("vllm:time_to_first_token_seconds_bucket", [0, 5], le="+Inf")],
        [series("vllm:num_preemptions_total", [1e308, 0, 1e308, 0, 1e308])],
        [series(KV, [1e308] * 2), series(GENERATED, [1e308, 0] * 4, engine="0"), series(GENERATED, [1e308, 0] * 4, engine="1")],
    ],
)
def test_what_makes_no_sense_leaves_that_value_unknown_and_the_document_whole(odd: list[Series]) -> None:
    told = seen([series(RUNNING, [1, 3]), *odd], (0.0, 1.0))
    assert (told.running_mean, told.times) == (2.0, {})
    part = server_part(replace(run_of(answered(1)), server=told))
    assert part is not None
    assert part.preemptions is None or part.preemptions >= 0


def test_a_window_that_is_covered_in_part_is_told_and_rates_are_of_that_part() -> None:
    told = seen([series(RUNNING, [1] * 5), series(GENERATED, [0, 10, 20, 30, 40])], (1.0, 21.0))
    assert told.generation_tokens_per_s == pytest.approx(10)
    assert told.notes == ("the server's side is known from 0s to 4s after the start, and the window was from 1s to 21s",)


def test_idle_is_what_neither_runs_nor_waits() -> None:
    told = seen([series(RUNNING, [0, 0, 0, 1, 0]), series(WAITING, [0, 1, 0, 0, 0])], (0.0, 3.0))
    assert told.idle_share == pytest.approx(0.5)


DCGM = {
    "DCGM_FI_DEV_GPU_UTIL": [(50, 50, 50, 50), (100, 100, 100, 100)],
    "DCGM_FI_DEV_POWER_USAGE": [(300, 300, 300, 300), (400, 400, 400, 400)],
    "DCGM_FI_DEV_FB_USED": [(10, 10, 10, 10), (30, 30, 30, 30)],
}


def gpus(**labels: str) -> list[Series]:
    return [
        Series(name, {"gpu": str(gpu), **labels}, np.arange(4.0), np.array(value, float))
        for name, values in DCGM.items()
        for gpu, value in enumerate(values)
    ]


def test_the_cell_s_accelerators() -> None:
    told = seen([series(RUNNING, [1] * 4), *gpus()], accelerators=2)
    assert told.gpu_power_w == pytest.approx(700)
    assert told.gpu_utilisation_mean == pytest.approx(0.75)
    assert told.values["gpu_memory_bytes"].tolist() == [40 * 2**20] * 4


def test_accelerators_of_which_some_are_not_the_cell_s_are_not_taken_for_it() -> None:
    told = seen([series(RUNNING, [1] * 4), *gpus()], accelerators=1)
    assert (told.gpu_power_w, told.gpu_utilisation_mean) == (None, None)
    assert not {"gpu_power_w", "gpu_utilisation", "gpu_memory_bytes"} & set(told.values)
    assert told.notes == ("the exporter tells of 2 accelerators and the cell has 1: which of them is not known",)


def test_another_pod_s_accelerator_is_never_the_cell_s() -> None:
    pod = {"namespace": "x", "pod": "llm-0"}
    engine = series(RUNNING, [1] * 4, **pod)
    power = series("DCGM_FI_DEV_POWER_USAGE", [650] * 4, exported_namespace="y", exported_pod="other", pod="dcgm")
    told = seen([engine, power])
    assert told.gpu_power_w is None
    assert told.notes == ("the exporter tells of other pods' accelerators, and of none of the engine's pod",)
    nobody_s = series("DCGM_FI_DEV_POWER_USAGE", [300] * 4)
    assert seen([engine, nobody_s, power]).gpu_power_w == pytest.approx(300)
    # An engine's own page does not say in which pod it is.
    assert seen([series(RUNNING, [1] * 4), power]).gpu_power_w == pytest.approx(650)


def test_accelerators_pods_and_processes_go_with_the_engine_s_pod() -> None:
    mine, others = {"namespace": "x", "pod": "llm-0"}, {"namespace": "x", "pod": "db-0"}
    found = belonging(
        [
            series(RUNNING, [1] * 4, job="vllm", instance="a:8000", **mine),
            *gpus(exported_namespace="x", exported_pod="llm-0", namespace="gpu-operator", pod="dcgm-exporter"),
            *gpus(exported_namespace="x", exported_pod="db-0", namespace="gpu-operator", pod="dcgm-exporter"),
            *(series("container_cpu_usage_seconds_total", [1], container="vllm", **pod) for pod in (mine, others)),
            series("container_cpu_usage_seconds_total", [1], container="", **mine),
            series("process_cpu_seconds_total", [1], job="vllm", instance="a:8000"),
            series("process_cpu_seconds_total", [1], job="prometheus", instance="localhost:9090"),
        ],
        "m",
    )
    assert sorted((one.name, one.labels.get("exported_pod") or one.labels.get("job") or one.labels["pod"]) for one in found) == [
        *((name, "llm-0") for name in sorted(DCGM) for _ in range(2)),
        ("container_cpu_usage_seconds_total", "llm-0"),
        ("process_cpu_seconds_total", "vllm"),
        (RUNNING, "vllm"),
    ]
    assert engines_in(found) == 1


def test_a_pod_s_cpu_and_memory_come_before_its_process_s() -> None:
    pod = {"namespace": "x", "pod": "llm-0"}
    told = seen(
        [
            series(RUNNING, [1] * 4, **pod),
            series("process_cpu_seconds_total", [0, 1, 2, 3]),
            series("process_resident_memory_bytes", [5] * 4),
            series("container_cpu_usage_seconds_total", [0, 4, 8, 12], container="vllm", **pod),
            series("container_memory_working_set_bytes", [50] * 4, container="vllm", **pod),
        ]
    )
    assert told.values["cpu_cores"].tolist()[1:] == [4, 4, 4]
    assert told.values["memory_bytes"].tolist() == [50] * 4


def test_a_gauge_that_is_not_known_yet() -> None:
    at_s, value = np.arange(4.0), np.array([math.nan, math.nan, 2.0, 4.0])
    assert mean_within(at_s, value, Window(2, 3)) == pytest.approx(3)
    assert mean_within(at_s, value, Window(0, 1)) is None
    assert mean_within(at_s, np.full(4, math.nan), Window(0, 3)) is None
    assert mean_within(at_s, value, Window(3, 3)) == 4


def engine(at_s: Sequence[float], instance: str) -> list[Series]:
    """One that runs ten requests and makes a thousand tokens a second, as a Prometheus saw it."""
    labels = {"model_name": "m", "instance": instance}
    at = np.array(at_s, float)
    return [Series(RUNNING, labels, at, np.full(len(at), 10.0)), Series(GENERATED, labels, at, 1000 * at)]


def test_engines_that_are_read_at_several_instants_are_all_there_at_the_end() -> None:
    told = seen([*engine(range(0, 91, 15), "a"), *engine(range(10, 86, 15), "b")], (20.0, 83.0))
    assert told.running_mean == pytest.approx(20)
    assert told.values["running"].tolist() == pytest.approx([10, 20, 20, 20, 20, 20, 20])
    assert told.generation_tokens_per_s == pytest.approx(2000)


def test_an_engine_that_is_gone_is_counted_no_more() -> None:
    told = seen([*engine(range(0, 91, 15), "a"), *engine(range(0, 31, 15), "b")], (60.0, 90.0))
    assert told.running_mean == pytest.approx(10)


def test_an_engine_that_was_there_before_does_not_stand_for_those_of_the_window() -> None:
    told = seen([*engine(range(0, 40), "before"), *engine(range(50, 60), "now")], (52.0, 58.0))
    assert told.samples == 7
    assert told.running_mean == pytest.approx(10)
