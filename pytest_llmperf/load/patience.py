"""How long a request is waited for, and how long a server that asks for patience is left alone."""

from __future__ import annotations

from email.utils import parsedate_to_datetime

from pytest_llmperf.experiment.records import Workload
from pytest_llmperf.load.exchange import Exchange, WireEnd
from pytest_llmperf.load.glance import first_token_s
from pytest_llmperf.load.options import LoadOptions
from pytest_llmperf.load.pool import TIMEOUT

MOST_S = 60.0
"""The longest that a server's ``Retry-After`` is heeded."""
_OVERLOADED = frozenset({429, 503})


def retry_after_s(exchange: Exchange, wall_s: float) -> float:
    """How long an overloaded server asks to be left alone (RFC 9110, section 10.2.3); ``wall_s`` is now, since the epoch."""
    if exchange.status not in _OVERLOADED or not exchange.retry_after:
        return 0.0
    text = exchange.retry_after.decode("latin-1").strip()
    if text.isascii() and text.isdigit():
        return min(float(text), MOST_S)
    try:
        asked_s = parsedate_to_datetime(text).timestamp() - wall_s
    except (ValueError, OverflowError):
        return 0.0
    return min(max(asked_s, 0.0), MOST_S)


class Patience:
    """The timeouts of one load."""

    def __init__(self, options: LoadOptions, workload: Workload) -> None:
        self._workload = workload
        self._total_s = workload.timeout
        self._connect_s = options.connect_timeout_s
        self._first_token_s = options.first_token_timeout_s
        self._idle_s = options.idle_timeout_s

    def is_over(self, exchange: Exchange, now_s: float, *, opening: bool) -> tuple[WireEnd, str] | None:
        """How a request in flight is to end now; None to go on waiting. ``opening``: it has no connection yet."""
        if opening:
            # Whichever timeout it is that ends it: a server that takes no connection has not been sent anything.
            is_over = now_s - exchange.begun_s >= min(self._connect_s, self._total_s)
            return (WireEnd.CONNECT_FAILED, TIMEOUT) if is_over else None
        if now_s - exchange.begun_s >= self._total_s:
            return WireEnd.TIMEOUT, "timeout total"
        if self._first_token_s is not None and now_s - exchange.sent_s >= self._first_token_s and not self._has_token(exchange):
            return WireEnd.TIMEOUT, "timeout first token"
        if self._idle_s is not None and exchange.reads and now_s - exchange.reads.read_s[-1] >= self._idle_s:
            return WireEnd.TIMEOUT, "timeout idle"
        return None

    def _has_token(self, exchange: Exchange) -> bool:
        """Whether a token has come, or what came can no longer become one that is late."""
        if not exchange.has_token and exchange.reads:
            streamed = self._workload.stream and 200 <= exchange.status < 300
            exchange.has_token = not streamed or first_token_s(exchange.reads, self._workload) is not None
        return exchange.has_token
