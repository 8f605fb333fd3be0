"""A recorded trace: arrivals and lengths as production saw them (``--llmperf-trace=FILE``)."""

import pytest

from pytest_llmperf import Load, Sla, TraceReplay


@pytest.mark.llmperf(workload="trace-replay")
def test_trace_replay(load: Load, sla: Sla, replay: tuple[TraceReplay, str | None]) -> None:
    """The SLA holds under the trace's own bursts, without warm-up: nothing of the recording is left out."""
    profile, duration = replay
    run = load(profile, duration, warmup="0s")
    assert run.meets(sla)
