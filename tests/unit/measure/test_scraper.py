"""Pages of a real server, read by the thread: what is kept, what a failure leaves, and that none of them ends the load."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from time import monotonic, time

import httpx
import pytest

from pytest_llmperf.measure import scraper as scraper_module
from pytest_llmperf.measure.exposition import MOST_SERIES, series_of
from pytest_llmperf.measure.scraper import NoPageError, ScrapeError, Scraper, ScrapeSource, read_once
from tests.unit.measure.pages_server import Pages, pages_server


@pytest.fixture
def server() -> Iterator[Pages]:
    with pages_server() as running:
        yield running


def source(server: Pages, path: str) -> ScrapeSource:
    return ScrapeSource("", server.url(path), lambda: httpx.AsyncClient(trust_env=False))


def wait_until_asked(server: Pages, times: int) -> None:
    """Until the server was asked so often; pytest's own timeout ends a wait for nothing."""
    while len(server.asked) < times:
        pass


def test_it_reads_at_the_beginning_every_interval_and_at_the_end(server: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scraper_module, "INTERVAL_S", 0.05)
    page, began = source(server, "/page"), time()
    with Scraper([page], []) as scraper:
        wait_until_asked(server, 4)
    asked, ended = len(server.asked), time()
    scraped = scraper.scraped(page, began - 1.0)
    (only,) = series_of(scraped.pages)
    assert only.value.tolist() == list(range(1, asked + 1))
    assert asked >= 5
    assert 1.0 <= only.at_s[0] <= only.at_s[-1] <= ended - began + 1.0
    assert (scraped.failures, scraped.reason) == (0, "")
    assert not any(thread.name == "llmperf-scraper" for thread in threading.enumerate())


def test_it_reads_at_the_window_s_bounds_too(server: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scraper_module, "INTERVAL_S", 3600.0)
    page = source(server, "/page")
    with Scraper([page], [1.0, 0.5]) as scraper:
        while not scraper.scraped(page, time()).pages:
            pass
        started_s, started_at = monotonic(), time()
        scraper.began(started_s)
        scraper.began(started_s - 9.0)  # only the first word counts
        wait_until_asked(server, 3)
        assert monotonic() - started_s >= 1.0
    at_s = [read.at_s for read in scraper.scraped(page, started_at).pages]
    assert at_s[0] == 0.0  # what was read before the start counts as read then
    assert 0.5 <= at_s[1] < at_s[2]
    assert at_s[2] >= 1.0


def test_bounds_that_have_passed_when_it_hears_of_them_are_read_late(server: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scraper_module, "INTERVAL_S", 3600.0)
    page = source(server, "/page")
    with Scraper([page], [0.02, 0.01]) as scraper:
        while not scraper.scraped(page, time()).pages:
            pass
        started_s = monotonic()
        while monotonic() < started_s + 0.03:
            pass
        scraper.began(started_s)
        wait_until_asked(server, 2)
    assert len(server.asked) == 3, "once for both of them, and once at the end"


def test_of_the_pages_before_the_start_the_last_one_counts(server: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scraper_module, "INTERVAL_S", 0.01)
    page = source(server, "/page")
    with Scraper([page], []) as scraper:
        wait_until_asked(server, 3)
    pages = scraper.scraped(page, time() + 1.0).pages
    assert [read.at_s for read in pages] == [0.0]
    assert series_of(pages)[0].value.tolist() == [len(server.asked)]


def test_a_failure_is_counted_and_its_words_are_not_the_server_s(server: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scraper_module, "INTERVAL_S", 0.02)
    bad, good = source(server, "/bad"), source(server, "/page")
    with Scraper([bad, good], []) as scraper:
        wait_until_asked(server, 12)
    failed = scraper.scraped(bad, 0.0)
    assert (failed.pages, failed.reason) == ((), "it answers 500")
    assert failed.failures >= 3
    assert len(scraper.scraped(good, 0.0).pages) >= 3


