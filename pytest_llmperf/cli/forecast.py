"""What the simulator would measure of a load, with given constants: the engine stepped in virtual time, no server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from statistics import median
from typing import TYPE_CHECKING

from pytest_llmperf.cli.calibration_load import closed_plan
from pytest_llmperf.measure.calibration import ClosedLoad, Constants, Medians
from pytest_llmperf.sim.virtual import Arrival, closed_loop, open_loop

if TYPE_CHECKING:
    from pytest_llmperf.load.plan import LoadPlan
    from pytest_llmperf.sim.spec import SimSpec
    from pytest_llmperf.sim.virtual import VirtualRequest


def with_constants(spec: SimSpec, constants: Constants) -> SimSpec:
    """The same deployment with other constants; bf16 and fp8 keep the proportion they have."""
    gpu = spec.gpu
    faster = constants.flops_per_s / gpu.effective_flops_per_s(spec.model.precision)
    return replace(
        spec,
        gpu=replace(
            gpu,
            bandwidth_bytes_per_s=constants.bandwidth_bytes_per_s,
            bandwidth_efficiency=1.0,
            flops_per_s={precision: faster * gpu.effective_flops_per_s(precision) for precision in gpu.flops_per_s},
            mfu=dict.fromkeys(gpu.flops_per_s, 1.0),
            layer_overhead_s=constants.layer_overhead_s,
            sequence_overhead_s=constants.sequence_overhead_s,
            token_overhead_s=constants.token_overhead_s,
        ),
        api_overhead_s=constants.api_overhead_s,
    )


def constants_of(spec: SimSpec) -> Constants:
    """The constants that a deployment is simulated with."""
    return Constants(
        bandwidth_bytes_per_s=spec.gpu.effective_bandwidth_bytes_per_s,
        flops_per_s=spec.gpu.effective_flops_per_s(spec.model.precision),
        layer_overhead_s=spec.gpu.layer_overhead_s,
        sequence_overhead_s=spec.gpu.sequence_overhead_s,
        token_overhead_s=spec.gpu.token_overhead_s,
        api_overhead_s=spec.api_overhead_s,
    )


def closed_medians(spec: SimSpec, load: ClosedLoad, seed: int = 0) -> Medians:
    """TTFT and TPOT of a closed loop: the same requests in the same order as the server was asked."""
    requests = closed_loop(spec, _asked(load, seed), load.concurrency).requests
    return _medians(requests[load.concurrency :] or requests)


@cache
def _asked(load: ClosedLoad, seed: int) -> tuple[Arrival, ...]:
    turns = [session.turns[0] for session in closed_plan(load, seed).sessions()]
    asked = tuple(Arrival(0.0, turn.prompt_tokens, turn.output_tokens) for turn in turns)
    # A single stream is the same every time.
    return asked[:1] if load.concurrency == 1 else asked


def open_medians(spec: SimSpec, plan: LoadPlan) -> Medians:
    """TTFT and TPOT of a planned open loop: the same arrivals and lengths that the server was asked, its warm-up included."""
    sessions = sorted((*plan.warmup_sessions(), *plan.sessions()), key=lambda session: session.arrival_s or 0.0)
    arrivals = [
        Arrival(session.arrival_s or 0.0, session.turns[0].prompt_tokens, session.turns[0].output_tokens) for session in sessions
    ]
    run = open_loop(spec, arrivals)
    return _medians([request for request in run.requests if request.arrival_s >= plan.window_start_s])


def _medians(requests: Sequence[VirtualRequest]) -> Medians:
    tpots = [request.tpot_s for request in requests if request.output_tokens > 1]
    return Medians(median(request.ttft_s for request in requests), median(tpots) if tpots else float("nan"))
