"""What a Prometheus server has scraped of the engines, over a window: its samples as they are, in PromQL's own words.

A range selector (``vllm:num_requests_running[90s]``) gives every sample with the instant at which it was scraped. So both
sources, a page a second and a Prometheus, are reckoned in one way, by ``measure.server``; ``rate`` and ``increase`` would
extrapolate to the bounds of their range, and hide how long ago the last sample was.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic, sleep, time
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np

from pytest_llmperf.errors import ConfigError, Where
from pytest_llmperf.measure.exposition import MOST_SERIES, Series
from pytest_llmperf.measure.server_metrics import NAMES, QUANTITIES

if TYPE_CHECKING:
    from pytest_llmperf.load.records import Floats

TIMEOUT_S = 10.0
POLL_S = 0.25
MOST_WAIT_S = 150.0
"""Prometheus scrapes once a minute by default."""
_RUNNING = next(quantity.names for quantity in QUANTITIES if quantity.key == "running")
_UNKNOWN_INTERVAL_S = 1.0
_GONE = 2.0
"""An engine that was last scraped so many intervals before another one is no more."""
_BEFORE_S = 120.0
"""So far back before the run is looked for the sample that came last before it."""


class PrometheusError(Exception):
    """It did not answer, or not with what was asked."""


@dataclass
class Prometheus:
    """One server, at ``url``; ``labels`` are matchers (``namespace="x"``) that every series is selected by."""

    url: str
    labels: str = ""
    _client: httpx.Client = field(init=False, repr=False)
    _ahead_s: float = field(init=False, default=0.0)
    """By how much its clock is ahead of ours."""

    def __post_init__(self) -> None:
        # The slash: a path below which it is served stays.
        self._client = httpx.Client(base_url=f"{self.url.rstrip('/')}/", timeout=TIMEOUT_S, trust_env=False)

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def check(self) -> None:
        """Whether it answers and understands the labels. Raises ``ConfigError`` naming the option."""
        try:
            self.learn_clock()
        except PrometheusError as error:
            what = f"no Prometheus answers there: {error}"
            raise ConfigError(what, where=Where(option="--llmperf-prometheus"), hint="Write http://HOST:PORT.") from None
        try:
            self._ask(f"count({self._selector(_RUNNING)})")
        except PrometheusError as error:
            hint = 'Write PromQL\'s matchers: namespace="x",pod=~"llm-.*".'
            raise ConfigError(
                str(error), where=Where(option=f"--llmperf-prometheus{'-labels' if self.labels else ''}"), hint=hint
            ) from None

    def learn_clock(self) -> None:
        """By how much its clock differs from ours, which the other questions then reckon with. Raises ``PrometheusError``."""
        asked_s = time()
        answer = self._ask("time()")
        with _in_its_way():
            self._ahead_s = float(answer[1]) - (asked_s + time()) / 2

    def await_samples(self, until: float) -> None:
        """Wait until it has scraped every engine at ``until`` (seconds since the epoch, our clock) or later.

        For two of its intervals; not for one that knows no engine. Raises ``PrometheusError``.
        """
        until += self._ahead_s
        seen_s = self._scraped_at_s()
        deadline = monotonic() + min(2 * _interval_s(seen_s) + 1.0, MOST_WAIT_S)
        while not (len(seen_s) and seen_s[-1] >= until) and monotonic() < deadline:
            # Polling: it tells nobody when it has scraped.
            sleep(POLL_S)
            seen_s = self._scraped_at_s()

    def series(self, started_at: float, end_s: float) -> tuple[Series, ...]:
        """Every series that is read, from before the run until now; ``end_s`` is the window's. Raises ``PrometheusError``.

        One without a sample since the run began is left out: it is of an engine that was there before.
        """
        behind_s = max(time() - started_at, end_s)
        rows = self._ask(f"{self._selector(sorted(NAMES))}[{math.ceil(behind_s + _BEFORE_S)}s]")
        with _in_its_way():
            if len(rows) > MOST_SERIES:
                raise PrometheusError(f"it has more than {MOST_SERIES} series of engines")
            found = (self._one_series(row, started_at) for row in rows)
            return tuple(one for one in found if len(one.at_s) and one.at_s[-1] >= 0)

    def _one_series(self, row: Mapping[str, Any], started_at: float) -> Series:
        labels = {str(name): str(value) for name, value in row["metric"].items()}
        samples = np.array([(float(at_s), float(value)) for at_s, value in row["values"]]).reshape(-1, 2)
        samples = samples[np.isfinite(samples[:, 1])]
        return Series(labels.pop("__name__"), labels, samples[:, 0] - self._ahead_s - started_at, samples[:, 1])

    def _scraped_at_s(self) -> Floats:
        """When one of the engines was scraped lately: of those that still are, the one that waits longest for its turn."""
        rows = self._ask(f"{self._selector(_RUNNING)}[10m]")
        with _in_its_way():
            sampled = [np.array([float(at_s) for at_s, _ in row["values"]]) for row in rows]
        sampled = [at_s for at_s in sampled if len(at_s)]
        newest_s = max((at_s[-1] for at_s in sampled), default=0.0)
        gone_s = newest_s - _GONE * max(map(_interval_s, sampled), default=0.0)
        return min((at_s for at_s in sampled if at_s[-1] >= gone_s), key=lambda at_s: float(at_s[-1]), default=np.empty(0))

    def _selector(self, names: tuple[str, ...] | list[str]) -> str:
        more = f",{self.labels}" if self.labels else ""
        return f'{{__name__=~"{"|".join(names)}"{more}}}'

    def _ask(self, query: str) -> Any:
        """The result of an instant query. Raises ``PrometheusError``, whose words are at most a line of the server's."""
        try:
            answer = self._client.post("api/v1/query", data={"query": query})
        except httpx.HTTPError as error:
            raise PrometheusError(type(error).__name__) from None
        try:
            body = answer.json()
            if body["status"] == "success":
                return body["data"]["result"]
            said = str(body["error"])
        except (ValueError, KeyError, TypeError):
            said = "and not in the way of a Prometheus"
        raise PrometheusError(" ".join(f"it answers {answer.status_code} {said}".split())[:200])


def _interval_s(at_s: Floats) -> float:
    """Between two samples."""
    return float(np.median(np.diff(at_s))) if len(at_s) > 2 else _UNKNOWN_INTERVAL_S


@contextmanager
def _in_its_way() -> Iterator[None]:
    """An answer is taken apart. Raises ``PrometheusError`` where it is not what a Prometheus answers."""
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError):
        raise PrometheusError("it answers, and not in the way of a Prometheus") from None
