"""The loads that a calibration puts on a server, and the medians they measure."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pytest_llmperf.errors import LoadError
from pytest_llmperf.measure.calibration import ClosedLoad, Measured, Medians, answer_s
from pytest_llmperf.measure.latencies import request_latencies
from pytest_llmperf.units import format_duration

if TYPE_CHECKING:
    from pytest_llmperf.deploy.base import Endpoint
    from pytest_llmperf.experiment.records import Lengths, Workload
    from pytest_llmperf.load.plan import LoadPlan
    from pytest_llmperf.load.records import Floats, LoadResult, RequestLog
    from pytest_llmperf.measure.compute import Metrics

_SHORT_PROMPT = 32
_LONGEST_PROMPT = 8192
_FEWEST_OUTPUT, _MOST_OUTPUT = 16, 128
_FEWEST_PACED = 8
"""Below as many output tokens a TPOT is that of no step in particular."""
_ROUNDS = 5
"""Requests of each stream in a run. The first is not counted: those of all streams begin together."""
_PATIENCE, _LEAST_PATIENCE_S = 5, 15.0
"""How many times as long as planned a run may go on making requests, and how long in any case: a stall is no end."""
_CONTEXT_SHARE = 0.75
_CHECK = ClosedLoad(concurrency=16, prompt_tokens=200, output_tokens=48)
CHECK_SHARES = (0.3, 0.6)
"""The rates of the check, as shares of what the server does in a closed loop of such requests."""
PASSES = 3
_LONG_BATCH = 6
"""How many times as long the run is in which a batch has long contexts: its prompts alone take a while."""


@dataclass(frozen=True)
class Budget:
    """How long each run lasts, and which there are."""

    run_s: float
    concurrencies: tuple[int, ...]
    prompt_lengths: int
    check_s: float


NORMAL = Budget(run_s=1.6, concurrencies=(4, 16, 48), prompt_lengths=4, check_s=6.0)
QUICK = Budget(run_s=0.6, concurrencies=(4, 16), prompt_lengths=3, check_s=2.0)


@dataclass(frozen=True)
class Pace:
    """About how fast the server is, by a first look: what runs are sized by."""

    ttft_s: float
    tpot_s: float
    prefill_tokens_per_s: float

    def request_s(self, load: ClosedLoad) -> float:
        """About how long a request of this load takes."""
        # A guess of what a batch costs.
        step_s = self.tpot_s * (1 + load.concurrency / 32)
        prefill_s = load.concurrency * load.prompt_tokens / self.prefill_tokens_per_s
        return self.ttft_s + prefill_s + step_s * load.output_tokens


@dataclass(frozen=True)
class Server:
    """What is calibrated, and the seed of what it is asked."""

    endpoint: Endpoint
    max_model_len: int
    seed: int = 0


def first_look(server: Server) -> Pace:
    """Two short single-stream loads. Raises ``LoadError`` for a server that does not answer them."""
    longer = max(2 * _SHORT_PROMPT, min(1024, server.max_model_len // 2))
    short = _driven(server, ClosedLoad(1, _SHORT_PROMPT, _FEWEST_OUTPUT))
    long = _driven(server, ClosedLoad(1, longer, _FEWEST_OUTPUT))
    grown_s = max(long.ttft_s - short.ttft_s, 0.05 * long.ttft_s)
    # An answer whose tokens came all at once has no pace to be seen: they came within its TTFT.
    paces_s = [seen.tpot_s for seen in (short, long) if not math.isnan(seen.tpot_s)]
    return Pace(short.ttft_s, min(paces_s, default=short.ttft_s / _FEWEST_OUTPUT), (longer - _SHORT_PROMPT) / grown_s)


def planned_loads(pace: Pace, max_model_len: int, budget: Budget) -> list[ClosedLoad]:
    """Single streams of several prompt lengths, batches of short prompts, one batch of long ones: sized to last ``run_s``."""
    affordable = int(pace.prefill_tokens_per_s * budget.run_s / 2)
    longest = max(4 * _SHORT_PROMPT, min(_LONGEST_PROMPT, int(_CONTEXT_SHARE * max_model_len), affordable))
    lengths = np.geomspace(_SHORT_PROMPT, longest, budget.prompt_lengths).round().astype(int).tolist()
    loads = [(1, length) for length in lengths] + [(streams, _SHORT_PROMPT) for streams in budget.concurrencies]
    sized = [
        ClosedLoad(*load, _output_tokens(pace, *load, max_model_len, budget.run_s / _ROUNDS, _MOST_OUTPUT)) for load in loads
    ]
    # Where much is read of the KV cache: what tells bandwidth from overhead. Answers are long, so that prompts do not hide it.
    batch = budget.concurrencies[1]
    long_s = _LONG_BATCH * budget.run_s / _ROUNDS
    length = max(4 * _SHORT_PROMPT, min(longest // 2, int(pace.prefill_tokens_per_s * long_s / 3) // batch))
    return [*sized, ClosedLoad(batch, length, _output_tokens(pace, batch, length, max_model_len, long_s, 4 * _MOST_OUTPUT))]


def _output_tokens(pace: Pace, streams: int, length: int, max_model_len: int, seconds: float, most: int) -> int:
    """As many that an answer takes about so many seconds."""
    spent_s = pace.request_s(ClosedLoad(streams, length, 0))
    step_s = pace.request_s(ClosedLoad(streams, length, 1)) - spent_s
    tokens = max(_FEWEST_OUTPUT, min(most, int((seconds - spent_s) / step_s)))
    # The longest answer is half as long again.
    return min(tokens, (max_model_len - length) * 2 // 3)


def seconds_of(pace: Pace, load: ClosedLoad) -> float:
    """About how long a run lasts."""
    return _ROUNDS * pace.request_s(load)


def closed_plan(load: ClosedLoad, seed: int, seconds: float | None = None) -> LoadPlan:
    """A closed loop of so many requests that every stream makes several; ``seconds`` is the longest it may go on making them."""
    from pytest_llmperf.experiment.profile import Concurrency
    from pytest_llmperf.load.plan import plan_load

    n_requests = _ROUNDS * load.concurrency
    profile = Concurrency(load.concurrency)
    return plan_load(profile, _workload(load), seconds, seed=seed, warmup_s=0.0, max_requests=n_requests)


def run_closed(server: Server, load: ClosedLoad, pace: Pace) -> Measured:
    """One closed loop against the server. Raises ``LoadError`` when requests fail."""
    patience_s = max(_LEAST_PATIENCE_S, _PATIENCE * seconds_of(pace, load))
    result, _ = _measured(server, closed_plan(load, server.seed, patience_s))
    log = result.log
    counted = log.session >= load.concurrency
    if not counted.any():
        raise LoadError(
            f"no stream of {load.concurrency} got a second answer within {format_duration(patience_s)}",
            hint="The server has become much slower than it was at the first look; calibrate it while nothing else asks it.",
        )
    latencies = request_latencies(log)
    ttft_s, tpot_s = (_median_of_most(latencies[name][counted]) for name in ("ttft", "tpot"))
    return Measured(load, Medians(ttft_s, tpot_s), int(counted.sum()), _most_at_once(log))


def _median_of_most(values: Floats) -> float:
    """The median of what is known; nan where less than half is (answers whose tokens came all at once have no TPOT)."""
    known = values[~np.isnan(values)]
    return float(np.median(known)) if 2 * len(known) >= len(values) else math.nan


def check_load(server: Server) -> ClosedLoad:
    """The means of the check's lengths, and the batch that its rates are shares of. None of it is fitted."""
    # The longest prompt is four times the mean, and it has to find room.
    share = min(1.0, server.max_model_len / (8 * (_CHECK.prompt_tokens + _CHECK.output_tokens)))
    return replace(
        _CHECK,
        prompt_tokens=max(1, int(_CHECK.prompt_tokens * share)),
        output_tokens=max(_FEWEST_OUTPUT, int(_CHECK.output_tokens * share)),
    )


