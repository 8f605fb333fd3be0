"""Prometheus' text format, written the way prometheus-client writes it, from counters as cheap as a hot path needs."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence

from prometheus_client import utils

Labels = Mapping[str, str]


def _go(value: float) -> str:
    """A number as Go, and so Prometheus, writes it."""
    return str(utils.floatToGoString(value))


def _line(name: str, labels: Labels, value: float) -> str:
    inner = ",".join(f'{key}="{_escaped(labels[key])}"' for key in sorted(labels))
    return f"{name}{{{inner}}} {_go(value)}\n" if inner else f"{name} {_go(value)}\n"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


class Value:
    """One counter or gauge sample."""

    __slots__ = ("created", "labels", "value")

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        self.value = 0.0
        self.created = time.time()


class Histogram:
    """One histogram; ``observe`` takes a count, since all sequences of a step share its latency."""

    __slots__ = ("bounds", "counts", "created", "labels", "total")

    def __init__(self, labels: Labels, bounds: Sequence[float]) -> None:
        self.labels = labels
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0
        self.created = time.time()

    def observe(self, value: float, times: int = 1) -> None:
        """``times`` observations of ``value``."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times


class Exposition:
    """The families of one server, in the order they were declared."""

    def __init__(self) -> None:
        self._families: list[tuple[str, str, str, list[Value] | list[Histogram]]] = []

    def counter(self, name: str, help_text: str, *label_sets: Labels) -> list[Value]:
        """A counter with one sample per label set; ``name`` comes without ``_total``."""
        values = [Value(labels) for labels in label_sets]
        self._families.append((name, "counter", help_text, values))
        return values

    def gauge(self, name: str, help_text: str, *label_sets: Labels) -> list[Value]:
        """A gauge with one sample per label set."""
        values = [Value(labels) for labels in label_sets]
        self._families.append((name, "gauge", help_text, values))
        return values

    def histogram(self, name: str, help_text: str, bounds: Sequence[float], labels: Labels) -> Histogram:
        """A histogram with one label set."""
        histogram = Histogram(labels, bounds)
        self._families.append((name, "histogram", help_text, [histogram]))
        return histogram

    def render(self) -> bytes:
        """The whole page."""
        return "".join(line for family in self._families for line in _family(*family)).encode()


def _family(name: str, kind: str, help_text: str, items: Sequence[Value | Histogram]) -> Iterator[str]:
    shown = f"{name}_total" if kind == "counter" else name
    yield f"# HELP {shown} {help_text}\n# TYPE {shown} {kind}\n"
    for item in items:
        if isinstance(item, Value):
            yield _line(shown, item.labels, item.value)
        else:
            yield from _histogram(name, item)
    if kind == "gauge":
        return
    yield f"# HELP {name}_created {help_text}\n# TYPE {name}_created gauge\n"
    for item in items:
        yield _line(f"{name}_created", item.labels, item.created)


def _histogram(name: str, item: Histogram) -> Iterator[str]:
    below = 0
    for bound, count in zip((*item.bounds, float("inf")), item.counts, strict=True):
        below += count
        yield _line(f"{name}_bucket", {**item.labels, "le": _go(bound)}, below)
    yield _line(f"{name}_count", item.labels, below)
    yield _line(f"{name}_sum", item.labels, item.total)
