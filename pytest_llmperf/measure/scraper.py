"""Reads a server's pages of metrics while a load runs: once a second, and where the window begins and ends.

A thread of its own, and in it a task for each page: none waits for another, and each can be ended from outside. Capture now,
decode later: it keeps the lines of each page that are read, and parses none of them.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic, time
from types import TracebackType
from typing import TYPE_CHECKING

import httpx

from pytest_llmperf.measure.exposition import Page, TooLargeError, packed
from pytest_llmperf.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Callable

INTERVAL_S = 1.0
CONNECT_TIMEOUT_S = 2.0
PAGE_TIMEOUT_S = 5.0
"""How long a whole page may take, from the asking to its last byte."""
FINAL_S = 2.0
"""How long after the load's end its last pages are waited for, all together."""
_ENDING_S = 0.5
"""How long a thread that was told to end may take for it."""
_MOST_BYTES = 32 * 2**20
_NO_SUCH_PAGE = {httpx.codes.NOT_FOUND, httpx.codes.METHOD_NOT_ALLOWED, httpx.codes.NOT_IMPLEMENTED}


class ScrapeError(Exception):
    """A page that could not be read, in words that hold nothing of what the server said."""


class NoPageError(ScrapeError):
    """There is none, or none that can be used: it need not be asked for again."""


@dataclass(frozen=True)
class ScrapeSource:
    """A page to read. ``name`` tells its series from those of others; ``connect`` makes what reads it."""

    name: str
    url: str
    connect: Callable[[], httpx.AsyncClient]


@dataclass(frozen=True)
class Scraped:
    """What became of one source."""

    pages: tuple[Page, ...]
    failures: int
    reason: str
    """Of the last failure."""


async def read_page(client: httpx.AsyncClient, url: str) -> tuple[float, bytes]:
    """The wall clock's time at which a page began to arrive, and its packed lines. Raises ``ScrapeError``."""
    page = bytearray()
    try:
        # The library's own timeouts are between two reads: a page that drips would never meet one.
        async with (
            asyncio.timeout(PAGE_TIMEOUT_S),
            client.stream("GET", url, timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S)) as answer,
        ):
            at_s = time()
            if not answer.is_success:
                raise (NoPageError if answer.status_code in _NO_SUCH_PAGE else ScrapeError)(f"it answers {answer.status_code}")
            async for part in answer.aiter_bytes():
                page += part
                if len(page) > _MOST_BYTES:
                    raise NoPageError("its page is too large")
        return at_s, packed(bytes(page))
    except TimeoutError:
        raise ScrapeError(f"its page took longer than {format_duration(PAGE_TIMEOUT_S)}") from None
    except TooLargeError:
        raise NoPageError("its page is too large") from None
    except httpx.HTTPError as error:
        raise ScrapeError(type(error).__name__) from None


def read_once(source: ScrapeSource) -> bytes:
    """A page's packed lines, now. Raises ``ScrapeError``."""
    read: list[bytes | ScrapeError] = []

    async def reading() -> None:
        try:
            async with source.connect() as client:
                read.append((await read_page(client, source.url))[1])
        except Exception as error:  # noqa: BLE001 - told by whoever asks
            read.append(error if isinstance(error, ScrapeError) else ScrapeError(type(error).__name__))

    # In a thread of its own: whoever asks may have a loop that runs.
    thread = threading.Thread(target=asyncio.run, args=(reading(),), name="llmperf-scraper", daemon=True)
    thread.start()
    thread.join()
    page = read[0]
    if isinstance(page, ScrapeError):
        raise page
    return page