def check_plans(server: Server, pace: Pace, budget: Budget) -> list[LoadPlan]:
    """Two Poisson loads of prompts and answers of mixed lengths. Raises ``LoadError`` when requests fail."""
    from pytest_llmperf.experiment.profile import Poisson
    from pytest_llmperf.experiment.records import Lengths, Workload
    from pytest_llmperf.load.plan import plan_load

    load = check_load(server)
    seen = run_closed(server, load, pace).medians
    capacity_per_s = load.concurrency / answer_s(seen, load.output_tokens)
    workload = Workload(
        name="calibration-check",
        title="held-out load of a calibration",
        input=_spread(load.prompt_tokens),
        output=Lengths(mean=load.output_tokens, distribution="uniform", min=_FEWEST_OUTPUT // 2),
    )
    # Two digits, so that it reads well.
    rates_per_s = [float(f"{share * capacity_per_s:.2g}") for share in CHECK_SHARES]
    return [
        plan_load(Poisson(rate), workload, budget.check_s, seed=server.seed, warmup_s=budget.check_s / 5) for rate in rates_per_s
    ]


def run_open(server: Server, plan: LoadPlan) -> tuple[Medians, int]:
    """The medians of a planned open loop, and of how many requests. Raises ``LoadError`` when requests fail."""
    _, metrics = _measured(server, plan)
    return _medians(metrics, _FEWEST_PACED), metrics.counts.ok


def _spread(mean: int) -> Lengths:
    from pytest_llmperf.experiment.records import Lengths

    return Lengths(mean=mean, distribution="lognormal", cv=0.7, min=max(1, mean // 8), max=4 * mean)


def _workload(load: ClosedLoad) -> Workload:
    from pytest_llmperf.experiment.records import Workload

    return Workload(
        name="calibration",
        title="one shape of request",
        input=_between(load.prompt_tokens, load.prompt_bounds),
        output=_between(load.output_tokens, load.answer_bounds),
    )


def _between(mean: int, bounds: tuple[int, int]) -> Lengths:
    from pytest_llmperf.experiment.records import Lengths

    return Lengths(mean=mean, distribution="uniform", min=bounds[0], max=bounds[1])


def _driven(server: Server, load: ClosedLoad) -> Medians:
    return _medians(_measured(server, closed_plan(load, server.seed))[1], load.output_tokens)


def _measured(server: Server, plan: LoadPlan) -> tuple[LoadResult, Metrics]:
    from pytest_llmperf.load.engine import run_load
    from pytest_llmperf.measure.compute import measure

    result = run_load(plan, server.endpoint)
    if result.interrupted:
        raise KeyboardInterrupt
    metrics = measure(result, price_per_hour=None)
    if metrics.counts.failed:
        causes = ", ".join(f"{error} ({count}x)" for error, count in metrics.errors.items())
        raise LoadError(
            f"{metrics.counts.failed} of {metrics.counts.ended} requests failed under {plan.profile}: {causes}",
            hint="A calibration needs a server that answers /v1/completions of token ids (100 to 999), without failures.",
        )
    return result, metrics


def _medians(metrics: Metrics, output_tokens: int) -> Medians:
    from pytest_llmperf.metrics import metric_key

    ttft, tpot = (metrics.estimate(metric_key(f"{name}_p50")).value for name in ("ttft", "tpot"))
    return Medians(ttft, tpot if output_tokens >= _FEWEST_PACED else math.nan)


def _most_at_once(log: RequestLog) -> int:
    """The most answers that were under way at one time, between their first and their last token."""
    begun = np.sort(log.first_token_s[~np.isnan(log.first_token_s)])
    ended = np.sort(log.last_token_s[~np.isnan(log.last_token_s)])
    return int(np.max(np.arange(1, len(begun) + 1) - np.searchsorted(ended, begun, side="left"), initial=0))
