"""Requests into columns: one worker's exchanges become a log, the workers' logs become one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Literal

import numpy as np

from pytest_llmperf.load.decode import RawResponse, decode
from pytest_llmperf.load.exchange import Exchange
from pytest_llmperf.load.plan import SessionPlan
from pytest_llmperf.load.records import Floats, Outcome, RequestLog

_RAGGED = {"chunk_start", "chunk_s", "chunk_tokens"}
_EMPTY: Floats = np.empty(0)


def log_of(
    exchanges: Sequence[Exchange],
    body_of: Callable[[Exchange], bytes],
    *,
    start_s: float,
    worker: int,
    api: Literal["completions", "chat"],
    stream: bool,
) -> RequestLog:
    """Decode every exchange. Instants become seconds since ``start_s`` (of the monotonic clock)."""
    responses = [decode(raw_response(exchange, body_of(exchange)), api, stream=stream) for exchange in exchanges]
    chunk_counts = [len(response.chunk_s) for response in responses]
    log = RequestLog(
        scheduled_s=_times([x.scheduled_s for x in exchanges], start_s),
        sent_s=_times([x.sent_s for x in exchanges], start_s),
        connected_s=_times([x.connected_s for x in exchanges], start_s),
        first_byte_s=_times([x.first_byte_s for x in exchanges], start_s),
        first_token_s=_times([r.first_token_s for r in responses], start_s),
        last_token_s=_times([r.last_token_s for r in responses], start_s),
        end_s=_times([x.end_s for x in exchanges], start_s),
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
        chunk_s=log.chunk_s[places],
        chunk_tokens=log.chunk_tokens[places],
    )


def raw_response(exchange: Exchange, body: bytes) -> RawResponse:
    """What was captured of an exchange that has ended."""
    return RawResponse(
        body=body,
        read_s=exchange.read_s,
        read_sizes=exchange.read_sizes,
        end=exchange.end,
        end_s=exchange.end_s,
        status=exchange.status,
        wire_error=exchange.error,
    )


def _times(instants: Sequence[float] | Floats, start_s: float) -> Floats:
    return np.asarray(instants, dtype=np.float64) - start_s
