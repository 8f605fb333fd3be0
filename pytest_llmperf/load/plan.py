"""The plan of a load: everything that will be asked, and when, from one seed, whatever the number of workers.

A plan is made of *sessions*: a request of a single-turn workload is a session of one turn. Sessions of the measured window are
numbered from 0; those of the warm-up have their own numbers and random streams, so that the warm-up's length changes nothing
in what is measured. What a session asks is a function of (seed, number) alone and is computed when it is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import count

import numpy as np

from pytest_llmperf.errors import ConfigError, Where
from pytest_llmperf.experiment.profile import Concurrency, Constant, LoadProfile, Poisson, TraceReplay
from pytest_llmperf.experiment.records import NamedProfile, Workload
from pytest_llmperf.load.arrivals import (
    constant_arrivals,
    constant_arrivals_before,
    poisson_arrivals,
    poisson_count,
)
from pytest_llmperf.load.lengths import sample_length
from pytest_llmperf.load.records import Floats
from pytest_llmperf.load.trace import Trace, read_trace

_NO_TIMES: Floats = np.empty(0)


class _Stream(IntEnum):
    """Independent random streams of one seed."""

    ARRIVALS = 0
    WARMUP_ARRIVALS = 1
    SESSIONS = 2
    WARMUP_SESSIONS = 3


@dataclass(frozen=True)
class TurnPlan:
    """One request: the whole prompt (history included) and the answer, in tokens; ``pause_s`` passes before it is made."""

    prompt_tokens: int
    output_tokens: int
    pause_s: float = 0.0


@dataclass(frozen=True)
class SessionPlan:
    """What one session asks. ``arrival_s`` counts from the run's start; None in a closed loop (when its user is ready)."""

    number: int
    warmup: bool
    arrival_s: float | None
    turns: tuple[TurnPlan, ...]
    prefix_group: int | None = None
    hash_ids: tuple[int, ...] = ()

    @property
    def id(self) -> int:
        """Its number; negative (-1, -2, ...) for the warm-up's, so that ids are unique within a run."""
        return -1 - self.number if self.warmup else self.number


@dataclass(frozen=True)
class LoadPlan:
    """Everything precomputed from one seed, identical whatever the number of workers.

    The warm-up fills [0, ``window_start_s``), the measured window [``window_start_s``, ``window_end_s``). Arrivals are
    seconds since the run's start (empty in a closed loop). ``window_end_s`` is None for a closed loop bounded by
    ``max_sessions`` alone: it ends when its last request has.
    """

    profile: LoadProfile
    workload: Workload
    seed: int
    window_start_s: float
    window_end_s: float | None
    warmup_arrivals_s: Floats = field(repr=False)
    arrivals_s: Floats = field(repr=False)
    max_sessions: int | None = None
    trace: Trace | None = field(default=None, repr=False)

    @property
    def open_loop(self) -> bool:
        """Whether arrivals are independent of the server's answers."""
        return not isinstance(self.profile, Concurrency)

    @property
    def users(self) -> int:
        """Users of a closed loop; 0 in an open one."""
        return self.profile.users if isinstance(self.profile, Concurrency) else 0

    @property
    def think_time_s(self) -> float:
        """What a user of a closed loop waits between sessions; 0 in an open one."""
        return self.profile.think_time_s if isinstance(self.profile, Concurrency) else 0.0

    def session(self, number: int, *, warmup: bool = False) -> SessionPlan:
        """The session of that number, the same at every call."""
        rng = _rng(self.seed, _Stream.WARMUP_SESSIONS if warmup else _Stream.SESSIONS, number)
        arrivals = self.warmup_arrivals_s if warmup else self.arrivals_s
        arrival_s = float(arrivals[number]) if self.open_loop else None
        prefix = self.workload.shared_prefix
        # Always one draw, so that lengths do not change with the number of groups.
        group = int(float(rng.random()) * (prefix.groups if prefix else 1))
        if self.trace is not None:
            row = int(rng.integers(len(self.trace))) if warmup else number
            turns = (TurnPlan(int(self.trace.prompt_tokens[row]), int(self.trace.output_tokens[row])),)
            # The warm-up takes the trace's lengths but not its blocks: it must not fill the cache with the measured prompts.
            return SessionPlan(number, warmup, arrival_s, turns, None, () if warmup else self.trace.hash_ids[row])
        return SessionPlan(number, warmup, arrival_s, _turns(self.workload, rng), group if prefix else None)

    def warmup_sessions(self, worker: int = 0, workers: int = 1) -> Iterator[SessionPlan]:
        """The warm-up's sessions of one worker, in order; endless in a closed loop, which has none without a warm-up."""
        if self.open_loop:
            numbers: Iterator[int] = iter(range(worker, len(self.warmup_arrivals_s), workers))
        else:
            numbers = count(worker, workers) if self.window_start_s > 0 else iter(())
        return (self.session(number, warmup=True) for number in numbers)

    def sessions(self, worker: int = 0, workers: int = 1) -> Iterator[SessionPlan]:
        """The measured sessions of one worker, in order: every ``workers``-th. Endless in an unbounded closed loop."""
        if self.open_loop:
            numbers: Iterator[int] = iter(range(worker, len(self.arrivals_s), workers))
        elif self.max_sessions is not None:
            numbers = iter(range(worker, self.max_sessions, workers))
        else:
            numbers = count(worker, workers)
        return (self.session(number) for number in numbers)


