"""What a load run leaves behind: one row a request, one entry a token-bearing chunk, in columns."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def _no_fits() -> NDArray[np.uint8]:
    return np.empty(0, dtype=np.uint8)


def _no_lags() -> NDArray[np.float32]:
    return np.empty(0, dtype=np.float32)


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


class TokenFit(IntEnum):
    """How the tokens of an answer lie on its chunks."""

    AS_SAID = 0
    """One each, or as the server says; also where nobody counts them."""
    MORE = 1
    """There are more tokens than chunks, and nothing says where: they are spread evenly."""
    FEWER = 2
    """There are fewer than chunks with a text."""


@dataclass(frozen=True)
class RequestLog:
    """Columns of equal length n (one row a request, in order of ``scheduled_s``), and the chunks they point into.

    Times are seconds since the run's start on the monotonic clock (``nan`` where the thing never happened). What came from the
    server has the instant of its arrival: by the kernel's clock where that is known, else when the client read it. What was read
    in one go has one instant, that of its last bytes: a client that was held up makes the others late by up to that. The chunks
    of request i are ``chunk_s[chunk_start[i]:chunk_start[i + 1]]`` with as many tokens each as ``chunk_tokens`` says; a chunk
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
    """As the server's usage says; where it says nothing, as planned (``usage_reported`` is False). 0 where nobody knows."""
    output_tokens: Ints
    """0 of an answer that is ``OK``: nobody counts its tokens; its chunks are then texts, with 0 in ``chunk_tokens``."""
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
    chunk_read_lag_s: NDArray[np.float32] = field(default_factory=_no_lags)
    """How long after its arrival by the kernel's clock the client read each chunk, by the last bytes of that read; 0 where only
    the client's clock is known."""

    token_fit: NDArray[np.uint8] = field(default_factory=_no_fits)
    """``TokenFit``, shape (n,)."""

    def __post_init__(self) -> None:
        if len(self.token_fit) != len(self):
            object.__setattr__(self, "token_fit", np.full(len(self), TokenFit.AS_SAID, dtype=np.uint8))
        if len(self.chunk_read_lag_s) != len(self.chunk_s):
            # Whoever says nothing of lags knows the client's clock alone.
            object.__setattr__(self, "chunk_read_lag_s", np.zeros(len(self.chunk_s), dtype=np.float32))

    def __len__(self) -> int:
        return len(self.scheduled_s)


@dataclass(frozen=True)
class WorkerHealth:
    """What one worker says of itself. Times in seconds; ``cpu_share`` is CPU seconds per second of the run."""

    worker: int
    requests: int
    lateness_p50_s: float
    """From the scheduled instant to the one at which the client sent. Where it needed a fresh connection: to the one at which it
    asked for that, and for as long as it then left it waiting when it stood."""
    lateness_p99_s: float
    lateness_max_s: float
    loop_lag_p99_s: float
    """How long what arrives may wait for the event loop: over time, or over the requests where that is worse. A timestamp of the
    kernel does not make it harmless: a read has one, that of its last bytes, and what came before them waited."""
    loop_lag_max_s: float
    cpu_share: float
    connect_failures: int
    kernel_stamped_share: float = 0.0
    """Of the chunks, those whose arrival is known by the kernel's clock; of the others when the client read them."""
    read_lag_p99_s: float = 0.0
    """From a chunk's arrival by the kernel's clock to the instant the client read it; 0 where no chunk has the former. It is of
    the last bytes of each read, so it does not bound how long the others waited."""


@dataclass(frozen=True)
class Achieved:
    """What a load made of its plan within the window; None where the plan has no such thing, or the window no length."""

    planned_rate_per_s: float | None = None
    """Requests due per second; None for a closed loop, whose rate the server sets."""
    rate_per_s: float | None = None
    """Requests sent per second."""
    planned_in_flight: float | None = None
    """Users, on average; None for an open loop. With pauses between their requests fewer are in flight."""
    mean_in_flight: float | None = None
    """Requests that were sent and had not ended, on average."""
    peak_in_flight: int | None = None
    """The most of them at one instant."""
    busy_share: float | None = None
    """Of the users' time, what the client did not waste by sending late (at most this); None for an open loop."""


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
    started_workers: int = 0
    """Workers that drove the load, those that died among them."""
    achieved: Achieved = Achieved()


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

    def noted(self, *notes: str) -> LoadResult:
        """The same with further notes of the client."""
        return replace(self, health=replace(self.health, notes=(*self.health.notes, *notes))) if notes else self
