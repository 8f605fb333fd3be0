"""Watches the server while a load runs, and tells its side of the run afterwards: by its pages of metrics, or by a Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from time import monotonic
from typing import TYPE_CHECKING, Protocol

import httpx

from pytest_llmperf.deploy.readiness import async_client_of
from pytest_llmperf.errors import ConfigError, Where
from pytest_llmperf.measure.exposition import MOST_SERIES, TooLargeError, has_any, series_of
from pytest_llmperf.measure.over_time import Window
from pytest_llmperf.measure.ownership import belonging, engines_in
from pytest_llmperf.measure.prometheus import Prometheus, PrometheusError
from pytest_llmperf.measure.scraper import Scraped, ScrapeError, Scraper, ScrapeSource, read_once
from pytest_llmperf.measure.server import ServerSeen, server_seen
from pytest_llmperf.measure.server_metrics import ENGINE_NAMES, NAMES
from pytest_llmperf.measure.server_sources import DCGM, ENGINE, ServerSources

if TYPE_CHECKING:
    from pytest_llmperf.deploy.base import Endpoint
    from pytest_llmperf.load.options import LoadProgress
    from pytest_llmperf.load.plan import LoadPlan
    from pytest_llmperf.load.records import LoadResult

_WANTED = {ENGINE: ENGINE_NAMES, DCGM: frozenset(name for name in NAMES if name.startswith("DCGM_"))}
"""Of each kind of page, what it must have one of."""
OnProgress = Callable[["LoadProgress"], None]


@dataclass(frozen=True)
class Told:
    """The server's side of a run; None, and a ``note`` that says why, where it is not known."""

    server: ServerSeen | None
    note: str = ""

    def noted_in(self, result: LoadResult) -> LoadResult:
        """The load with the note among its own."""
        return result.noted(self.note) if self.note else result


def _unknown(reason: str) -> Told:
    return Told(None, f"the server's side is not known: {reason}")


class Watching(Protocol):
    """What hears of a load while it runs, and tells the server's side of it afterwards."""

    def also(self, report: OnProgress) -> OnProgress:
        """Hears how far the load is, and passes it on."""
        ...

    def ended(self) -> None:
        """The load is over. Does not wait for anything."""
        ...

    def told(self, result: LoadResult, extra_warmup_s: float) -> Told:
        """What the server said over the window, without the ``extra_warmup_s`` at its beginning.

        It may wait, and more so for a Prometheus: what was measured had better be kept before.
        """
        ...


@contextmanager
def watching_server(sources: ServerSources, endpoint: Endpoint, accelerators: int, plan: LoadPlan) -> Iterator[Watching]:
    """Watch the server as long as the block lasts. Raises ``ConfigError`` where a source that was named is not there."""
    if sources.prometheus is not None:
        _check_prometheus(sources.prometheus, sources.labels)
        yield _Asking(Prometheus(sources.prometheus, sources.labels), endpoint.model, accelerators)
        return
    for kind, url in sources.pages:
        _check_page(kind, url)
    pages = _pages(endpoint, sources.pages)
    with Scraper(pages, [bound_s for bound_s in (plan.window_start_s, plan.window_end_s) if bound_s]) as scraper:
        yield _Reading(scraper, pages, endpoint.model, accelerators)


def _pages(endpoint: Endpoint, pages: Sequence[tuple[str, str]]) -> tuple[ScrapeSource, ...]:
    """The engine's page first. No other server is told the endpoint's credentials."""
    named = [ScrapeSource(url, url, _plain_client) for _, url in sorted(pages, key=lambda page: page[0] != ENGINE)]
    if any(kind == ENGINE for kind, _ in pages):
        return tuple(named)
    return ScrapeSource("", "/metrics", partial(async_client_of, endpoint)), *named


def _plain_client() -> httpx.AsyncClient:
    return httpx.AsyncClient(trust_env=False)


@cache
def _check_prometheus(url: str, labels: str) -> None:
    """See once that it is there; one that is gone later is noted. Raises ``ConfigError``."""
    with closing(Prometheus(url, labels)) as prometheus:
        prometheus.check()


