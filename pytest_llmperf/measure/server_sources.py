"""Where the server's side of runs is read, as a user says it: pages of metrics by kind, or a Prometheus."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from pytest_llmperf.errors import ConfigError, Where, unknown

ENGINE, DCGM = "engine", "dcgm"
PAGES = (ENGINE, DCGM)
"""The kinds of further pages: an engine's own, where the endpoint does not show it, and NVIDIA's exporter of accelerators."""
_FORM = f"Write KIND=URL with a KIND of {', '.join(PAGES)}: dcgm=http://HOST:9400/metrics."
_MATCHER = r'[a-zA-Z_][a-zA-Z0-9_]*\s*(?:=~|!~|!=|=)\s*"(?:[^"\\]|\\.)*"'
_MATCHERS = re.compile(rf"{_MATCHER}(?:\s*,\s*{_MATCHER})*")


@dataclass(frozen=True)
class ServerSources:
    """Where to look: at the endpoint's own ``/metrics`` and at ``pages`` (kind, URL), or in ``prometheus`` alone.

    ``labels`` are PromQL's matchers, which select the run's series in the Prometheus.
    """

    pages: tuple[tuple[str, str], ...] = ()
    prometheus: str | None = None
    labels: str = ""


ITS_OWN_PAGE = ServerSources()


def parse_server_sources(
    scrape: Iterable[str], prometheus: str | None, labels: str | None, where: Callable[[str], Where]
) -> ServerSources:
    """The texts of the three settings -> where to look. ``where``: where each was written. Raises ``ConfigError``."""
    pages = tuple(_page(text, where("scrape")) for text in scrape)
    if prometheus is None:
        if labels:
            what = "labels select a run's series in a Prometheus, and none is named"
            raise ConfigError(what, where=where("prometheus_labels"), hint="Add --llmperf-prometheus=http://HOST:9090.")
        return ServerSources(pages)
    if pages:
        what = "with a Prometheus no page is read: it has scraped what there is"
        raise ConfigError(what, where=where("scrape"), hint="Leave out one of --llmperf-scrape and --llmperf-prometheus.")
    _check_url(prometheus, where("prometheus"))
    if labels and not _MATCHERS.fullmatch(labels.strip()):
        hint = 'Write PromQL\'s matchers: namespace="x",pod=~"llm-.*".'
        raise ConfigError(f"{labels!r} are no labels", where=where("prometheus_labels"), hint=hint)
    return ServerSources(prometheus=prometheus, labels=(labels or "").strip())


def _page(text: str, where: Where) -> tuple[str, str]:
    kind, equals, url = (part.strip() for part in text.partition("="))
    if not equals or "/" in kind:
        raise ConfigError("no page with its kind", where=where, hint=_FORM)
    if kind not in PAGES:
        raise unknown("kind of page", kind, PAGES, where)
    _check_url(url, where)
    return kind, url if urlsplit(url).path.strip("/") else f"{url.rstrip('/')}/metrics"


def _check_url(text: str, where: Where) -> None:
    """Raises ``ConfigError``, which shows nothing of a URL that may hold a credential."""
    try:
        url = urlsplit(text)
        is_url = url.scheme in {"http", "https"} and bool(url.hostname) and url.port != 0
    except ValueError:
        is_url = False
    if "@" in text or "?" in text or "#" in text:
        what = "the URL holds a credential, or goes on after its path"
        raise ConfigError(what, where=where, hint="Give http://HOST:PORT, and a path where there is one.")
    if not is_url:
        raise ConfigError(f"{text!r} is no http(s) URL with a host", where=where, hint="Write http://HOST:PORT.")
