"""Drive an engine in virtual time: arrivals in, what each request saw out. No server, no clock, no sleep."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

from pytest_llmperf.sim.engine import Engine, EngineStats
from pytest_llmperf.sim.request import Request
from pytest_llmperf.sim.spec import SimSpec


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request that is sent at ``at_s``; in a closed loop only its lengths and keys count."""

    at_s: float
    prompt_tokens: int
    output_tokens: int
    prefix_keys: Sequence[Hashable] = ()
    """Chain keys of the prompt's full blocks that other requests share."""


@dataclass(frozen=True, slots=True)
class VirtualRequest:
    """What a client would have seen of one request; times in seconds on the virtual clock."""

    arrival_s: float
    first_token_s: float
    finish_s: float
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int
    n_preemptions: int
    segments: tuple[tuple[int, int], ...]
    """Runs of consecutive steps with a token each; ``VirtualRun.token_times_s`` turns them into times."""

    @property
    def ttft_s(self) -> float:
        """From sending to the first token."""
        return self.first_token_s - self.arrival_s

    @property
    def e2e_s(self) -> float:
        """From sending to the last token."""
        return self.finish_s - self.arrival_s

    @property
    def tpot_s(self) -> float:
        """Mean time per token after the first; NaN for a single token."""
        if self.output_tokens < 2:
            return float("nan")
        return (self.finish_s - self.first_token_s) / (self.output_tokens - 1)


@dataclass(frozen=True, slots=True)
class VirtualRun:
    """All requests in the order they were sent, and the engine's totals."""

    requests: tuple[VirtualRequest, ...]
    step_ends_s: Sequence[float]
    stats: EngineStats

    @property
    def end_s(self) -> float:
        """When the last step ended."""
        return self.step_ends_s[-1] if self.step_ends_s else 0.0

    def token_times_s(self, request: VirtualRequest) -> list[float]:
        """When each token of the request came."""
        return [self.step_ends_s[first + i] for first, count in request.segments for i in range(count)]


def open_loop(spec: SimSpec, arrivals: Iterable[Arrival], *, seed: int | None = None) -> VirtualRun:
    """Requests sent at their own times, whatever the engine does; ``arrivals`` in order of time."""
    return _Drive(spec, seed).run(deque(arrivals), lambda _now_s: None)


def closed_loop(spec: SimSpec, requests: Iterable[Arrival], concurrency: int, *, seed: int | None = None) -> VirtualRun:
    """``concurrency`` clients that each send their next request when the last one has ended."""
    if concurrency < 1:
        raise ValueError(f"concurrency must be at least 1, got {concurrency}")
    source = iter(requests)

    def next_arrival(now_s: float) -> Arrival | None:
        item = next(source, None)
        return item and Arrival(now_s, item.prompt_tokens, item.output_tokens, item.prefix_keys)

    first = [arrival for _ in range(concurrency) if (arrival := next_arrival(0.0)) is not None]
    return _Drive(spec, seed).run(deque(first), next_arrival)


class _Drive:
    """The loop around one engine: admit what has arrived, step, note the time, repeat until nothing is left."""

    def __init__(self, spec: SimSpec, seed: int | None) -> None:
        self._engine = Engine(spec, seed)
        self._overhead_s = spec.api_overhead_s
        self._sent: list[tuple[Arrival, Request]] = []
        self._step_ends_s = array("d")

    def run(self, queue: deque[Arrival], on_finish: Callable[[float], Arrival | None]) -> VirtualRun:
        now_s = 0.0
        engine, step_ends_s, overhead_s = self._engine, self._step_ends_s, self._overhead_s
        while queue or engine.has_work:
            if queue and not engine.has_work:
                now_s = max(now_s, queue[0].at_s + overhead_s)
            while queue and queue[0].at_s + overhead_s <= now_s:
                self._send(queue.popleft())
            step = engine.step(now_s)
            if step is None:
                continue
            now_s = step.end_s
            step_ends_s.append(now_s)
            for _ in step.finished:
                following = on_finish(now_s)
                if following is not None:
                    queue.append(following)
        return VirtualRun(tuple(map(self._seen, self._sent)), step_ends_s, engine.stats)

    def _send(self, arrival: Arrival) -> None:
        request = self._engine.add_request(
            len(self._sent),
            arrival.prompt_tokens,
            arrival.output_tokens,
            arrival.at_s + self._overhead_s,
            prefix_keys=arrival.prefix_keys,
        )
        self._sent.append((arrival, request))

    def _seen(self, sent: tuple[Arrival, Request]) -> VirtualRequest:
        arrival, request = sent
        if request.first_token_s is None or request.finished_s is None:
            raise RuntimeError(f"request {request.request_id} was never served")
        return VirtualRequest(
            arrival_s=arrival.at_s,
            first_token_s=request.first_token_s,
            finish_s=request.finished_s,
            prompt_tokens=arrival.prompt_tokens,
            output_tokens=arrival.output_tokens,
            cached_tokens=request.cached_tokens,
            n_preemptions=request.n_preemptions,
            segments=tuple(request.segments),
        )
