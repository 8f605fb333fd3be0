"""The server's side of a run: its own metrics over the window in which requests were counted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from pytest_llmperf.measure.exposition import named
from pytest_llmperf.measure.histogram import Buckets
from pytest_llmperf.measure.over_time import Window, falls_at_s, increase, mean_within, most_within, on_grid, steps_of
from pytest_llmperf.measure.ownership import belonging, tells_of_accelerators
from pytest_llmperf.measure.server_metrics import BY_KEY, ENGINE_NAMES, QUANTITIES, TIMES, Kind, Over, Owner
from pytest_llmperf.units import format_duration

if TYPE_CHECKING:
    from pytest_llmperf.load.records import Floats
    from pytest_llmperf.measure.exposition import Series
    from pytest_llmperf.measure.server_metrics import Quantity, Times

Source = Literal["metrics", "prometheus"]
_GAPS = 1.5
"""A bound of the window that is further from the samples than so many steps between them is not covered."""
_LARGE_GAPS = 3.0
"""Within the window so many steps without a sample are told: one that comes late is not."""
_SHORTEST_STEP_S = 0.2
"""A rate over less says when tokens were counted, not how fast they came: the engine counts a step's at once."""


@dataclass(frozen=True)
class ServerTimes:
    """One of the engine's own histograms over the window, in seconds.

    ``p50_s`` and ``p99_s`` are interpolated within their buckets, None beyond the last finite bound. ``p99_bucket_s`` are the
    bounds of the bucket in which p99 lies, ``resolution_s`` is its width: it is known no better than that.
    """

    count: int
    mean_s: float
    p50_s: float | None
    p99_s: float | None
    resolution_s: float | None
    p99_bucket_s: tuple[float, float] | None = None


@dataclass(frozen=True)
class ServerSeen:
    """What the server said of itself; None where it did not. Means, maxima and rates are over the window.

    ``at_s`` has shape (n,), in seconds since the run's start, warm-up and drain included; each of ``values`` too, nan where it is
    not known: ``running``, ``waiting``, ``kv_cache_usage`` (a fraction), ``prompt_tokens_per_s``, ``generation_tokens_per_s``,
    ``preemptions_per_s``, ``prefix_cache_hit_rate``; where they are known ``gpu_utilisation``, ``gpu_power_w``,
    ``gpu_memory_bytes``, ``cpu_cores``, ``memory_bytes``. ``times`` has ``ttft``, ``itl``, ``e2e``, ``queue``, ``prefill`` and
    ``decode``, as far as something was observed.
    """

    source: Source
    at_s: Floats
    values: Mapping[str, Floats]
    samples: int
    """Within the window."""
    failed_samples: int = 0
    running_mean: float | None = None
    running_max: float | None = None
    idle_share: float | None = None
    """Of the samples within the window, those with nothing running and nothing waiting."""
    waiting_mean: float | None = None
    waiting_max: float | None = None
    kv_cache_usage_mean: float | None = None
    kv_cache_usage_max: float | None = None
    """Of the engine that was fullest."""
    prefix_cache_hit_rate: float | None = None
    preemptions: int | None = None
    prompt_tokens_per_s: float | None = None
    generation_tokens_per_s: float | None = None
    gpu_utilisation_mean: float | None = None
    gpu_power_w: float | None = None
    """All of the cell's accelerators together, on average."""
    times: Mapping[str, ServerTimes] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


