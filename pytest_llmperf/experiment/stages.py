"""Loads that change: stages of a rate or of users, one after the other. Plain records, and the short ways to write them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from pytest_llmperf.errors import ConfigError, Where
from pytest_llmperf.experiment.arguments import (
    burstiness_of,
    choice,
    is_whole,
    rate_per_s,
    seconds,
    some_seconds,
    true_or_false,
)
from pytest_llmperf.units import format_duration, format_number, format_rate

Arrivals = Literal["constant", "poisson", "gamma"]
ThinkDistribution = Literal["fixed", "exponential"]
Level = str | int
"""How much load: a rate (``"4/s"``), or a number of users (``4``)."""

POISSON = 1.0
"""The burstiness of Poisson arrivals: exponential gaps."""
EVEN = math.inf
"""The burstiness of constant arrivals: the more even, the higher, and these are as even as can be."""
_MOST_STEPS = 1000
_EXAMPLE = 'Write stages(hold("1/s", "30s"), ramp("1/s", "4/s", "1m")), or numbers of users in the place of the rates.'


@dataclass(frozen=True)
class Stage:
    """A stretch of a load that goes from ``start`` to ``end`` in a straight line: requests per second, or users."""

    duration_s: float
    start: float
    end: float
    of: Literal["rate", "users"] = "rate"

    @property
    def is_empty(self) -> bool:
        """Whether nothing is asked in it."""
        return self.start == self.end == 0

    def __str__(self) -> str:
        length = format_duration(self.duration_s)
        if self.start == self.end:
            return f"{shown_level(self.start, self.of)} for {length}"
        start = format_rate(self.start) if self.of == "rate" else f"{self.start:g}"
        return f"{start} to {shown_level(self.end, self.of)} in {length}"


@dataclass(frozen=True)
class RateStages:
    """Open loop at a rate that changes. ``burstiness`` as in ``gamma``: 1 is Poisson, ``EVEN`` is constant.

    ``repeat``: from the last stage's end the first begins again, for as long as the load lasts. ``title`` is how it is shown
    where it was written in a shorter way than by its stages.
    """

    stages: tuple[Stage, ...]
    burstiness: float = POISSON
    repeat: bool = False
    title: str = field(default="", compare=False)

    @property
    def length_s(self) -> float:
        """How long the stages are together."""
        return math.fsum(stage.duration_s for stage in self.stages)

    @property
    def first_rate_per_s(self) -> float:
        """The rate at which requests begin to come; of a ramp that starts at 0, its mean."""
        first = next(stage for stage in self.stages if not stage.is_empty)
        return first.start or first.end / 2

    def __str__(self) -> str:
        kind = {EVEN: "constant", POISSON: "poisson"}.get(self.burstiness, "gamma")
        tail = f", burstiness {self.burstiness:g}" if kind == "gamma" else ""
        return f"{kind} {self.title or _listed(self.stages, self.repeat)}{tail}"


@dataclass(frozen=True)
class UserStages:
    """Closed loop with a number of users that changes: a line between whole numbers is rounded up.

    Who leaves finishes the request in flight and begins no other; who came last leaves first. ``repeat`` and ``title`` as in
    ``RateStages``, think time as in ``Concurrency``.
    """

    stages: tuple[Stage, ...]
    think_time_s: float = 0.0
    think_distribution: ThinkDistribution = "fixed"
    repeat: bool = False
    title: str = field(default="", compare=False)

    @property
    def length_s(self) -> float:
        """How long the stages are together."""
        return math.fsum(stage.duration_s for stage in self.stages)

    def __str__(self) -> str:
        listed = self.title or _listed(self.stages, self.repeat)
        return f"concurrency {listed}{shown_thinking(self.think_time_s, self.think_distribution)}"


@dataclass(frozen=True)
class Bursts:
    """Open loop: ``size`` requests at once, every ``every_s`` seconds, the first of them at once."""

    size: int
    every_s: float

    def __str__(self) -> str:
        return f"bursts of {self.size} every {format_duration(self.every_s)}"


def is_level(stages: tuple[Stage, ...]) -> bool:
    """Whether they are all at one level, so that nothing changes from the beginning to the end."""
    return len({level for stage in stages for level in (stage.start, stage.end)}) == 1


def shown_level(level: float, of: Literal["rate", "users"]) -> str:
    """``4/s``; ``4 users``."""
    return format_rate(level) if of == "rate" else f"{format_number(level)} user{'' if level == 1 else 's'}"


def shown_thinking(think_time_s: float, distribution: ThinkDistribution) -> str:
    """``, think time 500ms``; nothing where there is none."""
    if not think_time_s:
        return ""
    return f", {'' if distribution == 'fixed' else f'{distribution} '}think time {format_duration(think_time_s)}"


def _listed(stages: tuple[Stage, ...], repeat: bool) -> str:
    return ", ".join(map(str, stages)) + (", repeated" if repeat else "")


def hold(level: Level, duration: str) -> Stage:
    """A stage that stays as it is: ``hold("4/s", "30s")``; ``hold(8, "30s")`` has eight users. Raises ``ConfigError``."""
    height, of = _level(level, "hold()")
    return Stage(some_seconds(duration, "hold()"), height, height, of)


def ramp(start: Level, end: Level, duration: str) -> Stage:
    """A stage that goes evenly from one level to another: ``ramp("1/s", "4/s", "1m")``, ``ramp(1, 16, "1m")`` for users.

    Raises ``ConfigError``.
    """
    (low, of), (high, other) = _level(start, "ramp()"), _level(end, "ramp()")
    _check_same_kind({of, other}, "ramp()", f"from {start!r} to {end!r}: ")
    return Stage(some_seconds(duration, "ramp()"), low, high, of)


def stages(
    *parts: Stage,
    arrivals: Arrivals | None = None,
    burstiness: float | None = None,
    think_time: str | None = None,
    think_distribution: ThinkDistribution | None = None,
    repeat: bool = False,
) -> RateStages | UserStages:
    """One stage after the other: ``stages(hold("0.5/s", "30s"), ramp("0.5/s", "2/s", "1m"))``; of users it is a closed loop.

    ``arrivals`` of rates: ``poisson`` (the default), ``constant``, or ``gamma`` with its ``burstiness``. ``think_time`` and its
    distribution are for users, as in ``concurrency``. ``load`` needs no duration: it is that of the stages. A shorter one cuts
    them, a longer one is an error unless they ``repeat``, and then one is needed. Raises ``ConfigError``.
    """
    again = true_or_false(repeat, "repeat", "stages()")
    return _staged("stages()", parts, arrivals, burstiness, think_time, think_distribution, again)


def stairs(
    start: Level,
    end: Level,
    *,
    step: Level,
    each: str,
    arrivals: Arrivals | None = None,
    burstiness: float | None = None,
    think_time: str | None = None,
    think_distribution: ThinkDistribution | None = None,
) -> RateStages | UserStages:
    """Up or down in equal steps: ``stairs("0.5/s", "2/s", step="0.5/s", each="30s")``; ``stairs(4, 16, step=4, each="30s")``.

    The first step is at ``start``, the last at ``end``. The rest is as in ``stages``. Raises ``ConfigError``.
    """
    call = "stairs()"
    (low, of), (high, other), (height, third) = (_level(level, call) for level in (start, end, step))
    _check_same_kind({of, other, third}, call, f"from {start!r} to {end!r} in steps of {step!r}: ")
    levels = _steps(low, high, height, of)
    length_s = some_seconds(each, call)
    parts = tuple(Stage(length_s, level, level, of) for level in levels)
    first = format_rate(low) if of == "rate" else f"{low:g}"
    by = format_rate(height) if of == "rate" else f"{height:g}"
    title = f"stairs {first} to {shown_level(high, of)} by {by}, each {format_duration(length_s)}"
    return _staged(call, parts, arrivals, burstiness, think_time, think_distribution, False, title)


def spikes(
    base: Level,
    peak: Level,
    *,
    every: str,
    lasting: str,
    arrivals: Arrivals | None = None,
    burstiness: float | None = None,
    think_time: str | None = None,
    think_distribution: ThinkDistribution | None = None,
) -> RateStages | UserStages:
    """Short peaks over a base: ``spikes(base="2/s", peak="20/s", every="30s", lasting="2s")``, for as long as the load lasts.

    Each ``every`` begins at the base and ends with the peak. The rest is as in ``stages``. Raises ``ConfigError``.
    """
    call = "spikes()"
    (low, of), (high, other) = _level(base, call), _level(peak, call)
    _check_same_kind({of, other}, call, f"from {base!r} to {peak!r}: ")
    if not high > low:
        raise ConfigError(f"the peak {peak!r} is not more than the base {base!r}", where=Where(key=call))
    period_s, peak_s = some_seconds(every, call), some_seconds(lasting, call)
    if not peak_s < period_s:
        raise ConfigError(f"a peak of {lasting!r} every {every!r} leaves no time for the base", where=Where(key=call))
    parts = Stage(period_s - peak_s, low, low, of), Stage(peak_s, high, high, of)
    ground = format_rate(low) if of == "rate" else f"{low:g}"
    lengths = f"for {format_duration(peak_s)} every {format_duration(period_s)}"
    title = f"spikes {ground} to {shown_level(high, of)} {lengths}"
    return _staged(call, parts, arrivals, burstiness, think_time, think_distribution, True, title)


def _steps(low: float, high: float, height: float, of: Literal["rate", "users"]) -> list[float]:
    """The levels of stairs, both ends included. Raises ``ConfigError`` where no step is on the last one."""
    where = Where(key="stairs()")
    if not height > 0:
        raise ConfigError("the step must be more than 0", where=where)
    sign = 1 if high >= low else -1
    count = abs(high - low) / height
    shown = tuple(format_rate(value) if of == "rate" else f"{value:g}" for value in (low, high, height))
    if count > _MOST_STEPS:
        raise ConfigError(f"from {shown[0]} to {shown[1]} are more than {_MOST_STEPS} steps of {shown[2]}", where=where)
    if abs(count - round(count)) > 1e-6:
        around = [low + sign * each * height for each in (math.floor(count), math.ceil(count))]
        raise ConfigError(
            f"steps of {shown[2]} do not lead from {shown[0]} to {shown[1]}",
            where=where,
            hint=f"They lead to {' or '.join(shown_level(level, of) for level in around if level >= 0)}.",
        )
    return [low + sign * number * height for number in range(round(count))] + [high]


def _staged(
    call: str,
    parts: tuple[Stage, ...],
    arrivals: Arrivals | None,
    burstiness: float | None,
    think_time: str | None,
    think_distribution: ThinkDistribution | None,
    repeat: bool,
    title: str = "",
) -> RateStages | UserStages:
    """The stages as a load profile. Raises ``ConfigError`` for options that do not belong to them."""
    where = Where(key=call)
    for part in parts:
        if not isinstance(part, Stage):
            raise ConfigError(f"{part!r} is no stage", where=where, hint=_EXAMPLE)
    if not parts:
        raise ConfigError("there is no stage", where=where, hint=_EXAMPLE)
    of = _check_same_kind({part.of for part in parts}, call)
    if all(part.is_empty for part in parts):
        raise ConfigError("no stage makes a request", where=where, hint=_EXAMPLE)
    foreign = {"think_time": think_time, "think_distribution": think_distribution}
    if of == "users":
        foreign = {"arrivals": arrivals, "burstiness": None if burstiness is None else str(burstiness)}
    if given := [name for name, value in foreign.items() if value is not None]:
        belongs = "rates, and these are stages of users" if of == "users" else "users, and these are stages of a rate"
        raise ConfigError(f"{given[0]!r} belongs to {belongs}", where=where)
    if of == "rate":
        return RateStages(parts, shape_of(arrivals or "poisson", burstiness, call), repeat, title)
    think_s, distribution = thinking_of(think_time, think_distribution, call)
    return UserStages(parts, think_s, distribution, repeat, title)


def shape_of(arrivals: Arrivals, burstiness: float | None, call: str) -> float:
    """The burstiness that arrivals have: given for gamma, and for gamma alone. Raises ``ConfigError``."""
    kind = choice(arrivals, get_args(Arrivals), "arrivals", call)
    if kind == "gamma":
        if burstiness is None:
            raise ConfigError("gamma arrivals need a 'burstiness'", where=Where(key=call), hint="Write burstiness=0.25.")
        return burstiness_of(burstiness, call)
    if burstiness is not None:
        raise ConfigError(f"'burstiness' belongs to gamma arrivals, not to {kind} ones", where=Where(key=call))
    return EVEN if kind == "constant" else POISSON


def thinking_of(think_time: str | None, distribution: ThinkDistribution | None, call: str) -> tuple[float, ThinkDistribution]:
    """The think time in seconds and its distribution. Raises ``ConfigError``."""
    think_s = seconds(think_time, call) if think_time is not None else 0.0
    known = choice(distribution or "fixed", get_args(ThinkDistribution), "think_distribution", call)
    if distribution is not None and not think_s:
        raise ConfigError("'think_distribution' needs a 'think_time'", where=Where(key=call))
    return think_s, known


def _level(level: object, call: str) -> tuple[float, Literal["rate", "users"]]:
    if isinstance(level, str) and "/" in level:
        return rate_per_s(level, call), "rate"
    if isinstance(level, int) and is_whole(level) and level >= 0:
        return float(level), "users"
    raise ConfigError(f"{level!r} is neither a rate nor a number of users; write it like '4/s' or 4", where=Where(key=call))


def _check_same_kind(kinds: set[Literal["rate", "users"]], call: str, what: str = "") -> Literal["rate", "users"]:
    if len(kinds) > 1:
        raise ConfigError(f"{what}a rate and a number of users cannot be mixed", where=Where(key=call))
    return next(iter(kinds))
