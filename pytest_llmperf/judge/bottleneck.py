"""What a run waited for: its client, room in the KV cache, a place in the batch, prompts, or the tokens themselves.

The rules are asked in this order, and the first that holds is the answer:

1. ``client``: the client is not trusted, or has come within a fifth of a limit of trust (lateness, event-loop lag, CPU). Whatever
   the server says, the load was then not the one that was planned, or soon will not be.
2. ``kv_cache``: an engine's KV cache was at least 95 % full, and requests were preempted or one or more waited on average. A
   request that finds no block waits, or throws out one that runs, whose work is then done again. Only memory helps: shorter
   contexts, an fp8 cache, more of the accelerator's memory for it, more accelerators.
3. ``queueing``: one or more requests waited on average, and of the time to the first token at least half was spent so, with room
   in the cache; or the load's backlog grew and the server does not contradict. Then ``max_num_seqs`` or the token budget of a
   step is too small, or more is asked than the server can do: raise it, or add replicas.
4. ``none``: less than about one request ran on average, or in a quarter of the samples none did. The server had nothing to do for
   part of the time, so nothing was short: a request takes as long as it takes alone.
5. ``prefill`` or ``decode``: whichever took more of the time for which a request ran. Prefill is bound by compute (a longer
   cached prefix, a larger token budget or more FLOP/s help), decode by the memory's bandwidth and by the size of the batch. A
   token that has to wait for the prompts of others in its step counts as decode: chunks of prompts that are smaller help.

Without the server's side there is 1, a growing backlog, and otherwise ``unknown``: a client sees that answers are slow, not why.
Time is compared by means, which a histogram knows exactly, of requests that ended within the window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pytest_llmperf.measure.steady import GROWING
from pytest_llmperf.units import format_duration, format_fraction, format_number

if TYPE_CHECKING:
    from pytest_llmperf.measure.run import Run
    from pytest_llmperf.measure.server import ServerSeen

Kind = Literal["queueing", "kv_cache", "prefill", "decode", "client", "none", "unknown"]
NEAR_LIMIT = 0.8
"""Of a limit of trust: from there on the client is too busy for what it measures to be the server's alone."""
FULL = 0.95
"""Of the KV cache: one large request more may not fit, and between two samples it was fuller."""
WAITING = 1.0
"""Requests that wait on average: below, they wait for the step that runs to end."""
HALF = 0.5
BUSY = 0.95
"""Requests that run on average: below, the server is idle for some of the time. One that always runs may be seen as a little less
than one, at the ends of the window and between two samples."""
IDLE_SHARE = 0.25


@dataclass(frozen=True)
class Bottleneck:
    """What was short, and one sentence with the numbers that show it."""

    kind: Kind
    evidence: str


def bottleneck(run: Run) -> Bottleneck:
    """What the run waited for."""
    if (limit := _client(run)) is not None:
        return Bottleneck("client", limit)
    unstable = run.steadiness.unstable if run.steadiness.unstable.startswith(GROWING) else ""
    if run.server is None:
        if unstable:
            return Bottleneck(
                "queueing", f"{unstable}: more was asked than the server could do, and its own metrics are not known"
            )
        return Bottleneck("unknown", "the server's own metrics are not known")
    return _of_server(run.server, unstable)


def _of_server(server: ServerSeen, unstable: str) -> Bottleneck:
    if server.running_mean is None or server.waiting_mean is None:
        return Bottleneck("unknown", "the server does not say how many requests run and wait")
    rules: tuple[Callable[[], Bottleneck | None], ...] = (
        lambda: _kv_cache(server),
        lambda: _queueing(server, unstable),
        lambda: _idle(server),
        lambda: _phase(server),
    )
    return next(found for rule in rules if (found := rule()) is not None)


def _client(run: Run) -> str | None:
    """Why it is the client; None where it is not."""
    if run.invalid:
        return run.invalid[0]
    return next(_near_limits(run), None)


def _near_limits(run: Run) -> Iterator[str]:
    trust = run.trust
    for worker in run.result.health.workers:
        for what, measured, limit, shown in (
            ("lateness p99", worker.lateness_p99_s, trust.lateness_p99_s, format_duration),
            ("event-loop lag p99", worker.loop_lag_p99_s, trust.loop_lag_p99_s, format_duration),
            ("CPU", worker.cpu_share, trust.cpu_share, format_fraction),
        ):
            if worker.requests and measured >= NEAR_LIMIT * limit:
                yield f"load worker {worker.worker} is near its limit: {what} {shown(measured)} (limit {shown(limit)})"


def _kv_cache(server: ServerSeen) -> Bottleneck | None:
    most, waiting, preempted = server.kv_cache_usage_max, server.waiting_mean or 0.0, server.preemptions or 0
    if most is None or most < FULL or not (preempted or waiting >= WAITING):
        return None
    return Bottleneck(
        "kv_cache",
        f"the KV cache was up to {format_fraction(most)} full, with {_count(preempted, 'preemption')}, "
        f"{_requests(waiting)} waiting and {format_number(server.running_mean or 0.0)} running on average",
    )


def _queueing(server: ServerSeen, unstable: str) -> Bottleneck | None:
    waiting = server.waiting_mean or 0.0
    if waiting < WAITING:
        return None
    queue, ttft = (server.times[key].mean_s if key in server.times else None for key in ("queue", "ttft"))
    # What waits at the end has told no histogram yet: without one, that it waits is enough.
    queued = queue is None or ttft is None or queue >= HALF * ttft
    if not (queued or unstable):
        return None
    said = [f"{_requests(waiting)} waiting and {format_number(server.running_mean or 0.0)} running on average"]
    if queue is not None and ttft is not None:
        said.append(f"{format_duration(queue)} in the queue of {format_duration(ttft)} to the first token")
    if server.kv_cache_usage_max is not None:
        said.append(f"the KV cache at most {format_fraction(server.kv_cache_usage_max)} full")
    return Bottleneck("queueing", "; ".join([*said, *([unstable] if unstable else [])]))


def _idle(server: ServerSeen) -> Bottleneck | None:
    running, idle = server.running_mean or 0.0, server.idle_share or 0.0
    if running >= BUSY and idle < IDLE_SHARE:
        return None
    return Bottleneck(
        "none",
        f"{_requests(running)} running and {format_number(server.waiting_mean or 0.0)} waiting on average; "
        f"none at all in {format_fraction(idle)} of the samples",
    )


def _phase(server: ServerSeen) -> Bottleneck:
    """Where the requests' time in the engine went."""
    known = {key: server.times[key].mean_s for key in ("e2e", "queue", "prefill", "decode") if key in server.times}
    if not {"e2e", "prefill", "decode"} <= set(known):
        return Bottleneck("unknown", "the server does not say how long requests are in prefill and decode")
    e2e = known["e2e"]
    shares = ", ".join(f"{key} {known[key] / e2e if e2e else 0.0:.0%}" for key in ("queue", "prefill", "decode") if key in known)
    running = _requests(server.running_mean or 0.0)
    spent = f"of {format_duration(e2e)} in the engine: {shares}; {running} running on average"
    return Bottleneck("prefill" if known["prefill"] >= known["decode"] else "decode", spent)


def _requests(number: float) -> str:
    """As many as are shown: what reads as 1 is one request."""
    shown = format_number(number)
    return f"{shown} request" if shown == "1" else f"{shown} requests"


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"