# Numbers that overflow when they are added leave their value unknown; a person need not be warned of each.
@np.errstate(over="ignore", invalid="ignore")
def server_seen(
    series: Sequence[Series],
    window: Window,
    *,
    model: str,
    accelerators: int,
    source: Source = "metrics",
    failed_samples: int = 0,
    notes: Iterable[str] = (),
) -> ServerSeen | None:
    """What these series say of the engines that serve ``model`` on the cell's ``accelerators``; None where they say nothing."""
    known = _Known(belonging(series, model), window)
    grid_s = known.grid_s
    if not len(grid_s) or grid_s[-1] < window.start_s or grid_s[0] > window.end_s:
        return None
    gpu_notes = (*_foreign_notes(series, model), *known.without_foreign_gpus(accelerators))
    covered = Window(max(window.start_s, float(grid_s[0])), min(window.end_s, float(grid_s[-1])))
    values = known.values()
    running, waiting = values.get("running"), values.get("waiting")
    return ServerSeen(
        source=source,
        at_s=grid_s,
        values=values,
        samples=_samples_in(grid_s, window),
        failed_samples=failed_samples,
        running_mean=_mean(grid_s, running, window),
        running_max=_most(grid_s, running, window),
        idle_share=_idle_share(grid_s, running, waiting, window),
        waiting_mean=_mean(grid_s, waiting, window),
        waiting_max=_most(grid_s, waiting, window),
        kv_cache_usage_mean=_mean(grid_s, values.get("kv_cache_usage"), window),
        kv_cache_usage_max=_most(grid_s, known.fullest("kv_cache_usage"), window),
        prefix_cache_hit_rate=_ratio(known.grown("cache_hits", covered), known.grown("cache_queries", covered)),
        preemptions=_rounded(known.grown("preemptions", covered)),
        prompt_tokens_per_s=_ratio(known.grown("prompt_tokens", covered), covered.length_s),
        generation_tokens_per_s=_ratio(known.grown("generation_tokens", covered), covered.length_s),
        gpu_utilisation_mean=_mean(grid_s, values.get("gpu_utilisation"), window),
        gpu_power_w=_mean(grid_s, values.get("gpu_power_w"), window),
        times={times.key: found for times in TIMES if (found := known.times(times, covered)) is not None},
        notes=(
            *notes,
            *known.restart_notes(),
            *known.birth_notes(window),
            *known.death_notes(window),
            *_coverage_notes(grid_s, window),
            *gpu_notes,
        ),
    )


