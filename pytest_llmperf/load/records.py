"""What a load run leaves behind: one row a request, one entry a token-bearing chunk, in columns."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Outcome(IntEnum):
    """How a request ended. Every planned request that was due gets exactly one."""

    OK = 0
    CONNECT_FAILED = 1
    RESET = 2
    TIMEOUT = 3
    HTTP_ERROR = 4
    MALFORMED = 5
    TRUNCATED = 6
    SERVER_ERROR_EVENT = 7
    CANCELLED = 8


@dataclass(frozen=True)
class RequestLog:
    """Columns of equal length n (one row a request, in order of ``scheduled_s``), and the chunks they point into.

    Times are seconds since the run's start on the monotonic clock (``nan`` where the thing never happened). The chunks of
    request i are ``chunk_s[chunk_start[i]:chunk_start[i + 1]]`` with as many tokens each as ``chunk_tokens`` says; a chunk
    that bears no token (a role, the usage, ``[DONE]``) is not among them.
    """

    scheduled_s: Floats
    """When the request was to be made: the planned arrival (open loop), or the moment its user was ready (closed loop)."""
    sent_s: Floats
    connected_s: Floats
    """When its connection stood; equals ``sent_s`` at most; of a reused connection, the moment it was taken."""
    first_byte_s: Floats
    first_token_s: Floats
    """``nan`` also for an answer that was not streamed: nobody saw its first token arrive."""
    last_token_s: Floats
    end_s: Floats
    outcome: NDArray[np.uint8]
    http_status: NDArray[np.int16]
    prompt_tokens: Ints
    """As the server's usage says; where it says nothing, as planned (``usage_reported`` is False)."""
    output_tokens: Ints
    usage_reported: NDArray[np.bool_]
    planned_prompt_tokens: Ints
    planned_output_tokens: Ints
    received_bytes: Ints
    session: Ints
    """The session's number in the plan, from 0; the warm-up's sessions are -1, -2, ... A single-turn request is a session."""
    turn: NDArray[np.int32]
    worker: NDArray[np.int16]
    warmup: NDArray[np.bool_]
    """Requests of the warm-up: recorded, never counted."""
    error: tuple[str, ...]
    """A short class of the error (``""`` when OK): ``http 503 ServiceUnavailable``, ``connect refused``, ``timeout idle``."""
    chunk_start: Ints
    """Shape (n + 1,)."""
    chunk_s: Floats
    chunk_tokens: NDArray[np.uint16]

    def __len__(self) -> int:
        return len(self.scheduled_s)


@dataclass(frozen=True)
class WorkerHealth:
    """What one worker says of itself. Times in seconds; ``cpu_share`` is CPU seconds per second of the run."""

    worker: int
    requests: int
    lateness_p50_s: float
    """From the scheduled instant to the one at which the client sent, or began to connect where it needed a fresh connection."""
    lateness_p99_s: float
    lateness_max_s: float
    loop_lag_p99_s: float
    loop_lag_max_s: float
    cpu_share: float
    connect_failures: int


@dataclass(frozen=True)
class ClientHealth:
    """Whether the load generator did what was planned; ``notes`` name what the platform could not give."""

    workers: tuple[WorkerHealth, ...]
    planned_requests: int
    """How many the profile had due within the run (open loop); how many were made (closed loop)."""
    sent_requests: int
    notes: tuple[str, ...] = ()
    unreachable_requests: int = 0
    """Not sent because the server took no connection: its failures, not the client's."""
    lost_workers: int = 0
    """Workers that died, and what they had measured with them."""


@dataclass(frozen=True)
class LoadResult:
    """Everything one load left: the log, the client's health, and the window in which requests were counted."""

    log: RequestLog
    health: ClientHealth
    started_at: float
    """Wall clock (seconds since the epoch) at the run's start, the zero of every time in the log."""
    window_start_s: float
    """Where the warm-up ended and counting began."""
    window_end_s: float
    """Where the last arrival was due: the planned end, the moment the load was ended, or the last answer of a closed loop that
    ends by count. Never before ``window_start_s``."""
    interrupted: bool
    """True after Ctrl-C or a lost worker: what was measured is here, the plan was not finished."""
    planned_end_s: float | None = None
    """Where the plan had the window end; None for a closed loop that ends by count alone."""
    stopped_s: float | None = None
    """When whoever watched the load ended it, in seconds since the run's start; None when it was not ended so."""
