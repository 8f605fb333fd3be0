"""From what an SLA says of one metric to its threshold. What is likely a slip is refused, with what was likely meant."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise, product

from pytest_llmperf.errors import UnitError, nearest
from pytest_llmperf.experiment.threshold import Comparator, Grades, Threshold
from pytest_llmperf.metrics import METRICS, Metric, MetricKey, Unit, is_statistic, metric_key, parse_value

OVERRIDES = ("hardware", "cells")
"""The top-level keys of an SLA that are no metrics."""
_GRADES = ("target", "acceptable", "poor")
_GOODPUT = ("min", "within")
_LONGEST_S = 3600.0
"""No latency that anybody waits for; ``200m`` is 200 minutes and was to be 200 ms."""
_LOWEST_QUANTILE = 0.10
"""Below, a limit would bind only the fastest few requests: ``p9`` was to be p90 or p99."""
_KEYS = tuple(
    f"{metric.name}_{statistic}"
    for metric, statistic in product(METRICS.values(), ("p50", "p90", "p95", "p99", "mean", "max"))
    if metric.is_distribution
)
"""The keys of a metric and a statistic in one, as far as one may be meant by a slip."""
_LIKELY = {"p5": "'p50' or 'p95'", "p9": "'p90' or 'p99'"}

Path = tuple[str, ...]


class SlaKeyError(UnitError):
    """A bad entry of an SLA: ``path`` leads to it (``("ttft", "p99")``), so that the loader can name the line."""

    def __init__(self, path: Path, message: str) -> None:
        self.path = path
        super().__init__(message)


def read_threshold(path: Path, spec: object) -> Threshold:
    """What stands at ``path`` (a metric, or a metric and a statistic) as a threshold; a graded one at its target.

    ``spec`` is a limit (``"1s"``, ``"<= 1s"``), grades (``{"target": "1s", "acceptable": "3s", "poor": "5s"}``), or for goodput
    ``{"min": a limit or grades, "within": {"ttft": "1s"}}``. Raises ``SlaKeyError``.
    """
    key = _key(path, spec)
    comparator: Comparator = ">=" if key.metric.higher_is_better else "<="
    within: tuple[tuple[str, float], ...] = ()
    if key.metric.name == "goodput" and isinstance(spec, Mapping) and not set(spec) <= set(_GRADES):
        graded = [grade for grade in _GRADES if grade in spec]
        if graded and set(spec) & set(_GOODPUT):
            meant = ", ".join(f"{grade}: {spec[grade]}" for grade in graded)
            raise SlaKeyError((*path, graded[0]), f"the grades of goodput stand below 'min': write min: {{{meant}}}")
        _check_keys(path, spec, _GOODPUT if set(spec) & set(_GOODPUT) else (*_GRADES, *_GOODPUT))
        if "min" not in spec:
            raise SlaKeyError(path, "needs 'min': the share of requests that must be good, such as 95%")
        if "within" in spec:
            within = _within((*path, "within"), spec["within"])
        path, spec = (*path, "min"), spec["min"]
    if isinstance(spec, Mapping):
        grades = _grades(path, key, comparator, spec)
        return Threshold(key, comparator, grades.target, grades, within)
    return Threshold(key, comparator, _value(path, key, spec), None, within)


def _key(path: Path, spec: object) -> MetricKey:
    name, statistic = path[0], path[1] if len(path) > 1 else None
    if name not in METRICS and (close := nearest(name, (*METRICS, *OVERRIDES))) in OVERRIDES:
        raise SlaKeyError(path, f"unknown key {name!r}; did you mean {close!r}?")
    if statistic in _GRADES and name in METRICS and METRICS[name].is_distribution:
        raise SlaKeyError(path, f"{name} needs a statistic before its grades: write {name}: {{p99: {{{statistic}: …}}}}")
    if statistic is None and name in METRICS and METRICS[name].is_distribution:
        limit = spec if isinstance(spec, str) else "1s"
        raise SlaKeyError(path, f"{name} needs a statistic: write {name}: {{p99: {limit}}}")
    try:
        key = metric_key(*path)
    except UnitError as error:
        in_one = (statistic is None or statistic in _GRADES) and not is_statistic(name) and name.rpartition("_")[0] not in METRICS
        if in_one and (meant := nearest(name, (*METRICS, *_KEYS))) in _KEYS:
            raise SlaKeyError(path, f"unknown metric {name!r}; did you mean {meant!r}?") from None
        raise SlaKeyError(path, str(error)) from None
    if key.quantile is not None and key.quantile < _LOWEST_QUANTILE:
        meant = _LIKELY.get(key.statistic or "", "an upper quantile, such as 'p50', 'p95' or 'p99'")
        raise SlaKeyError(path, f"{key.statistic} is reached by the fastest requests alone; did you mean {meant}?")
    return key


def _grades(path: Path, key: MetricKey, comparator: Comparator, spec: Mapping[object, object]) -> Grades:
    if not key.metric.is_distribution:
        for statistic in filter(is_statistic, map(str, spec)):
            raise SlaKeyError((*path, statistic), f"{key.metric.name} has one value a run, so no statistic {statistic!r}")
    _check_keys(path, spec, _GRADES)
    if "target" not in spec:
        raise SlaKeyError(path, "a graded limit needs 'target'")
    limits = {grade: _value((*path, grade), key, spec[grade]) for grade in _GRADES if grade in spec}
    for stricter, laxer in pairwise(limits):
        if not (limits[laxer] > limits[stricter] if comparator == "<=" else limits[laxer] < limits[stricter]):
            way = "higher" if comparator == "<=" else "lower"
            raise SlaKeyError(
                (*path, laxer),
                f"{laxer!r} ({spec[laxer]}) must be laxer than {stricter!r} ({spec[stricter]}), which is {way} for {key.title}",
            )
    return Grades(limits["target"], limits.get("acceptable"), limits.get("poor"))


def _within(path: Path, spec: object) -> tuple[tuple[str, float], ...]:
    known = tuple(metric.name for metric in METRICS.values() if metric.per_request)
    if not isinstance(spec, Mapping) or not spec:
        raise SlaKeyError(path, f"must be a mapping of what a request must keep, such as {{ttft: 1s}}, not {_named(spec)}")
    limits = []
    for name, raw in spec.items():
        base = str(name).rpartition("_")[0]
        if base in known and str(name) not in known:
            raise SlaKeyError((*path, str(name)), f"a single request has no statistic: write {base!r}")
        _check_keys(path, {name: raw}, known, "latency of a request")
        if isinstance(raw, Mapping):
            raise SlaKeyError((*path, str(name)), f"a request has one {METRICS[name].title}: give one limit, such as 1s")
        limits.append((str(name), _value((*path, str(name)), MetricKey(METRICS[name]), raw)))
    return tuple(limits)


def _check_keys(path: Path, spec: Mapping[object, object], known: tuple[str, ...], kind: str = "key") -> None:
    for name in spec:
        if name not in known:
            close = nearest(str(name), known)
            meant = f"; did you mean {close!r}?" if close else ""
            raise SlaKeyError((*path, str(name)), f"unknown {kind} {str(name)!r}{meant} (known: {', '.join(known)})")


def _value(path: Path, key: MetricKey, raw: object) -> float:
    """One limit in the metric's base unit; a comparator before it must be the one that the metric's direction gives."""
    if raw is None or isinstance(raw, Mapping | list | tuple):
        raise SlaKeyError(path, f"must be a limit, not {_named(raw)}")
    natural = ">=" if key.metric.higher_is_better else "<="
    match = re.fullmatch(r"\s*(<=|>=)?\s*(.+?)\s*", str(raw))
    text = match[2] if match else str(raw)
    if match and match[1] and match[1] != natural:
        better = "higher" if key.metric.higher_is_better else "lower"
        raise SlaKeyError(path, f"{key.title} is better when {better}: write '{natural} {text}'")
    _refuse_bare_percentage(path, key.metric, text)
    try:
        value = parse_value(key.metric, text)
    except UnitError as error:
        raise SlaKeyError(path, str(error)) from None
    if key.metric.unit is Unit.SECONDS and value > _LONGEST_S:
        minutes = re.fullmatch(r"([\d.,_]+)\s*m(?:in)?", text)
        meant = f"{minutes[1]} minutes; did you mean '{minutes[1]}ms'?" if minutes else "more than an hour"
        raise SlaKeyError(path, f"{text!r} is {meant}" + ("" if minutes else ", which is no limit for a latency"))
    return value


def _refuse_bare_percentage(path: Path, metric: Metric, text: str) -> None:
    if metric.unit is Unit.FRACTION and re.fullmatch(r"\d+(?:\.\d*)?", text) and 1 <= float(text) <= 100:
        # All of the requests may be meant to be good, but hardly ever to fail.
        whole = metric.higher_is_better and float(text) == 1
        write = "'100%' or '1%'" if whole else f"'{text}%' or {float(text) / 100:g}"
        raise SlaKeyError(path, f"{text!r} may be a percentage or a fraction: write {write}")


def _named(value: object) -> str:
    match value:
        case None:
            return "nothing"
        case Mapping():
            return "a mapping" if value else "an empty mapping"
        case list() | tuple():
            return "a list"
        case _:
            return repr(value)
