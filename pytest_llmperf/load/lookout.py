"""What has become of one worker's requests so far, told a little at a time to a parent that watches."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from math import isnan
from typing import NamedTuple

import numpy as np

from pytest_llmperf.experiment.records import Workload
from pytest_llmperf.load.exchange import NAN, Capture, Exchange
from pytest_llmperf.load.glance import Glance, first_token_s, glance
from pytest_llmperf.load.log import arrived_of
from pytest_llmperf.load.messages import ROW, Seen
from pytest_llmperf.load.wall_clock import NO_STAMP, WallClock
from pytest_llmperf.load.wire import STALE_S

_ALL_OF_ONE_IN_FLIGHT = 2


class _Times(NamedTuple):
    """Of one request, of the monotonic clock; nan where it has not happened or is not known."""

    sent_s: float = NAN
    first_token_s: float = NAN
    last_token_s: float = NAN
    end_s: float = NAN

    def until(self, now_s: float) -> _Times:
        sent_s, first_s = (instant_s if instant_s <= now_s else NAN for instant_s in self[:2])
        # Which token was the last is known at the end, and not before.
        return _Times(sent_s, first_s, *self[2:]) if self.end_s <= now_s else _Times(sent_s, first_s)

    @property
    def known(self) -> int:
        """How many of them are."""
        return sum(not isnan(instant_s) for instant_s in self)


class Lookout:
    """Looks at ``exchanges``, a list that grows in the order they were begun, and tells each thing once."""

    def __init__(
        self,
        exchanges: Sequence[Exchange],
        capture_of: Callable[[Exchange], Capture],
        clock: WallClock,
        *,
        start_s: float,
        workload: Workload,
    ) -> None:
        """``capture_of`` gives what was read of an ended exchange. Instants are told as seconds since ``start_s``."""
        self._exchanges = exchanges
        self._capture_of = capture_of
        self._clock = clock
        self._start_s = start_s
        self._workload = workload
        self._begun = 0
        self._told: dict[int, int] = {}
        """Of every request whose end was not told: how many of its times were; -1 where it was not told at all."""
        self._first_s: dict[int, float] = {}
        self._glances: dict[int, tuple[Glance, float]] = {}
        """Of every request that has ended and whose end was not told: what was seen of it, and when it ended."""

    def look(self, now_s: float) -> Generator[None, None, Seen]:
        """What is new until ``now_s`` (monotonic, not in the future); everything that had arrived by then must have been read.

        Yields often, so that others get their turn between."""
        while self._begun < len(self._exchanges) and self._exchanges[self._begun].begun_s <= now_s:
            self._told[self._begun] = -1
            self._begun += 1
        rows: list[int] = []
        # Filled row by row: to make it of a list at the end would take longer at a stretch than anything else here.
        states = np.empty(len(self._told), dtype=ROW)
        for row in list(self._told):
            exchange, told = self._exchanges[row], self._told[row]
            if told == _ALL_OF_ONE_IN_FLIGHT and isnan(exchange.end_s):
                continue
            times = (yield from self._times(row, exchange, now_s)).until(now_s)
            if times.known != told or not isnan(times.end_s):
                states[len(rows)] = self._state(row, exchange, times)
                rows.append(row)
                self._note(row, times)
            yield
        news = states[: len(rows)].copy()
        for name in ("scheduled_s", *_Times._fields):
            news[name] -= self._start_s
        return Seen(now_s - self._start_s, np.array(rows, dtype=np.int64), news)

    def _times(self, row: int, exchange: Exchange, now_s: float) -> Generator[None, None, _Times]:
        if isnan(exchange.end_s):
            return _Times(_settled_sent_s(exchange, now_s), self._first_token_s(row, exchange))
        # It may have ended after ``now_s``: what is seen of it is then told next time.
        if row not in self._glances:
            raw = arrived_of(exchange, self._capture_of(exchange), self._clock).raw
            self._glances[row] = (yield from glance(raw, self._workload)), raw.end_s
        seen, end_s = self._glances[row]
        return _Times(exchange.sent_s, seen.first_token_s, seen.last_token_s, end_s)

    def _first_token_s(self, row: int, exchange: Exchange) -> float:
        """Of a request in flight."""
        if row not in self._first_s and exchange.reads and self._workload.stream and 200 <= exchange.status < 300:
            found_s = first_token_s(exchange.reads, self._workload)
            if found_s is not None:
                self._first_s[row] = found_s if isnan(found_s) else self._arrival_s(exchange, found_s)
        return self._first_s.get(row, NAN)

    def _arrival_s(self, exchange: Exchange, read_s: float) -> float:
        """When what was read then had arrived."""
        reads = exchange.reads
        count = reads.read_s.index(read_s) + 1
        stamps = exchange.first_stamp + bytes(reads.stamps[: count * len(NO_STAMP)])
        arrivals = self._clock.arrivals([exchange.first_byte_s, *reads.read_s[:count]], stamps, exchange.sent_s)
        return float(arrivals[-1])

    def _state(self, row: int, exchange: Exchange, times: _Times) -> tuple[object, ...]:
        """As ``ROW`` has it, still in instants of the monotonic clock."""
        ended = not isnan(times.end_s)
        tokens, failed = (self._glances[row][0].output_tokens, self._glances[row][0].failed) if ended else (0, False)
        return (exchange.scheduled_s, exchange.session, exchange.turn, *times, tokens, failed, exchange.warmup)

    def _note(self, row: int, times: _Times) -> None:
        self._told[row] = times.known
        if not isnan(times.end_s):
            del self._told[row], self._glances[row]
            self._first_s.pop(row, None)


def _settled_sent_s(exchange: Exchange, now_s: float) -> float:
    """When a request in flight was sent; nan while it may yet have to be sent again, on a fresh connection."""
    settled = not isnan(exchange.first_byte_s) or now_s - exchange.sent_s >= STALE_S
    return exchange.sent_s if settled else NAN
