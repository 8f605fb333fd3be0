"""Tables of several runs: what they say, that they fit 80 columns, and that they say SIMULATED exactly where it applies."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from pytest_llmperf.judge.capacity import Capacity, Ending, Probe, search
from pytest_llmperf.judge.paired import Comparison, compare
from pytest_llmperf.judge.verdict import Outcome, Verdict
from pytest_llmperf.measure.run import Run, Steadiness, Stopped
from pytest_llmperf.metrics import metric_key
from pytest_llmperf.report.experiment_tables import capacity_table, sweep_table, variants_table
from tests.unit.report.runs import answered, run_of, verdict_on


def walk(*, simulated: bool = True) -> tuple[Capacity, list[tuple[Run, Verdict]]]:
    """10/s passes, 20/s fails, 14/s cannot be told."""
    runs = [
        run_of(answered(100), profile="poisson 10/s", simulated=simulated),
        run_of(answered(100, scale=3.0), profile="poisson 20/s", simulated=simulated),
        run_of(answered(40), profile="poisson 14.1/s", simulated=simulated),
    ]
    probes = [(run, verdict_on(run)) for run in runs]
    verdicts = iter(probes)
    capacity = search(10.0, 40.0, lambda rate: _probe(rate, next(verdicts)[1]), max_probes=3)
    return capacity, probes


def _probe(rate: float, verdict: Verdict) -> Probe:
    return Probe(rate, verdict.outcome, "; ".join(verdict.reasons))


def test_the_walk_of_a_capacity() -> None:
    capacity, probes = walk()
    table = capacity_table(capacity, probes)
    lines = table.splitlines()
    assert lines[0].startswith("Capacity for SLA interactive-chat on gke_h100_standalone_llama-3.1-8b: 10/s")
    assert "14.1/s was not shown to pass" in " ".join(lines[:4])
    rows = [line.split() for line in lines if line.lstrip().startswith(("10/s", "20/s", "14.1/s"))]
    assert [(row[0], row[2], row[3]) for row in rows[-3:]] == [
        ("10/s", "100", "PASS"),
        ("20/s", "100", "FAIL"),
        ("14.1/s", "40", "INCONCLUSIVE"),
    ]
    assert "TTFT p95" in table
    assert "x over" in table
    assert "needs 19 more samples (40 of 59)" in table


def test_without_a_capacity() -> None:
    run = run_of(answered(100, scale=5.0))
    verdict = verdict_on(run)
    capacity = Capacity(None, (_probe(10.0, verdict),), 0.0, 10.0, Ending.BELOW, "below 10/s, the lowest rate asked for: slow")
    table = capacity_table(capacity, [(run, verdict)])
    assert ": none" in table
    assert "below 10/s" in table


def test_a_sweep_has_a_line_a_point() -> None:
    runs = [run_of(answered(40), profile=profile) for profile in ("poisson 4/s", "poisson 8/s", "concurrency 64")]
    lines = sweep_table(runs).splitlines()
    assert [line.split()[:2] for line in lines[-3:]] == [["poisson", "4/s"], ["poisson", "8/s"], ["concurrency", "64"]]
    assert "TTFT p50" in lines[-4]
    # The 20th of 40 requests, which come in 20 steps from 100 to 300 ms.
    assert "195ms" in lines[-3]


def compared(factor: float, key: str = "tpot_p50", noise: float = 0.01) -> Comparison:
    values = [(0.02 * (1 + noise * i), 0.02 * factor) for i in range(4)]
    return compare(metric_key(key), 0.05, values, 8)


def test_two_variants() -> None:
    pair = run_of(answered(20)), run_of(answered(20, scale=1.3))
    throughput = compare(metric_key("output_tokens_per_s"), 0.05, [(100.0, 50.0), (110.0, 50.0), (100.0, 52.0)], 8)
    table = variants_table("default", "no-prefix-cache", [compared(1.3), compared(1.0, "ttft_p50"), throughput], [pair])
    lines = table.splitlines()
    assert lines[0].startswith("A: default, B: no-prefix-cache, under poisson 10/s")
    tpot, ttft, tokens = (next(line for line in lines if line.startswith(title)) for title in ("TPOT", "TTFT", "output"))
    assert tpot.endswith("FAIL")
    assert "+28.1%" in tpot
    assert ttft.endswith("PASS")
    assert "+103.8%" in tokens, "less throughput is worse"


def test_what_cannot_be_told_is_said() -> None:
    noisy = compare(metric_key("ttft_p50"), 0.05, [(1.0, 0.8), (1.0, 1.05), (1.0, 1.25)], 8)
    failed = compare(metric_key("tpot_p50"), 0.05, [(0.02, math.inf)] * 3, 8)
    missing = compare(metric_key("e2e_p50"), 0.05, [(0.02, math.nan)], 8)
    table = variants_table("a", "b", [noisy, failed, missing], [])
    assert "lower the load or make the runs longer" in " ".join(table.split())
    assert "- TPOT p50: in 3 of 3 pairs so many requests failed" in table
    assert "- E2E p50: not measured" in table
    assert "nan" not in table


def test_remarks_name_the_run() -> None:
    runs = [
        run_of(answered(40, failures=3), profile="poisson 4/s"),
        run_of(answered(40), profile="poisson 8/s", invalid=("worker 0 used 98% of a CPU core",)),
        replace(run_of(answered(40), profile="poisson 16/s"), steadiness=Steadiness(unstable="the backlog grew")),
        replace(run_of(answered(40), profile="poisson 32/s"), stopped=Stopped("TTFT p95 is settled", "FAIL", 3.0, 27.0)),
    ]
    table = sweep_table(runs)
    for remark in (
        "- poisson 4/s: 3 of 43 requests failed",
        "- poisson 8/s: INVALID: worker 0 used 98% of a CPU core",
        "- poisson 16/s: unstable: the backlog grew",
        "- poisson 32/s: ended 27s early: TTFT p95 is settled",
    ):
        assert remark in table


@pytest.mark.parametrize("simulated", [True, False])
def test_simulated_is_said_exactly_where_it_is(simulated: bool) -> None:
    run = run_of(answered(20), simulated=simulated)
    for table in (
        capacity_table(*walk(simulated=simulated)),
        sweep_table([run]),
        variants_table("a", "b", [compared(1.0)], [(run, run)]),
    ):
        assert ("SIMULATED" in table) is simulated


def test_nothing_is_wider_than_80_columns() -> None:
    run = run_of(answered(40, failures=3), profile="constant 1,234/s", invalid=("so it goes " * 20,))
    long = [compared(1.31, key) for key in ("service_ttft_p99.9", "output_tokens_per_s")]
    noisy = [compare(metric_key("service_e2e_p99.9"), 0.05, [(1.0, 0.5), (1.0, 1.05), (1.0, 2.0)], 8)]
    tables = (
        capacity_table(*walk()),
        sweep_table([run, run]),
        variants_table("default", "no-prefix-cache", long, [(run, run)]),
        variants_table("default", "no-prefix-cache", noisy, [(run, run)]),
    )
    assert max(len(line) for table in tables for line in table.splitlines()) <= 80


def test_the_outcomes_are_those_of_the_verdicts() -> None:
    assert compared(1.0).verdict.outcome is Outcome.PASS
    assert compared(1.3).verdict.outcome is Outcome.FAIL
