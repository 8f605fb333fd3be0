"""Requests into columns: one worker's exchanges become a log, the workers' logs become one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pytest_llmperf.experiment.records import Workload
from pytest_llmperf.load.decode import decode
from pytest_llmperf.load.exchange import Capture, Exchange
from pytest_llmperf.load.plan import SessionPlan
from pytest_llmperf.load.records import Floats, Outcome, RequestLog
from pytest_llmperf.load.response import RawResponse, Response
from pytest_llmperf.load.wall_clock import WallClock

_PER_CHUNK = ("chunk_s", "chunk_tokens", "chunk_read_lag_s")
_RAGGED = {"chunk_start", *_PER_CHUNK}
_EMPTY: Floats = np.empty(0)


class Arrived(NamedTuple):
    """An exchange that has ended, every instant that of arrival, and how long each of its reads had waited to be read.

    ``read_lag_s`` has one entry a read and a last one for the response's end.
    """

    first_byte_s: float
    raw: RawResponse
    read_lag_s: Floats

    def lags_of(self, response: Response) -> Floats:
        """How long each chunk of the response had waited."""
        places = np.searchsorted([*self.raw.read_s, self.raw.end_s], response.chunk_s, side="left")
        return self.read_lag_s[places]


class _Decoded(NamedTuple):
    """What the log keeps of an exchange that has ended."""

    first_byte_s: float
    end_s: float
    response: Response
    chunk_read_lag_s: NDArray[np.float32]


def _decoded(arrived: Arrived, workload: Workload) -> _Decoded:
    response = decode(arrived.raw, workload)
    return _Decoded(arrived.first_byte_s, arrived.raw.end_s, response, arrived.lags_of(response).astype(np.float32))


def log_of(
    exchanges: Sequence[Exchange],
    capture_of: Callable[[Exchange], Capture],
    clock: WallClock,
    *,
    start_s: float,
    worker: int,
    workload: Workload,
    secrets: tuple[str, ...] = (),
) -> RequestLog:
    """Decode every exchange. Instants become seconds since ``start_s`` (of the monotonic clock).

    Where an error quotes the server, it does so without the ``secrets``."""
    # One at a time: the bodies of all of them together are ten times what is kept of them.
    decoded = [_decoded(arrived_of(exchange, capture_of(exchange), clock, secrets), workload) for exchange in exchanges]
    responses = [each.response for each in decoded]
    chunk_counts = [len(response.chunk_s) for response in responses]
    log = RequestLog(
        scheduled_s=_times([x.scheduled_s for x in exchanges], start_s),
        sent_s=_times([x.sent_s for x in exchanges], start_s),
        connected_s=_times([x.connected_s for x in exchanges], start_s),
        first_byte_s=_times([each.first_byte_s for each in decoded], start_s),
        first_token_s=_times([r.first_token_s for r in responses], start_s),
        last_token_s=_times([r.last_token_s for r in responses], start_s),
        end_s=_times([each.end_s for each in decoded], start_s),
        outcome=np.array([r.outcome for r in responses], dtype=np.uint8),
        http_status=np.array([x.status for x in exchanges], dtype=np.int16),
        prompt_tokens=np.array(
            [
                x.planned_prompt_tokens if r.prompt_tokens is None else r.prompt_tokens
                for x, r in zip(exchanges, responses, strict=True)
            ],
            dtype=np.int64,
        ),
        output_tokens=np.array([int(r.chunk_tokens.sum()) for r in responses], dtype=np.int64),
        usage_reported=np.array([r.output_tokens is not None for r in responses], dtype=np.bool_),
        planned_prompt_tokens=np.array([x.planned_prompt_tokens for x in exchanges], dtype=np.int64),
        planned_output_tokens=np.array([x.planned_output_tokens for x in exchanges], dtype=np.int64),
        received_bytes=np.array([x.received_bytes for x in exchanges], dtype=np.int64),
        session=np.array([x.session for x in exchanges], dtype=np.int64),
        turn=np.array([x.turn for x in exchanges], dtype=np.int32),
        worker=np.full(len(exchanges), worker, dtype=np.int16),
        warmup=np.array([x.warmup for x in exchanges], dtype=np.bool_),
        error=tuple(r.error for r in responses),
        chunk_start=np.concatenate([[0], np.cumsum(chunk_counts)]).astype(np.int64),
        chunk_s=_times(np.concatenate([_EMPTY, *(r.chunk_s for r in responses)]), start_s),
        chunk_tokens=np.concatenate([_EMPTY, *(r.chunk_tokens for r in responses)]).astype(np.uint16),
        chunk_read_lag_s=np.concatenate([np.empty(0, dtype=np.float32), *(each.chunk_read_lag_s for each in decoded)]),
        token_fit=np.array([r.token_fit for r in responses], dtype=np.uint8),
    )
    return sorted_log(log)


def lost_log(sessions: Sequence[SessionPlan], *, worker: int, ended_s: float) -> RequestLog:
    """The rows of a worker that died with its records: what it was to ask in ``sessions``, cancelled."""
    n = len(sessions)
    never = np.full(n, np.nan)
    prompts = np.array([s.turns[0].prompt_tokens for s in sessions], dtype=np.int64)
    return RequestLog(
        scheduled_s=np.array([s.arrival_s for s in sessions], dtype=np.float64),
        sent_s=never,
        connected_s=never,
        first_byte_s=never,
        first_token_s=never,
        last_token_s=never,
        end_s=np.full(n, ended_s),
        outcome=np.full(n, Outcome.CANCELLED, dtype=np.uint8),
        http_status=np.zeros(n, dtype=np.int16),
        prompt_tokens=prompts,
        output_tokens=np.zeros(n, dtype=np.int64),
        usage_reported=np.zeros(n, dtype=np.bool_),
        planned_prompt_tokens=prompts,
        planned_output_tokens=np.array([s.turns[0].output_tokens for s in sessions], dtype=np.int64),
        received_bytes=np.zeros(n, dtype=np.int64),
        session=np.array([s.id for s in sessions], dtype=np.int64),
        turn=np.zeros(n, dtype=np.int32),
        worker=np.full(n, worker, dtype=np.int16),
        warmup=np.array([s.warmup for s in sessions], dtype=np.bool_),
        error=("worker lost",) * n,
        chunk_start=np.zeros(n + 1, dtype=np.int64),
        chunk_s=_EMPTY,
        chunk_tokens=np.empty(0, dtype=np.uint16),
    )


def merged_log(logs: Sequence[RequestLog]) -> RequestLog:
    """All rows of all logs (one at least), in order of ``scheduled_s``."""
    columns: dict[str, object] = {}
    for name in (field.name for field in fields(RequestLog)):
        if name == "error":
            columns[name] = tuple(error for log in logs for error in log.error)
        elif name != "chunk_start":
            columns[name] = np.concatenate([getattr(log, name) for log in logs])
    counts = np.concatenate([np.diff(log.chunk_start) for log in logs])
    columns["chunk_start"] = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return sorted_log(RequestLog(**columns))  # type: ignore[arg-type]


def sorted_log(log: RequestLog) -> RequestLog:
    """The same rows in order of ``scheduled_s``; rows due at the same instant in order of session and turn."""
    order = np.lexsort((log.turn, log.session, log.scheduled_s))
    starts, counts = log.chunk_start[:-1][order], np.diff(log.chunk_start)[order]
    chunk_start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    # For every entry of the new chunk columns, where it lies in the old ones.
    places = np.arange(chunk_start[-1]) + np.repeat(starts - chunk_start[:-1], counts)
    columns = {
        field.name: getattr(log, field.name)[order]
        for field in fields(RequestLog)
        if field.name not in _RAGGED and field.name != "error"
    }
    return replace(
        log,
        **columns,
        error=tuple(log.error[i] for i in order),
        chunk_start=chunk_start,
        **{name: getattr(log, name)[places] for name in _PER_CHUNK},
    )


def arrived_of(exchange: Exchange, capture: Capture, clock: WallClock, secrets: tuple[str, ...] = ()) -> Arrived:
    """What was captured of an exchange that has ended."""
    read_s = np.concatenate([[exchange.first_byte_s], capture.read_s, [exchange.end_s]])
    stamps = exchange.first_stamp + capture.stamps + exchange.end_stamp
    arrived_s = clock.arrivals(read_s, stamps, exchange.sent_s)
    first_byte_s, *reads_s, end_s = arrived_s.tolist()
    raw = RawResponse(
        body=capture.body,
        read_s=reads_s,
        read_sizes=capture.sizes.tolist(),
        end=exchange.end,
        end_s=end_s,
        status=exchange.status,
        wire_error=exchange.error,
        secrets=secrets,
    )
    return Arrived(first_byte_s, raw, (read_s - arrived_s)[1:])


def _times(instants: Sequence[float] | Floats, start_s: float) -> Floats:
    return np.asarray(instants, dtype=np.float64) - start_s
