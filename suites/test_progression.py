"""From one user to more than the deployment can serve and back: what a load test shows step by step."""

import pytest

from pytest_llmperf import Load, NamedProfile, Sla, Sweep, concurrency, poisson, stairs

# What holds for the middle request, so that a handful of requests can show it.
MEDIANS = {"ttft": {"p50": "500ms"}, "tpot": {"p50": "100ms"}, "error_rate": "0%"}
STEPS = (0.25, 0.5, 1.0)
STRESS = 4.0


def times(factor: float, profile: NamedProfile) -> str:
    """So many times the profile's rate, as it is written: ``13/s``."""
    assert profile.rate is not None, "the workload's profile must be an open loop"
    return f"{factor * profile.rate:g}/s"


@pytest.mark.llmperf(workload="interactive-chat", sla=MEDIANS)
def test_single_user(load: Load, sla: Sla) -> None:
    """Nobody else is there: no latency will be lower than these."""
    run = load(concurrency(1), "8s")
    assert run.meets(sla)


@pytest.mark.llmperf(workload="interactive-chat", sla=MEDIANS)
def test_linear(sweep: Sweep, sla: Sla, profile: NamedProfile) -> None:
    """Step by step up to the rate at which the SLA is held: each step is served."""
    steps = sweep([times(factor, profile) for factor in STEPS], "5s")
    assert all(run.meets(sla) for run in steps)


@pytest.mark.llmperf(workload="summarization", sla=MEDIANS)
def test_stairs(load: Load, sla: Sla) -> None:
    """From one request in two seconds to two a second, step by step, in one run."""
    run = load(stairs("0.5/s", "2/s", step="0.5/s", each="2s", arrivals="constant"), warmup="0s")
    assert run.meets(sla)


@pytest.mark.llmperf(workload="summarization", sla=MEDIANS)
def test_stress_and_recovery(load: Load, sla: Sla, profile: NamedProfile) -> None:
    """Far more than can be served: it may be slow, but nothing may fail; and when it is over, it is over."""
    stressed = load(poisson(times(STRESS, profile)), "5s", label="stress")
    assert stressed["error_rate"] == 0
    recovered = load(poisson(times(0.5, profile)), "8s", label="after the stress")
    assert recovered.meets(sla)
