"""Servers at a chosen utilisation, run in virtual time: each run becomes the arrays that verdicts are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from pytest_llmperf.sim.spec import SimSpec
from pytest_llmperf.sim.virtual import Arrival, VirtualRun, open_loop
from tests.unit.sim.cells import spec

Floats = NDArray[np.float64]

PROMPT_TOKENS = 512.0
OUTPUT_TOKENS = 128.0
LENGTH_CV = 0.7
"""Coefficient of variation of both lengths, which are lognormal."""
_LONGEST_TOKENS = 4000
_SATURATING_REQUESTS = 12_000


@dataclass(frozen=True)
class System:
    """A server, and requests that arrive at it at a constant mean rate."""

    name: str
    """What tables call the server."""
    server: SimSpec
    utilisation: float
    """Arrival rate over capacity; above 1 the server is overloaded."""
    rate_per_s: float
    warmup_requests: int
    """Served before the counted ones, so that those see the server in its steady state."""

    def __str__(self) -> str:
        return f"{self.name}, utilisation {self.utilisation:g}"


@dataclass(frozen=True)
class Trace:
    """The counted requests of one run in the order they arrived; every array has shape (n,)."""

    arrived_s: Floats
    """In seconds since the first of them arrived, or since the load began for one that is seen from the start."""
    known_s: Floats
    """When a request and all before it had ended, on the same clock: a look can use it from then on."""
    in_flight: Floats
    """How many other requests were at the server when this one arrived."""
    latencies: Mapping[str, Floats]
    """``ttft``, ``tpot`` and ``e2e``, seconds."""


def h100(max_num_seqs: int = 1024) -> SimSpec:
    """Llama 3.1 8B on one H100, as the shipped catalog has it, with a context that suits short prompts.

    1024 running sequences are vLLM's default there: nothing waits for long, everything gets slower. With few of them requests
    queue for a place, and TTFT has a tail of rare long bursts.
    """
    return spec(max_model_len=8192, max_num_seqs=max_num_seqs)


def at(name: str, server: SimSpec, utilisation: float, warmup_requests: int = 0) -> System:
    """The server with arrivals at that share of its capacity."""
    return System(name, server, utilisation, utilisation * capacity_per_s(server), warmup_requests)


@cache
def _capacity_per_s(document: str) -> float:
    run = open_loop(SimSpec.from_json(document), _arrivals(np.random.default_rng(0), np.zeros(_SATURATING_REQUESTS)))
    ends_s = np.sort([request.finish_s for request in run.requests])
    middle = ends_s[_SATURATING_REQUESTS // 5 : -_SATURATING_REQUESTS // 5]
    return float((len(middle) - 1) / (middle[-1] - middle[0]))


def capacity_per_s(server: SimSpec) -> float:
    """Requests a second that end while more are waiting than the server can admit."""
    return _capacity_per_s(server.to_json())


def _tokens(draw: np.random.Generator, mean: float, n: int) -> list[int]:
    sigma = float(np.sqrt(np.log1p(LENGTH_CV**2)))
    lengths = np.rint(draw.lognormal(np.log(mean) - sigma**2 / 2, sigma, n))
    # Two tokens at least, so that every request has a TPOT.
    tokens: list[int] = np.clip(lengths, 2, _LONGEST_TOKENS).astype(int).tolist()
    return tokens


def _arrivals(draw: np.random.Generator, at_s: Floats) -> list[Arrival]:
    prompts = _tokens(draw, PROMPT_TOKENS, len(at_s))
    outputs = _tokens(draw, OUTPUT_TOKENS, len(at_s))
    return list(map(Arrival, at_s.tolist(), prompts, outputs))


def simulate(system: System, n_requests: int, seed: int, server: SimSpec | None = None) -> Trace:
    """One run of Poisson arrivals: the system's warm-up, then ``n_requests`` that count.

    ``server`` stands in for the system's own, at the same rate: two runs with one seed are asked the same at the same times.
    """
    trace = _run(system, system.warmup_requests + n_requests, seed, server or system.server)
    return _from(trace, system.warmup_requests)


def simulate_from_start(system: System, duration_s: float, seed: int) -> Trace:
    """One run that finds an empty server, all requests from the first on."""
    return _run(system, int(duration_s * system.rate_per_s), seed, system.server)


def _run(system: System, n_requests: int, seed: int, server: SimSpec) -> Trace:
    draw = np.random.default_rng((seed, int(1000 * system.utilisation)))
    at_s = np.cumsum(draw.exponential(1 / system.rate_per_s, n_requests))
    return _trace(open_loop(server, _arrivals(draw, at_s), seed=seed))


def _trace(run: VirtualRun) -> Trace:
    arrived_s = np.array([request.arrival_s for request in run.requests])
    first_s = np.array([request.first_token_s for request in run.requests])
    ended_s = np.array([request.finish_s for request in run.requests])
    tokens = np.array([request.output_tokens for request in run.requests])
    # Whatever ended before a request arrived also arrived before it, so the difference of the two counts is in flight.
    in_flight = np.arange(len(arrived_s)) - np.searchsorted(np.sort(ended_s), arrived_s, side="right")
    latencies = {"ttft": first_s - arrived_s, "tpot": (ended_s - first_s) / (tokens - 1), "e2e": ended_s - arrived_s}
    return Trace(arrived_s, np.maximum.accumulate(ended_s), in_flight.astype(float), latencies)


def _from(trace: Trace, first: int) -> Trace:
    """The requests from number ``first`` on; the clock starts when that one arrives."""
    began_s = float(trace.arrived_s[first])
    return Trace(
        arrived_s=trace.arrived_s[first:] - began_s,
        known_s=trace.known_s[first:] - began_s,
        in_flight=trace.in_flight[first:],
        latencies={name: values[first:] for name, values in trace.latencies.items()},
    )