def plan_load(
    profile: LoadProfile,
    workload: Workload,
    duration_s: float | None,
    *,
    seed: int,
    warmup_s: float,
    max_requests: int | None = None,
) -> LoadPlan:
    """Plan a load of ``duration_s`` after ``warmup_s`` of warm-up.

    ``max_requests`` bounds the measured arrivals (of sessions, where the workload has turns). Without a duration a trace is
    replayed to its end, and every other profile needs ``max_requests``; the window then ends where the next arrival would be.

    Raises ``ConfigError`` for what is no load profile, makes no request in the duration, or has a trace that cannot be read.
    """
    _check(profile, workload, duration_s, warmup_s, max_requests)
    trace = read_trace(profile) if isinstance(profile, TraceReplay) else None
    warmup, arrivals, end_s = _arrivals(profile, trace, duration_s, warmup_s, seed, max_requests)
    if max_requests is not None and max_requests < len(arrivals):
        # The window ends where the first request that is not made would have been due.
        end_s = float(max(arrivals[max_requests], np.nextafter(arrivals[max_requests - 1], np.inf)))
        arrivals = arrivals[:max_requests]
    if not isinstance(profile, Concurrency) and not len(arrivals):
        raise ConfigError(
            f"{profile} makes no request in {duration_s:g}s",
            where=Where(key="load profile"),
            hint="Raise the rate or the duration, or choose another seed.",
        )
    return LoadPlan(
        profile=profile,
        workload=workload,
        seed=seed,
        window_start_s=warmup_s,
        window_end_s=None if end_s is None else warmup_s + end_s,
        warmup_arrivals_s=warmup,
        arrivals_s=warmup_s + arrivals,
        max_sessions=max_requests,
        trace=trace,
    )


def check_profile(profile: object, has_duration: bool, where: Where) -> None:
    """Whether ``profile`` is one that can be loaded, and whether it is known when it ends.

    For ``load``, ``sweep`` and ``compare_variants`` alike. ``has_duration``: a duration, or a number of requests, is given.
    Raises ``ConfigError`` that says what to write instead.
    """
    if not isinstance(profile, LoadProfile | NamedProfile):
        raise ConfigError(f"{profile!r} is no load profile", where=where, hint=_meant(profile))
    if not has_duration and not isinstance(profile, TraceReplay | NamedProfile):
        hint = 'Give a duration, such as "30s"; load() also takes requests=.'
        raise ConfigError(f"{profile} never ends", where=where, hint=hint)