def test_a_page_that_is_not_there_is_asked_for_once(server: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scraper_module, "INTERVAL_S", 0.02)
    absent, there = source(server, "/metrics"), source(server, "/page")
    with Scraper([absent, there], []) as scraper:
        wait_until_asked(server, 5)
    assert scraper.scraped(absent, 0.0).failures == 1
    assert [path for path, _ in server.asked].count("/metrics") == 1


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/endless", "its page is too large"),
        ("/silent", "its page took longer than 200ms"),
        ("/drip", "its page took longer than 200ms"),
        ("/bad", "it answers 500"),
    ],
)
def test_what_cannot_be_read_in_time_or_at_all(server: Pages, monkeypatch: pytest.MonkeyPatch, path: str, reason: str) -> None:
    monkeypatch.setattr(scraper_module, "PAGE_TIMEOUT_S", 0.2)
    monkeypatch.setattr(scraper_module, "_MOST_BYTES", 2**20)
    with pytest.raises(ScrapeError, match=f"^{reason}$"):
        read_once(source(server, path))


def test_a_page_of_too_many_series_is_read_no_more(server: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scraper_module, "INTERVAL_S", 0.02)
    server.lines = b"vllm:num_requests_waiting 0\n" * MOST_SERIES
    page = source(server, "/page")
    with Scraper([page], []) as scraper:
        wait_until_asked(server, 1)
    scraped = scraper.scraped(page, 0.0)
    assert (scraped.pages, scraped.failures, scraped.reason) == ((), 1, "its page is too large")


def test_nobody_listens(server: Pages) -> None:
    server.server_close()
    with pytest.raises(ScrapeError, match=r"^ConnectError$"):
        read_once(source(server, "/page"))


def test_no_page_is_told_from_one_that_fails(server: Pages) -> None:
    with pytest.raises(NoPageError, match=r"^it answers 404$"):
        read_once(source(server, "/elsewhere"))


@pytest.mark.parametrize("path", ["/silent", "/drip"])
def test_a_page_that_never_comes_keeps_neither_the_others_nor_the_end(
    server: Pages, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(scraper_module, "INTERVAL_S", 0.02)
    monkeypatch.setattr(scraper_module, "PAGE_TIMEOUT_S", 3600.0)
    monkeypatch.setattr(scraper_module, "FINAL_S", 0.1)
    stuck, good = source(server, path), source(server, "/page")
    with Scraper([stuck, good], []) as scraper:
        wait_until_asked(server, 5)
    assert not any(thread.name == "llmperf-scraper" for thread in threading.enumerate())
    assert len(scraper.scraped(good, 0.0).pages) >= 4
    failed = scraper.scraped(stuck, 0.0)
    assert (failed.pages, failed.failures, failed.reason) == ((), 1, "it had not answered when the load was over")


def test_of_a_page_that_failed_last_no_other_is_awaited(server: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scraper_module, "INTERVAL_S", 0.02)
    monkeypatch.setattr(scraper_module, "PAGE_TIMEOUT_S", 0.05)
    monkeypatch.setattr(scraper_module, "FINAL_S", 3600.0)
    stuck = source(server, "/silent")
    with Scraper([stuck], []) as scraper:
        wait_until_asked(server, 3)
    assert scraper.scraped(stuck, 0.0).reason == "its page took longer than 50ms"


def test_without_waiting_it_ends_at_once(server: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scraper_module, "FINAL_S", 3600.0)
    stuck = source(server, "/silent")
    with Scraper([stuck], []) as scraper:
        wait_until_asked(server, 1)
        scraper.stop(wait=False)
        assert not any(thread.name == "llmperf-scraper" for thread in threading.enumerate())


def test_what_cannot_even_be_connected_is_a_failure(server: Pages) -> None:
    def connect() -> httpx.AsyncClient:
        raise OSError(24, "too many open files")

    page = ScrapeSource("", server.url("/page"), connect)
    with Scraper([page], []) as scraper:
        pass
    assert scraper.scraped(page, 0.0).reason == "OSError"
    with pytest.raises(ScrapeError, match=r"^OSError$"):
        read_once(page)