@cache
def _check_page(kind: str, url: str) -> None:
    """See once that a page is there and is what it is called. Raises ``ConfigError``."""
    where = Where(option="--llmperf-scrape")
    try:
        page = read_once(ScrapeSource(url, url, _plain_client))
    except ScrapeError as error:
        raise ConfigError(f"{url} cannot be read: {error}", where=where) from None
    if not has_any(page, _WANTED[kind]):
        example = min(_WANTED[kind])
        raise ConfigError(f"{url} is no page of {kind}: it has nothing like {example}", where=where)


def _window(result: LoadResult, extra_warmup_s: float) -> Window:
    return Window(result.window_start_s + max(0.0, extra_warmup_s), result.window_end_s)


@dataclass(frozen=True)
class _Reading:
    """Pages that are read by a thread."""

    scraper: Scraper
    pages: tuple[ScrapeSource, ...]
    model: str
    accelerators: int

    def also(self, report: OnProgress) -> OnProgress:
        """The first report that comes after the start tells when that was."""

        def heard(progress: LoadProgress) -> None:
            if progress.elapsed_s > 0:
                self.scraper.began(monotonic() - progress.elapsed_s)
            report(progress)

        return heard

    def ended(self) -> None:
        """The last pages are read while what was measured is kept."""
        self.scraper.ending()

    def told(self, result: LoadResult, extra_warmup_s: float) -> Told:
        """Waits for the last pages, unless the load was interrupted."""
        self.scraper.stop(wait=not result.interrupted)
        scraped = [self.scraper.scraped(source, result.started_at) for source in self.pages]
        engine = scraped[0]
        if not engine.pages:
            return _unknown(f"{self._name(0)} cannot be read ({engine.reason})")
        try:
            series = series_of(sorted((page for one in scraped for page in one.pages), key=lambda page: page.at_s))
        except TooLargeError:
            return _unknown(f"{self._name(0)} has more than {MOST_SERIES} series of engines")
        seen = server_seen(
            series,
            _window(result, extra_warmup_s),
            model=self.model,
            accelerators=self.accelerators,
            failed_samples=engine.failures,
            notes=[note for index, one in enumerate(scraped) for note in self._failures_of(index, one)],
        )
        if seen is not None:
            return Told(seen)
        if any(one.name in ENGINE_NAMES for one in series):
            return _unknown("; ".join([f"{self._name(0)} was not read within the window", *self._failures_of(0, engine)]))
        return _unknown(f"{self._name(0)} has no metrics of an engine that is known here")

    def _failures_of(self, index: int, scraped: Scraped) -> Iterator[str]:
        if scraped.failures:
            tries = scraped.failures + len(scraped.pages)
            times = f"could not be read {scraped.failures} of {tries} times"
            yield f"{self._name(index)} {times}, the last time because: {scraped.reason}"

    def _name(self, index: int) -> str:
        return self.pages[index].url


@dataclass(frozen=True)
class _Asking:
    """A Prometheus that is asked afterwards."""

    prometheus: Prometheus
    model: str
    accelerators: int

    def also(self, report: OnProgress) -> OnProgress:
        """Nothing is to be heard: it scrapes whenever it does."""
        return report

    def ended(self) -> None:
        """Nothing is to be done."""

    def told(self, result: LoadResult, extra_warmup_s: float) -> Told:
        """Waits until it has scraped the end of the window, unless the load was interrupted."""
        window = _window(result, extra_warmup_s)
        try:
            self.prometheus.learn_clock()
            if not result.interrupted:
                self.prometheus.await_samples(result.started_at + window.end_s)
            series = self.prometheus.series(result.started_at, window.end_s)
        except PrometheusError as error:
            return _unknown(f"the Prometheus did not tell: {error}")
        finally:
            self.prometheus.close()
        several = engines_in(belonging(series, self.model))
        note = f"the values are of {several} engines together (--llmperf-prometheus-labels says which are meant)"
        seen = server_seen(
            series,
            window,
            model=self.model,
            accelerators=self.accelerators,
            source="prometheus",
            notes=[note] if several > 1 else [],
        )
        if seen is None:
            return _unknown("the Prometheus has no sample of an engine in the run's window")
        return Told(seen)
