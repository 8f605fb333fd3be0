"""What can be known of a load while it runs: one row a request begun so far, for whoever decides when enough has been seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytest_llmperf.load.records import Floats, Ints


@dataclass(frozen=True)
class Sighting:
    """Every request begun until ``now_s``, in order of ``scheduled_s``: columns of shape (n,), times as in ``RequestLog``.

    Times are ``nan`` where the thing has not happened yet (or cannot be told before the end); ``output_tokens`` is 0 until the
    request has ended. What a row says never changes once it is said: a sighting is a part of the log that will be, to the bit.
    Whatever had ended by ``now_s`` is there as ended; nothing that happened later is told.
    """

    now_s: float
    """Of the load, in seconds since the run's start. The watch is called a little later."""
    scheduled_s: Floats
    sent_s: Floats
    """``nan`` also while the request may yet be sent again on a fresh connection: for at most 0.5 s, until a response begins."""
    first_token_s: Floats
    """In flight ``nan`` does not prove that no token has come: whether a first event without text was one, only the end tells."""
    last_token_s: Floats
    """``nan`` while the request is in flight."""
    end_s: Floats
    """``nan`` while the request is in flight."""
    output_tokens: Ints
    failed: NDArray[np.bool_]
    """Ended, but not well. False while in flight."""
    warmup: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.scheduled_s)


Watch = Callable[[Sighting], bool]
"""Called about once a second of a load, until its planned end, with everything seen so far. True: begin no further request,
finish those in flight."""
