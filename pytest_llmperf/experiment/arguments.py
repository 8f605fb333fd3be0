"""What is written in a call of the public functions, as numbers; what cannot be read is one error that names the call."""

from __future__ import annotations

import math
from typing import TypeVar

from pytest_llmperf.errors import ConfigError, UnitError, Where, unknown
from pytest_llmperf.units import parse_duration, parse_rate

Choice = TypeVar("Choice", bound=str)


def seconds(text: object, call: str) -> float:
    """``"30s"`` -> 30.0. Raises ``ConfigError`` that names the ``call`` it was given to, as all of these do."""
    try:
        return parse_duration(text)
    except UnitError as error:
        raise ConfigError(str(error), where=Where(key=call)) from None


def some_seconds(text: object, call: str) -> float:
    """The same, for a length of time that cannot be 0."""
    length_s = seconds(text, call)
    if not length_s > 0:
        raise ConfigError(f"{text!r} is no length of time: it must be more than 0", where=Where(key=call))
    return length_s


def rate_per_s(text: object, call: str) -> float:
    """``"4/s"`` -> 4.0, and ``"0/s"`` -> 0.0."""
    try:
        return parse_rate(text)
    except UnitError as error:
        raise ConfigError(str(error), where=Where(key=call)) from None


def is_whole(value: object) -> bool:
    """Whether it is a whole number, and not True or False, which are numbers to Python."""
    return isinstance(value, int) and not isinstance(value, bool)


def number_of(value: object, what: str, call: str) -> int:
    """A whole number of ``what`` (users, requests), 1 or more."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{value!r} is not a number of {what}: it must be 1 or more", where=Where(key=call))
    return value


def burstiness_of(value: object, call: str) -> float:
    """The shape of gamma-distributed gaps."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ConfigError(
            f"{value!r} is no burstiness: it must be a number of more than 0",
            where=Where(key=call),
            hint="1 is Poisson arrivals; less comes in bursts, more is more even.",
        )
    return float(value)


def true_or_false(value: object, what: str, call: str) -> bool:
    """Whether ``what`` is wanted: a text such as "no" would count as a yes."""
    if not isinstance(value, bool):
        raise ConfigError(f"{what!r} is True or False, not {value!r}", where=Where(key=call))
    return value


def factor_of(value: object, what: str, call: str) -> float:
    """A number to multiply by."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ConfigError(f"{what} {value!r} must be a number of more than 0", where=Where(key=call))
    return float(value)


def choice(value: object, choices: tuple[Choice, ...], what: str, call: str) -> Choice:
    """The one of ``choices`` that was written."""
    for each in choices:
        if value == each:
            return each
    raise unknown(what, str(value), choices, Where(key=call))