class Scraper:
    """``with Scraper(sources, bounds_s):`` reads until ``ending`` or the block's end, and once more then.

    ``bounds_s`` are instants in seconds since the load's start, at which it reads too, once ``began`` has said when that was.
    Whatever goes wrong with a page is told by ``scraped``, and is no error.
    """

    def __init__(self, sources: Sequence[ScrapeSource], bounds_s: Sequence[float]) -> None:
        self._sources = sources
        self._bounds_s = sorted(bounds_s)
        self._due_s: list[float] = []
        self._changed = asyncio.Event()
        self._over = False
        self._pages: dict[str, list[tuple[float, bytes]]] = {source.url: [] for source in sources}
        self._failures: Counter[str] = Counter()
        self._reasons: dict[str, str] = {}
        self._failing: set[str] = set()
        """The sources whose last page could not be read."""
        self._tasks: list[asyncio.Task[None]] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="llmperf-scraper", daemon=True)

    def __enter__(self) -> Scraper:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop(wait=kind is None)

    def began(self, started_s: float) -> None:
        """The load began at this instant of the monotonic clock; only the first word counts."""
        if self._bounds_s:
            due_s = [started_s + bound_s for bound_s in self._bounds_s]
            self._bounds_s = []
            self._tell(lambda: self._await_too(due_s))

    def ending(self) -> None:
        """The load is over: now the last page of each source is read. Does not wait for it."""
        self._tell(self._end)

    def stop(self, *, wait: bool = True) -> None:
        """Read no more: once the last pages are there, within ``FINAL_S``, or at once without ``wait``."""
        self._tell(self._end if wait else self._cut)
        self._thread.join(_ENDING_S + (FINAL_S if wait else 0.0))

    def scraped(self, source: ScrapeSource, started_at: float) -> Scraped:
        """What was read of a source by a load that began at ``started_at`` of the wall clock.

        The last page before that counts as read at the start: the load had changed nothing until then.
        """
        read = [(at_s - started_at, lines) for at_s, lines in self._pages[source.url]]
        before = [lines for at_s, lines in read if at_s <= 0]
        pages = [(0.0, lines) for lines in before[-1:]] + [page for page in read if page[0] > 0]
        return Scraped(
            tuple(Page(at_s, lines, source.name) for at_s, lines in pages),
            self._failures[source.url],
            self._reasons.get(source.url, ""),
        )

    def _tell(self, what: Callable[[], None]) -> None:
        # The loop is closed where there was nothing left to read.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(what)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._follow_all())
        finally:
            self._loop.close()

    async def _follow_all(self) -> None:
        self._tasks = [self._loop.create_task(self._follow(source)) for source in self._sources]
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _await_too(self, due_s: list[float]) -> None:
        self._due_s = due_s
        self._wake()

    def _end(self) -> None:
        if self._over:
            return
        self._over = True
        self._wake()
        for source, task in zip(self._sources, self._tasks, strict=False):
            if source.url in self._failing:
                task.cancel()
        self._loop.call_later(FINAL_S, self._cut)

    def _cut(self) -> None:
        self._over = True
        for task in self._tasks:
            task.cancel()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _follow(self, source: ScrapeSource) -> None:
        try:
            async with source.connect() as client:
                await self._read_on(client, source)
        except Exception as error:  # noqa: BLE001 - whatever it is, the load goes on
            self._failed(source, error if isinstance(error, ScrapeError) else type(error).__name__)

    async def _read_on(self, client: httpx.AsyncClient, source: ScrapeSource) -> None:
        """Until the load's end, and once more then. Raises what makes further reading useless."""
        tick_s = monotonic()
        while not self._over:
            read_s = monotonic()
            await self._read(client, source)
            if (late_s := monotonic() - tick_s) >= 0:
                # A tick that was missed while a page was slow to come is not made up for.
                tick_s += INTERVAL_S * (late_s // INTERVAL_S + 1)
            await self._await(tick_s, read_s)
        await self._read(client, source)

    async def _await(self, tick_s: float, read_s: float) -> None:
        """Until the next tick, the first of the window's bounds after the last page was asked for at ``read_s``, or the end."""
        while not self._over:
            changed, now_s = self._changed, monotonic()
            # One that has passed meanwhile is due at once: late is better than never.
            next_s = min([tick_s, *(due_s for due_s in self._due_s if due_s > read_s)])
            try:
                async with asyncio.timeout(max(0.0, next_s - now_s)):
                    await changed.wait()
            except TimeoutError:
                return

    async def _read(self, client: httpx.AsyncClient, source: ScrapeSource) -> None:
        try:
            page = await read_page(client, source.url)
        except asyncio.CancelledError:
            if source.url not in self._failing:
                self._failed(source, "it had not answered when the load was over")
            raise
        except NoPageError:
            raise
        except ScrapeError as error:
            self._failed(source, error)
        else:
            self._pages[source.url].append(page)
            self._failing.discard(source.url)

    def _failed(self, source: ScrapeSource, reason: object) -> None:
        self._failures[source.url] += 1
        self._reasons[source.url] = str(reason)
        self._failing.add(source.url)
