"""One setting's text -> its value. Each raises ``ConfigError`` with the place where the text was written."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pytest_llmperf.errors import ConfigError, UnitError, Where, unknown
from pytest_llmperf.metrics import metric_key
from pytest_llmperf.report.exports import FORMATS, check_target
from pytest_llmperf.units import parse_duration

AUTO = "auto"
_FLAGS = {"yes": True, "true": True, "on": True, "1": True, "no": False, "false": False, "off": False, "0": False}


def parts(text: str | None) -> tuple[str, ...]:
    """What stands between commas and newlines."""
    return tuple(part.strip() for part in re.split(r"[,\n]", text or "") if part.strip())


def lines(text: str | None) -> tuple[str, ...]:
    """What stands between newlines."""
    return tuple(line.strip() for line in (text or "").splitlines() if line.strip())


def one_a_line(text: str) -> str:
    """Headers apart by newlines, or by commas that a ``NAME=`` follows: any other comma is part of a file's name."""
    return re.sub(r",\s*(?=[^\s,=:/]+=|\Z)", "\n", text)


def flag(text: str, place: Where) -> bool:
    """``yes``, ``no`` and what else means one of them."""
    try:
        return _FLAGS[text.strip().lower()]
    except KeyError:
        raise ConfigError(f"{text!r} is neither yes nor no", where=place, hint=f"Known: {', '.join(_FLAGS)}.") from None


def whole(text: str, place: Where, least: int) -> int:
    """A whole number of ``least`` or more."""
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise ConfigError(f"{text!r} is not a whole number of {least} or more", where=place)
    return number


def whole_or_auto(text: str, place: Where) -> int | None:
    """A whole number of 1 or more; None for ``auto``."""
    if text.strip().lower() == AUTO:
        return None
    try:
        return whole(text, place, least=1)
    except ConfigError as error:
        raise ConfigError(error.what, where=place, hint=f"Or write {AUTO}: as many as the planned load asks for.") from None


def number_of_workers(text: str, place: Where) -> int | None:
    """The same, but no more than the machine's cores can drive."""
    if (workers := whole_or_auto(text, place)) is None:
        return None
    from pytest_llmperf.load.cores import WORKERS_A_CORE, available_cores

    if workers > (most := WORKERS_A_CORE * (cores := available_cores())):
        raise ConfigError(
            f"{workers} workers on {'1 core' if cores == 1 else f'{cores} cores'} would keep each other from sending in time: "
            f"{most} are the most, {WORKERS_A_CORE} a core",
            where=place,
            hint=f"Write {AUTO}: as many as the planned load asks for.",
        )
    return workers


def positive(text: str, place: Where) -> float:
    """A number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise ConfigError(f"{text!r} is not a number above 0", where=place)
    return number


def duration(text: str, place: Where) -> float:
    """``10m`` -> 600 seconds."""
    try:
        return parse_duration(text)
    except UnitError as error:
        raise ConfigError(str(error), where=place) from None


def time_span(text: str, place: Where) -> float:
    """A duration of more than nothing."""
    if (seconds := duration(text, place)) <= 0:
        raise ConfigError(f"{text!r} is not more than 0 seconds", where=place, hint="Leave it out for the default.")
    return seconds


@dataclass(frozen=True)
class Export:
    """``llm-d=reports/``: a form in which the session is written, and where."""

    format: str
    path: Path


def exports(text: str | None, place: Where, base: Path) -> tuple[Export, ...]:
    """What stands between newlines, each ``FORMAT=PATH``; a relative path starts at ``base``."""
    return tuple(export(line, place, base) for line in lines(text))


def export(text: str, place: Where, base: Path) -> Export:
    """``openmetrics=metrics.txt`` -> its format and path."""
    format_name, equals, path = (part.strip() for part in text.partition("="))
    if format_name not in FORMATS:
        raise unknown("export format", format_name, FORMATS, place)
    if not equals or not path:
        raise ConfigError(f"{text!r} does not say where to", where=place, hint=f"Write {format_name}=PATH.")
    target = base / Path(path).expanduser()
    check_target(format_name, target, place)
    return Export(format_name, target)


def metric(text: str, place: Where) -> str:
    """The name of a metric's key: ``ttft_p99``."""
    try:
        return metric_key(text).name
    except UnitError as error:
        raise ConfigError(str(error), where=place) from None