def _meant(profile: object) -> str:
    """What whoever wrote this as a load profile may have meant."""
    if isinstance(profile, str) and "/" in profile:
        return f'Write poisson("{profile}") or constant("{profile}").'
    if isinstance(profile, int) and not isinstance(profile, bool) and profile > 0:
        return f'Write poisson("{profile}/s") or concurrency({profile}).'
    return 'Write poisson("4/s"), constant("4/s"), concurrency(8) or trace("file.csv").'


def _arrivals(
    profile: LoadProfile, trace: Trace | None, duration_s: float | None, warmup_s: float, seed: int, max_requests: int | None
) -> tuple[Floats, Floats, float | None]:
    """The warm-up's arrivals, the measured ones (from the window's start), and how long the window is where that is known."""
    rng, warmup_rng = _rng(seed, _Stream.ARRIVALS), _rng(seed, _Stream.WARMUP_ARRIVALS)
    match profile:
        case Constant(rate):
            length_s = duration_s if duration_s is not None else (max_requests or 0) / rate
            return constant_arrivals_before(rate, warmup_s), constant_arrivals(rate, length_s), length_s
        case Poisson(rate):
            warmup = poisson_arrivals(rate, warmup_s, warmup_rng)
            if duration_s is not None:
                return warmup, poisson_arrivals(rate, duration_s, rng), duration_s
            *first, last = poisson_count(rate, (max_requests or 0) + 1, rng)
            return warmup, np.array(first), float(last)
        case TraceReplay():
            assert trace is not None
            end_s = _trace_end_s(trace, duration_s)
            arrivals = trace.time_s[trace.time_s < end_s]
            return poisson_arrivals(len(arrivals) / end_s, warmup_s, warmup_rng), arrivals, end_s
        case Concurrency():
            return _NO_TIMES, _NO_TIMES, duration_s


def _check(profile: LoadProfile, workload: Workload, duration_s: float | None, warmup_s: float, max_requests: int | None) -> None:
    place = Where(key="load profile")
    check_profile(profile, duration_s is not None or max_requests is not None, place)
    if duration_s is not None and not duration_s > 0:
        raise ConfigError(f"the duration {duration_s!r} is not more than 0 seconds", where=place)
    if not warmup_s >= 0:
        raise ConfigError(f"the warm-up {warmup_s!r} is negative", where=place)
    if max_requests is not None and max_requests < 1:
        raise ConfigError(f"max_requests {max_requests!r} is not 1 or more", where=place)
    if isinstance(profile, TraceReplay) and (workload.turns is not None or workload.shared_prefix is not None):
        named = "turns" if workload.turns is not None else "shared_prefix"
        raise ConfigError(
            f"the workload {workload.name!r} has {named}, which a trace replay cannot follow",
            where=place,
            hint="A trace brings its own lengths and shared blocks: use a workload without turns and shared_prefix.",
        )


def _trace_end_s(trace: Trace, duration_s: float | None) -> float:
    """Where the window over a trace ends: at ``duration_s`` or one mean gap after its last request, whichever comes first."""
    last_s = float(trace.time_s[-1])
    mean_gap_s = last_s / (len(trace) - 1) if len(trace) > 1 else 0.0
    # A trace of one instant still needs a window of some length to speak of rates.
    natural_s = last_s + (mean_gap_s or 1.0)
    return natural_s if duration_s is None else min(duration_s, natural_s)


def _turns(workload: Workload, rng: np.random.Generator) -> tuple[TurnPlan, ...]:
    prompt = sample_length(workload.input, rng)
    output = sample_length(workload.output, rng)
    first = TurnPlan(prompt, output)
    if workload.turns is None:
        return (first,)
    turns = [first]
    for _ in range(sample_length(workload.turns.count, rng) - 1):
        prompt += output + sample_length(workload.turns.input, rng)
        output = sample_length(workload.output, rng)
        spread = float(rng.exponential())
        pause_s = workload.turns.pause * (spread if workload.turns.pause_distribution == "exponential" else 1.0)
        turns.append(TurnPlan(prompt, output, pause_s))
    return tuple(turns)


def _rng(seed: int, stream: _Stream, number: int = 0) -> np.random.Generator:
    return np.random.default_rng([seed, stream, number])
