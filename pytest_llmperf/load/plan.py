"""The plan of a load: everything that will be asked, and when, from one seed, whatever the number of workers.

A plan is made of *sessions*: a request of a single-turn workload is a session of one turn. Sessions of the measured window are
numbered from 0; those of the warm-up have their own numbers and random streams, so that the warm-up's length changes nothing
in what is measured. What a session asks is a function of (seed, number) alone and is computed when it is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import count, takewhile
from random import Random

import numpy as np

from pytest_llmperf.errors import ConfigError, Where
from pytest_llmperf.experiment.profile import (
    Concurrency,
    Constant,
    Gamma,
    LoadProfile,
    Poisson,
    TraceReplay,
    is_open_loop,
    own_duration_s,
)
from pytest_llmperf.experiment.records import NamedProfile, Workload
from pytest_llmperf.experiment.stages import RateStages, Stage, UserStages, is_level
from pytest_llmperf.load.attendance import Attendance, attendance
from pytest_llmperf.load.lengths import sample_length
from pytest_llmperf.load.records import Floats
from pytest_llmperf.load.schedule import SHORTEST_S, Schedule, peak_per_s, schedule
from pytest_llmperf.load.trace import Trace, read_trace
from pytest_llmperf.units import format_duration

_TYPICAL = 256
"""Sessions whose mean length stands for that of all."""
_ROUNDING = 1e-9


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
    """What one session asks. ``arrival_s`` counts from the run's start; None in a closed loop (when its user is ready).

    ``think_s`` is how long a closed loop's user waits after it.
    """

    number: int
    warmup: bool
    arrival_s: float | None
    turns: tuple[TurnPlan, ...]
    prefix_group: int | None = None
    hash_ids: tuple[int, ...] = ()
    think_s: float = 0.0

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
    attendance: Attendance | None = field(default=None, repr=False)
    """Who is there when, in a closed loop."""

    @property
    def open_loop(self) -> bool:
        """Whether arrivals are independent of the server's answers."""
        return is_open_loop(self.profile)

    @property
    def has_one_rate(self) -> bool:
        """Whether requests come at one rate from beginning to end: only then is a backlog that grows the server's doing."""
        profile = self.profile
        return isinstance(profile, Constant | Poisson | Gamma) or (isinstance(profile, RateStages) and is_level(profile.stages))

    @property
    def is_stationary(self) -> bool:
        """Whether the same is asked of the server from beginning to end: only then does its beginning tell of the rest."""
        profile = self.profile
        if isinstance(profile, Concurrency):
            return profile.users == 1 or not profile.ramp_s
        return self.has_one_rate or (isinstance(profile, UserStages) and is_level(profile.stages))

    @property
    def is_divisible(self) -> bool:
        """Whether several workers drive the same load as one. A number of requests is shared out among them beforehand: a worker
        whose users come later would go on with its share after the others have ended with theirs."""
        return self.open_loop or self.max_sessions is None or self.is_stationary

    @property
    def length_s(self) -> float | None:
        """How long the window is planned to be; None where only its last answer will tell."""
        # To the nanosecond: what a difference has beyond that is rounding.
        return None if self.window_end_s is None else round(self.window_end_s - self.window_start_s, 9)

    @property
    def users(self) -> int:
        """The most users of a closed loop at any time; 0 in an open one."""
        return len(self.attendance) if self.attendance is not None else 0

    @property
    def planned_tokens_per_s(self) -> float | None:
        """The most output tokens that are asked for within any one second of the window; None in a closed loop.

        Of the arrivals as they are planned, each with the mean of the first sessions' answers (a trace's with its own). A session
        counts with all its turns when it arrives.
        """
        if not self.open_loop:
            return None
        if self.trace is not None:
            tokens: Floats = self.trace.output_tokens[: len(self.arrivals_s)].astype(np.float64)
        else:
            numbers = range(min(_TYPICAL, len(self.arrivals_s)))
            sessions = [sum(turn.output_tokens for turn in self.session(number).turns) for number in numbers]
            tokens = np.full(len(self.arrivals_s), np.mean(sessions))
        return peak_per_s(self.arrivals_s, tokens)

    def session(self, number: int, *, warmup: bool = False) -> SessionPlan:
        """The session of that number, the same at every call."""
        rng = _session_random(self.seed, _Stream.WARMUP_SESSIONS if warmup else _Stream.SESSIONS, number)
        arrivals = self.warmup_arrivals_s if warmup else self.arrivals_s
        arrival_s = float(arrivals[number]) if self.open_loop else None
        prefix = self.workload.shared_prefix
        # Always one draw, so that lengths do not change with the number of groups.
        group = int(rng.random() * (prefix.groups if prefix else 1))
        if self.trace is not None:
            row = rng.randrange(len(self.trace)) if warmup else number
            turn = TurnPlan(int(self.trace.prompt_tokens[row]), int(self.trace.output_tokens[row]))
            # The warm-up takes the trace's lengths but not its blocks: it must not fill the cache with the measured prompts.
            return SessionPlan(number, warmup, arrival_s, (turn,), None, () if warmup else self.trace.hash_ids[row])
        # The think time is drawn last, so that it changes nothing in what is asked.
        turns = _turns(self.workload, rng)
        think_s = _think_s(self.profile, rng)
        return SessionPlan(number, warmup, arrival_s, turns, group if prefix else None, think_s=think_s)

    def warmup_sessions(self, worker: int = 0, workers: int = 1) -> Iterator[SessionPlan]:
        """The warm-up's sessions of one worker, in order; endless in a closed loop, which has none without a warm-up."""
        if self.open_loop:
            numbers: Iterator[int] = iter(range(worker, len(self.warmup_arrivals_s), workers))
        else:
            numbers = self._of_users(worker, workers) if self.window_start_s > 0 else iter(())
        return (self.session(number, warmup=True) for number in numbers)

    def sessions(self, worker: int = 0, workers: int = 1) -> Iterator[SessionPlan]:
        """The measured sessions of one worker, in order: every ``workers``-th; in a closed loop as many as it has users.

        Endless in an unbounded closed loop.
        """
        if self.open_loop:
            numbers: Iterator[int] = iter(range(worker, len(self.arrivals_s), workers))
        else:
            numbers, most = self._of_users(worker, workers), self.max_sessions
            numbers = numbers if most is None else takewhile(lambda number: number < most, numbers)
        return (self.session(number) for number in numbers)

    def _of_users(self, worker: int, workers: int) -> Iterator[int]:
        """The numbers of the sessions of a worker's users (every ``workers``-th), were all users to take turns."""
        mine = range(worker, self.users, workers)
        return (first + user for first in count(0, self.users) for user in mine) if mine else iter(())


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

    ``max_requests`` bounds the measured arrivals (of sessions, where the workload has turns). Without a duration a trace and
    stages last as long as they are, and every other profile needs ``max_requests``; the window then ends where the next arrival
    would be.

    Raises ``ConfigError`` for what is no load profile, makes no request in the duration, is shorter than it (stages), ends before
    ``max_requests`` arrivals, or has a trace that cannot be read.
    """
    _check(profile, workload, duration_s, warmup_s, max_requests)
    trace = read_trace(profile) if isinstance(profile, TraceReplay) else None
    length_s = own_duration_s(profile) if duration_s is None else duration_s
    rngs = _rng(seed, _Stream.ARRIVALS), _rng(seed, _Stream.WARMUP_ARRIVALS)
    planned = schedule(profile, trace, length_s, warmup_s, max_requests, *rngs)
    there = attendance(profile, warmup_s) if isinstance(profile, Concurrency | UserStages) else None
    _check_makes_requests(profile, planned, there)
    arrivals, end_s = planned.arrivals_s, planned.end_s
    if max_requests is not None and is_open_loop(profile):
        if duration_s is None or (end_s is not None and end_s < duration_s):
            _check_makes_as_many(profile, len(arrivals), max_requests)
        if max_requests < len(arrivals):
            # The window ends where the first request that is not made would have been due.
            end_s = float(max(arrivals[max_requests], arrivals[max_requests - 1] + SHORTEST_S))
            arrivals = arrivals[:max_requests]
    return LoadPlan(
        profile=profile,
        workload=workload,
        seed=seed,
        window_start_s=warmup_s,
        window_end_s=None if end_s is None else warmup_s + end_s,
        warmup_arrivals_s=planned.warmup_s,
        arrivals_s=warmup_s + arrivals,
        max_sessions=max_requests,
        trace=trace,
        attendance=there,
    )


def check_profile(profile: object, has_duration: bool, where: Where, duration_s: float | None = None) -> None:
    """Whether ``profile`` is one that can be loaded, known when it ends, and as long as ``duration_s`` where that is given.

    For ``load``, ``sweep`` and ``compare_variants`` alike. ``has_duration``: a duration, or a number of requests, is given.
    Raises ``ConfigError`` that says what to write instead.
    """
    if not isinstance(profile, LoadProfile | NamedProfile):
        raise ConfigError(f"{profile!r} is no load profile", where=where, hint=_meant(profile))
    driven = profile.load_profile if isinstance(profile, NamedProfile) else profile
    length_s = own_duration_s(driven)
    if not has_duration and length_s is None and not isinstance(profile, TraceReplay | NamedProfile):
        hint = 'Give a duration, such as "30s"; load() also takes requests=.'
        raise ConfigError(f"{profile} never ends", where=where, hint=hint)
    if duration_s is not None and length_s is not None and duration_s > length_s * (1 + _ROUNDING):
        raise ConfigError(
            f"{driven} ends after {format_duration(length_s)}, before the {format_duration(duration_s)} that are asked for",
            where=where,
            hint="Leave the duration out, or let the stages begin again: stages(…, repeat=True).",
        )


def _meant(profile: object) -> str:
    """What whoever wrote this as a load profile may have meant."""
    if isinstance(profile, str) and "/" in profile:
        return f'Write poisson("{profile}") or constant("{profile}").'
    if isinstance(profile, int) and not isinstance(profile, bool) and profile > 0:
        return f'Write poisson("{profile}/s") or concurrency({profile}).'
    if isinstance(profile, Stage) or (isinstance(profile, list | tuple) and any(isinstance(each, Stage) for each in profile)):
        return 'A stage alone is no load: write stages(hold("1/s", "30s"), ramp("1/s", "4/s", "1m")).'
    return 'Write poisson("4/s"), constant("4/s"), concurrency(8) or trace("file.csv").'


def _check(profile: LoadProfile, workload: Workload, duration_s: float | None, warmup_s: float, max_requests: int | None) -> None:
    place = Where(key="load profile")
    check_profile(profile, duration_s is not None or max_requests is not None, place, duration_s)
    if duration_s is not None and not duration_s > 0:
        raise ConfigError(f"the duration {duration_s!r} is not more than 0 seconds", where=place)
    if not warmup_s >= 0:
        raise ConfigError(f"the warm-up {warmup_s!r} is negative", where=place)
    if max_requests is not None and max_requests < 1:
        raise ConfigError(f"max_requests {max_requests!r} is not 1 or more", where=place)
    own = ("turns", workload.turns), ("shared_prefix", workload.shared_prefix), ("queries", workload.queries)
    named = next((name for name, value in own if value), None)
    if isinstance(profile, TraceReplay) and named is not None:
        raise ConfigError(
            f"the workload {workload.name!r} has {named}, which a trace replay cannot follow",
            where=place,
            hint=f"A trace brings its own lengths and shared blocks: use a workload without {named}.",
        )


def _check_makes_requests(profile: LoadProfile, planned: Schedule, there: Attendance | None) -> None:
    """Raises ``ConfigError`` for an open loop without an arrival, and for a closed one without a user, in its duration."""
    if there is not None and planned.end_s is not None and there.first_s >= planned.end_s:
        hint = f"The first user comes after {format_duration(there.first_s)}: give a longer duration."
    elif there is None and not len(planned.arrivals_s):
        hint = "Raise the rate or the duration, or choose another seed."
    else:
        return
    length = format_duration(planned.end_s or 0.0)
    raise ConfigError(f"{profile} makes no request in {length}", where=Where(key="load profile"), hint=hint)


def _check_makes_as_many(profile: LoadProfile, made: int, asked_for: int) -> None:
    """Raises ``ConfigError`` where a load that ends by itself does so before ``asked_for`` arrivals."""
    if made < asked_for:
        again = ", or let the stages begin again: stages(…, repeat=True)" if isinstance(profile, RateStages) else ""
        raise ConfigError(
            f"{profile} ends after {made:,} arrivals, before the {asked_for:,} requests that are asked for",
            where=Where(key="load profile"),
            hint=f"Leave requests= out{again}.",
        )


def _think_s(profile: LoadProfile, rng: Random) -> float:
    if not isinstance(profile, Concurrency | UserStages) or not profile.think_time_s:
        return 0.0
    return profile.think_time_s * (rng.expovariate(1.0) if profile.think_distribution == "exponential" else 1.0)


def _turns(workload: Workload, rng: Random) -> tuple[TurnPlan, ...]:
    prompt = sample_length(workload.input, rng)
    output = sample_length(workload.output, rng)
    first = TurnPlan(prompt, output)
    if workload.turns is None:
        return (first,)
    turns = [first]
    for _ in range(sample_length(workload.turns.count, rng) - 1):
        prompt += output + sample_length(workload.turns.input, rng)
        output = sample_length(workload.output, rng)
        spread = rng.expovariate(1.0)
        pause_s = workload.turns.pause * (spread if workload.turns.pause_distribution == "exponential" else 1.0)
        turns.append(TurnPlan(prompt, output, pause_s))
    return tuple(turns)


def _rng(seed: int, stream: _Stream) -> np.random.Generator:
    return np.random.default_rng([seed, stream])


def _session_random(seed: int, stream: _Stream, number: int) -> Random:
    """One a session: made in a third of the time that numpy takes for a generator, while the load goes on."""
    return Random((seed << 72) + (stream << 64) + number)