class _Known:
    """The series of one server, asked by quantity."""

    def __init__(self, series: tuple[Series, ...], window: Window) -> None:
        self._by_key = {quantity.key: named(series, quantity.names) for quantity in QUANTITIES}
        self._series = series
        engine = [one for one in series if one.name in ENGINE_NAMES]
        # Several engines are read at several instants: those of the one that was read most often in the window serve for all.
        longest = max(engine, key=lambda one: (_samples_in(one.at_s, window), len(one.at_s)), default=None)
        self.grid_s: Floats = longest.at_s if longest is not None else np.empty(0)

    def values(self) -> dict[str, Floats]:
        """By the names of ``ServerSeen.values``."""
        gauges = {key: self._at_grid(BY_KEY[key]) for key in BY_KEY if BY_KEY[key].kind is Kind.GAUGE}
        gauges["memory_bytes"] = _first(gauges.pop("pod_memory_bytes"), gauges["memory_bytes"])
        rates = {
            "prompt_tokens_per_s": self._rate("prompt_tokens"),
            "generation_tokens_per_s": self._rate("generation_tokens"),
            "preemptions_per_s": self._rate("preemptions"),
            "prefix_cache_hit_rate": self._hit_rate(),
            "cpu_cores": _first(self._rate("pod_cpu_seconds"), self._rate("cpu_seconds")),
        }
        return {name: value for name, value in (gauges | rates).items() if value is not None}

    def fullest(self, key: str) -> Floats | None:
        """A usage, at each instant that of the engine which has most."""
        if not (series := self._by_key[key]):
            return None
        rows = on_grid(series, self.grid_s, counters=False)
        most: Floats = np.where(np.isnan(rows), -np.inf, rows).max(axis=0)
        return np.where(np.isfinite(most), most, np.nan)

    def grown(self, key: str, window: Window) -> float | None:
        """By how much a counter grew; None where nobody counts."""
        series = self._by_key[key]
        return _finite(increase(series, window)) if series else None

    def times(self, times: Times, window: Window) -> ServerTimes | None:
        """What a histogram took; None where it took nothing."""
        by_bound: dict[float, list[Series]] = {}
        for one in named(self._series, times.series("bucket")):
            by_bound.setdefault(_bound(one.labels.get("le", "")), []).append(one)
        # A bound is no nan, nor one below which nothing lies.
        upper = sorted(bound for bound in by_bound if bound > -math.inf)
        below = np.maximum.accumulate([increase(by_bound[bound], window) for bound in upper]) if upper else np.empty(0)
        sums = named(self._series, times.series("sum"))
        buckets = Buckets(np.array(upper), below, increase(sums, window))
        # Without its sum there is no mean, and without the bucket of all no count.
        if not (sums and math.isfinite(buckets.total) and math.isfinite(buckets.count) and math.inf in by_bound):
            return None
        if round(buckets.count) < 1:
            return None
        last = buckets.bucket_of(0.99)
        return ServerTimes(
            count=round(buckets.count),
            mean_s=buckets.mean,
            p50_s=buckets.quantile(0.5),
            p99_s=buckets.quantile(0.99),
            resolution_s=last[1] - last[0] if last is not None else None,
            p99_bucket_s=last,
        )

    def birth_notes(self, window: Window) -> tuple[str, ...]:
        """When an engine was first seen within the window: what it had counted before may be of the window, or of weeks."""
        first_s = {float(one.at_s[0]) for one in self._engine_counters()}
        after_s = max(window.start_s, min(first_s, default=0.0) + 2 * self._step_s)
        if not (late_s := [at_s for at_s in first_s if after_s < at_s <= window.end_s]):
            return ()
        return (f"an engine was first seen at {format_duration(min(late_s))}: what it had counted by then is left out",)

    def death_notes(self, window: Window) -> tuple[str, ...]:
        """When an engine was last seen within the window: it may have died, and what it did from then on is not counted."""
        last_s = {float(one.at_s[-1]) for one in self._engine_counters()}
        before_s = min(window.end_s, max(last_s, default=0.0) - 2 * self._step_s)
        if not (early_s := [at_s for at_s in last_s if window.start_s <= at_s < before_s]):
            return ()
        return (f"an engine was last seen at {format_duration(min(early_s))}: what it counted after that is left out",)

    def restart_notes(self) -> tuple[str, ...]:
        """When an engine was seen to count from 0 again."""
        at_s = sorted({at_s for one in self._engine_counters() for at_s in falls_at_s(one)})
        if not at_s:
            return ()
        when = ", ".join(format_duration(max(0.0, instant_s)) for instant_s in at_s)
        return (f"an engine's counters fell (it was started anew): seen at {when}; counted on from there",)

    @property
    def _step_s(self) -> float:
        return _step_of(self.grid_s)

    def _engine_counters(self) -> Iterator[Series]:
        names = {name for one in QUANTITIES if one.kind is Kind.COUNTER and one.owner is Owner.ENGINE for name in one.names}
        return (one for one in self._series if one.name in names)

    def without_foreign_gpus(self, accelerators: int) -> tuple[str, ...]:
        """Drops what an exporter says of accelerators where they are not as many as the cell's, and says so."""
        gpus = [quantity.key for quantity in QUANTITIES if quantity.owner is Owner.GPU]
        told = max(len(self._by_key[key]) for key in gpus)
        if told in {0, accelerators}:
            return ()
        self._by_key |= dict.fromkeys(gpus, ())
        return (f"the exporter tells of {told} accelerators and the cell has {accelerators}: which of them is not known",)

    def _at_grid(self, quantity: Quantity) -> Floats | None:
        if not (series := self._by_key[quantity.key]):
            return None
        rows = on_grid(series, self.grid_s, counters=quantity.kind is Kind.COUNTER)
        known = (~np.isnan(rows)).sum(axis=0)
        total: Floats = np.where(known > 0, np.nansum(rows, axis=0), np.nan) * quantity.scale
        return total / np.maximum(known, 1) if quantity.over is Over.MEAN else total

    def _rate(self, key: str) -> Floats | None:
        """Per second since the sample before that was ``_SHORTEST_STEP_S`` earlier or more; nan at the first."""
        if (total := self._at_grid(BY_KEY[key])) is None:
            return None
        apart = steps_of(self.grid_s, _SHORTEST_STEP_S)
        rates = np.concatenate([[np.nan], np.diff(total[apart]) / np.diff(self.grid_s[apart])])
        # What lies between two of them is of the stretch that ends at the next.
        within: Floats = rates[np.minimum(np.searchsorted(apart, np.arange(len(total))), len(apart) - 1)]
        return within

    def _hit_rate(self) -> Floats | None:
        hits, queries = self._rate("cache_hits"), self._rate("cache_queries")
        if hits is None or queries is None:
            return None
        rate: Floats = np.divide(hits, queries, out=np.full(len(hits), np.nan), where=queries > 0)
        return rate


