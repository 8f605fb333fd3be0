"""Load profiles: when requests are made. Plain records; ``load`` turns them into arrival times."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pytest_llmperf.errors import ConfigError, UnitError, Where
from pytest_llmperf.units import format_duration, format_rate, parse_duration, parse_rate


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
class Concurrency:
    """Closed loop: ``users`` requests (or sessions) in flight, each followed by ``think_time_s`` of pause."""

    users: int
    think_time_s: float = 0.0

    def __str__(self) -> str:
        thinking = f", think time {format_duration(self.think_time_s)}" if self.think_time_s else ""
        return f"concurrency {self.users}{thinking}"


@dataclass(frozen=True)
class TraceReplay:
    """Open loop: arrival times and lengths as recorded in a file.

    ``time_scale`` 2.0 replays twice as slowly (gaps are multiplied by it). ``start_s`` skips the trace's first seconds.
    """

    path: Path
    kind: Literal["azure", "mooncake"] = "azure"
    time_scale: float = 1.0
    start_s: float = 0.0

    def __str__(self) -> str:
        scale = f" x{self.time_scale:g}" if self.time_scale != 1 else ""
        return f"trace {self.path.name}{scale}"


LoadProfile = Constant | Poisson | Concurrency | TraceReplay
"""Every way to say when requests are made."""


def is_open_loop(profile: LoadProfile) -> bool:
    """Whether arrivals are independent of the server's answers."""
    return not isinstance(profile, Concurrency)


def positive_rate(text: object, call: str) -> float:
    """``"4/s"`` -> 4.0 requests per second. Raises ``ConfigError`` that names the ``call`` it was given to."""
    try:
        rate = parse_rate(text)
    except UnitError as error:
        raise ConfigError(str(error), where=Where(key=call)) from None
    if rate == 0:
        raise ConfigError(f"the rate {text!r} makes no request", where=Where(key=call))
    return rate


def constant(rate: str) -> Constant:
    """Open loop at a steady pace: ``constant("4/s")``. Raises ``ConfigError``."""
    return Constant(positive_rate(rate, "constant()"))


def poisson(rate: str) -> Poisson:
    """Open loop, Poisson arrivals: ``poisson("4/s")``. Raises ``ConfigError``."""
    return Poisson(positive_rate(rate, "poisson()"))


def concurrency(users: int, think_time: str = "0s") -> Concurrency:
    """Closed loop: ``concurrency(8)`` keeps eight requests in flight. Raises ``ConfigError``."""
    if users < 1:
        raise ConfigError(f"{users!r} is not a number of users: it must be 1 or more", where=Where(key="concurrency()"))
    try:
        return Concurrency(users, parse_duration(think_time))
    except UnitError as error:
        raise ConfigError(str(error), where=Where(key="concurrency()")) from None


def trace(
    path: str | Path, *, kind: Literal["azure", "mooncake"] = "azure", time_scale: float = 1.0, start: str = "0s"
) -> TraceReplay:
    """Replay a recorded trace: ``trace("azure-2023-conv.csv", time_scale=2.0)`` (twice as slowly).

    ``kind`` is ``azure`` (CSV: TIMESTAMP, ContextTokens, GeneratedTokens) or ``mooncake`` (JSONL with hash_ids).
    Raises ``ConfigError`` for a missing file or a scale that is not positive.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError("the trace file does not exist", where=Where(file=str(path)))
    if not time_scale > 0:
        raise ConfigError(f"time_scale {time_scale!r} must be more than 0", where=Where(key="trace()"))
    try:
        return TraceReplay(file, kind, time_scale, parse_duration(start))
    except UnitError as error:
        raise ConfigError(str(error), where=Where(key="trace()")) from None
