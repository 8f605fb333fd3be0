"""Pages of metrics in Prometheus's text format -> series: what every metric that is read was at each instant."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pytest_llmperf.measure.server_metrics import NAMES

if TYPE_CHECKING:
    from pytest_llmperf.load.records import Floats

Labels = frozenset[tuple[str, str]]
_KEPT = tuple(sorted(name.encode() for name in NAMES))
MOST_SERIES = 20_000
"""On a page, and in a run: a hundred engines have fewer. More would take minutes to read, and are no engine's."""


class TooLargeError(Exception):
    """There are more series than ``MOST_SERIES``: of a part of them no sum would be right."""


@dataclass(frozen=True)
class Page:
    """What one source said at one instant: the lines of its page that are read, packed (``packed``)."""

    at_s: float
    """Seconds since the run's start."""
    lines: bytes
    source: str = ""
    """Tells the sources' series apart; empty for the only one."""


@dataclass(frozen=True)
class Series:
    """One metric with one set of labels over time: ``value`` at ``at_s``, both of shape (n,), in order."""

    name: str
    labels: Mapping[str, str]
    at_s: Floats
    value: Floats


def packed(page: bytes) -> bytes:
    """The lines of a page that may be read, compressed: a fiftieth of it, so that the pages of a long run can be held.

    Raises ``TooLargeError``.
    """
    lines = [line for line in page.splitlines() if line.startswith(_KEPT)]
    if len(lines) > MOST_SERIES:
        raise TooLargeError
    return zlib.compress(b"\n".join(lines), level=1)


def has_any(page: bytes, names: Iterable[str]) -> bool:
    """Whether a packed page has a series of one of these names."""
    wanted = tuple(name.encode() for name in names)
    return any(line.startswith(wanted) for line in zlib.decompress(page).splitlines())


def series_of(pages: Iterable[Page]) -> tuple[Series, ...]:
    """Every series of these pages, which come in order of time. What is no line of this format is passed over.

    Raises ``TooLargeError``.
    """
    parsed: dict[bytes, tuple[str, Labels] | None] = {}
    found: dict[tuple[str, Labels], tuple[list[float], list[float]]] = {}
    for page in pages:
        source = frozenset({("source", page.source)} if page.source else ())
        for line in zlib.decompress(page.lines).splitlines():
            # A page's series are the same a second later: what stands before the value is parsed once.
            head, _, value = line.rstrip().rpartition(b" ")
            if head not in parsed:
                if len(parsed) == MOST_SERIES:
                    raise TooLargeError
                parsed[head] = _parsed(line)
            key, number = parsed[head], _number(value)
            if key is not None and number is not None:
                at_s, values = found.setdefault((key[0], key[1] | source), ([], []))
                at_s.append(page.at_s)
                values.append(number)
    return tuple(Series(name, dict(labels), np.array(at_s), np.array(values)) for (name, labels), (at_s, values) in found.items())


def _number(text: bytes) -> float | None:
    """None where it is none, or not finite: NaN and Inf are of the format, and nothing can be reckoned with them."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _parsed(line: bytes) -> tuple[str, Labels] | None:
    """The name and labels of a line; None where it is not of a name that is read."""
    from prometheus_client.parser import text_string_to_metric_families

    try:
        samples = [each for family in text_string_to_metric_families(line.decode()) for each in family.samples]
    except ValueError:
        return None
    if len(samples) != 1 or samples[0].name not in NAMES or samples[0].timestamp is not None:
        return None
    return samples[0].name, frozenset(samples[0].labels.items())


def named(series: Sequence[Series], names: Iterable[str]) -> tuple[Series, ...]:
    """The series of the first of these names that has any: a page with both has renamed one into the other."""
    for name in names:
        if has := tuple(one for one in series if one.name == name):
            return has
    return ()