def _samples_in(at_s: Floats, window: Window) -> int:
    return int(np.count_nonzero((at_s >= window.start_s) & (at_s <= window.end_s)))


def _first(one: Floats | None, other: Floats | None) -> Floats | None:
    return one if one is not None else other


def _mean(at_s: Floats, value: Floats | None, window: Window) -> float | None:
    return _finite(mean_within(at_s, value, window)) if value is not None else None


def _most(at_s: Floats, value: Floats | None, window: Window) -> float | None:
    return _finite(most_within(at_s, value, window)) if value is not None else None


def _finite(value: float | None) -> float | None:
    """Sums of what a server says may overflow: then nothing is known."""
    return value if value is not None and math.isfinite(value) else None


def _bound(text: str) -> float:
    """Of a bucket; nan where it cannot be read."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _ratio(part: float | None, whole: float | None) -> float | None:
    return _finite(part / whole) if part is not None and whole else None


def _rounded(value: float | None) -> int | None:
    return round(value) if value is not None else None


def _idle_share(at_s: Floats, running: Floats | None, waiting: Floats | None, window: Window) -> float | None:
    if running is None:
        return None
    busy = running + (waiting if waiting is not None else 0.0)
    inside = busy[(at_s >= window.start_s) & (at_s <= window.end_s) & ~np.isnan(busy)]
    return float(np.count_nonzero(inside == 0) / len(inside)) if len(inside) else None


def _coverage_notes(grid_s: Floats, window: Window) -> tuple[str, ...]:
    """Of which parts of the window nothing is known."""
    return (*_bounds_note(grid_s, window), *_gap_note(grid_s, window))


def _gap_note(grid_s: Floats, window: Window) -> tuple[str, ...]:
    """The largest stretch of the window without a sample, between two."""
    inside = grid_s[np.searchsorted(grid_s, window.start_s) :]
    steps_s = np.diff(inside[: np.searchsorted(inside, window.end_s) + 1])
    if not len(steps_s) or (longest_s := float(steps_s.max())) < _LARGE_GAPS * max(_step_of(grid_s), 1.0):
        return ()
    begins_s = float(inside[int(steps_s.argmax())])
    return (
        f"nothing is known of the server's side from {format_duration(begins_s)} to {format_duration(begins_s + longest_s)}: "
        "there it is taken for a straight line",
    )


def _step_of(grid_s: Floats) -> float:
    return float(np.median(np.diff(grid_s))) if len(grid_s) > 1 else 0.0


def _foreign_notes(series: Sequence[Series], model: str) -> tuple[str, ...]:
    if not tells_of_accelerators(series) or tells_of_accelerators(belonging(series, model)):
        return ()
    return ("the exporter tells of other pods' accelerators, and of none of the engine's pod",)


def _bounds_note(grid_s: Floats, window: Window) -> tuple[str, ...]:
    step_s = _step_of(grid_s)
    begins_s, ends_s = float(grid_s[0]), float(grid_s[-1])
    if begins_s - window.start_s <= _GAPS * step_s and window.end_s - ends_s <= _GAPS * step_s:
        return ()
    known = f"{format_duration(max(0.0, begins_s))} to {format_duration(max(0.0, ends_s))}"
    return (
        f"the server's side is known from {known} after the start, and the window was from "
        f"{format_duration(window.start_s)} to {format_duration(window.end_s)}",
    )
