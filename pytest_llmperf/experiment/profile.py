"""Load profiles: when requests are made. Plain records; ``load`` turns them into arrival times."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from pytest_llmperf.errors import ConfigError, Where
from pytest_llmperf.experiment.arguments import (
    burstiness_of,
    choice,
    factor_of,
    number_of,
    rate_per_s,
    seconds,
    some_seconds,
)
from pytest_llmperf.experiment.stages import (
    Bursts,
    RateStages,
    ThinkDistribution,
    UserStages,
    shown_thinking,
    thinking_of,
)
from pytest_llmperf.units import format_duration, format_rate

TraceKind = Literal["azure", "mooncake"]


@dataclass(frozen=True)
class Constant:
    """Open loop, one request every ``1 / rate_per_s`` seconds."""

    rate_per_s: float

    def __str__(self) -> str:
        return f"constant {format_rate(self.rate_per_s)}"


@dataclass(frozen=True)
class Poisson:
    """Open loop, exponential gaps with mean ``1 / rate_per_s`` seconds."""

    rate_per_s: float

    def __str__(self) -> str:
        return f"poisson {format_rate(self.rate_per_s)}"


@dataclass(frozen=True)
class Gamma:
    """Open loop, gamma-distributed gaps with mean ``1 / rate_per_s`` seconds; ``burstiness`` is the distribution's shape."""

    rate_per_s: float
    burstiness: float

    def __str__(self) -> str:
        return f"gamma {format_rate(self.rate_per_s)}, burstiness {self.burstiness:g}"


@dataclass(frozen=True)
class Concurrency:
    """Closed loop: ``users`` requests (or sessions) in flight, each followed by ``think_time_s`` of pause (at the mean).

    The users come one by one over the first ``ramp_s`` seconds, the first of them at once.
    """

    users: int
    think_time_s: float = 0.0
    ramp_s: float = 0.0
    think_distribution: ThinkDistribution = "fixed"

    def __str__(self) -> str:
        ramp = f", ramp {format_duration(self.ramp_s)}" if self.ramp_s else ""
        return f"concurrency {self.users}{ramp}{shown_thinking(self.think_time_s, self.think_distribution)}"


@dataclass(frozen=True)
class TraceReplay:
    """Open loop: arrival times and lengths as recorded in a file.

    ``time_scale`` 2.0 replays twice as slowly (gaps are multiplied by it). ``start_s`` skips the trace's first seconds.
    """

    path: Path
    kind: TraceKind = "azure"
    time_scale: float = 1.0
    start_s: float = 0.0

    def __str__(self) -> str:
        scale = f" x{self.time_scale:g}" if self.time_scale != 1 else ""
        start = f" from {format_duration(self.start_s)}" if self.start_s else ""
        return f"trace {self.path.name}{scale}{start}"


LoadProfile = Constant | Poisson | Gamma | RateStages | Bursts | Concurrency | UserStages | TraceReplay
"""Every way to say when requests are made."""


def is_open_loop(profile: LoadProfile) -> bool:
    """Whether arrivals are independent of the server's answers."""
    return not isinstance(profile, Concurrency | UserStages)


def own_duration_s(profile: LoadProfile) -> float | None:
    """How long a profile lasts by itself; None where ``load`` has to be told, and of a trace, which has to be read for it."""
    if isinstance(profile, RateStages | UserStages) and not profile.repeat:
        return profile.length_s
    return None


def positive_rate(text: object, call: str) -> float:
    """``"4/s"`` -> 4.0 requests per second. Raises ``ConfigError`` that names the ``call`` it was given to."""
    rate = rate_per_s(text, call)
    if rate == 0:
        raise ConfigError(f"the rate {text!r} makes no request", where=Where(key=call))
    return rate


def constant(rate: str) -> Constant:
    """Open loop at a steady pace: ``constant("4/s")``. Raises ``ConfigError``."""
    return Constant(positive_rate(rate, "constant()"))


def poisson(rate: str) -> Poisson:
    """Open loop, Poisson arrivals: ``poisson("4/s")``. Raises ``ConfigError``."""
    return Poisson(positive_rate(rate, "poisson()"))


def gamma(rate: str, *, burstiness: float) -> Gamma:
    """Open loop, gamma-distributed gaps: ``gamma("4/s", burstiness=0.25)``. Raises ``ConfigError``.

    ``burstiness`` is what ``vllm bench serve --burstiness`` takes: the shape of the gaps' distribution, whose coefficient of
    variation is 1 / sqrt(burstiness). 1 is Poisson, less comes in bursts (0.25: gaps vary twice as much), more is more even.
    """
    return Gamma(positive_rate(rate, "gamma()"), burstiness_of(burstiness, "gamma()"))


def bursts(size: int, *, every: str) -> Bursts:
    """Open loop: so many requests at the same instant: ``bursts(50, every="10s")``. Raises ``ConfigError``."""
    return Bursts(number_of(size, "requests", "bursts()"), some_seconds(every, "bursts()"))


def concurrency(
    users: int,
    think_time: str | None = None,
    *,
    ramp: str = "0s",
    think_distribution: ThinkDistribution | None = None,
) -> Concurrency:
    """Closed loop: ``concurrency(8)`` keeps eight requests in flight. Raises ``ConfigError``.

    ``think_time`` passes between an answer and the user's next request, always the same or ``exponential`` as
    ``think_distribution`` says. Over ``ramp`` the users come one by one, evenly, the first at once.
    """
    call = "concurrency()"
    think_s, distribution = thinking_of(think_time, think_distribution, call)
    return Concurrency(number_of(users, "users", call), think_s, seconds(ramp, call), distribution)


def trace(path: str | Path, *, kind: TraceKind = "azure", time_scale: float = 1.0, start: str = "0s") -> TraceReplay:
    """Replay a recorded trace: ``trace("azure-2023-conv.csv", time_scale=2.0)`` (twice as slowly).

    ``kind`` is ``azure`` (CSV: TIMESTAMP, ContextTokens, GeneratedTokens) or ``mooncake`` (JSONL with hash_ids).
    Raises ``ConfigError`` for a missing file, an unknown kind, or a scale that is no positive number.
    """
    call = "trace()"
    if not isinstance(path, str | Path):
        raise ConfigError(f"{path!r} is no path of a trace file", where=Where(key=call))
    file, known = Path(path), choice(kind, get_args(TraceKind), "kind", call)
    if not file.is_file():
        raise ConfigError("the trace file does not exist", where=Where(file=str(path)))
    return TraceReplay(file, known, factor_of(time_scale, "time_scale", call), seconds(start, call))
