"""Which fault strikes which request: drawn from the spec's seed, changeable while the server runs."""

from __future__ import annotations

import random
from dataclasses import dataclass

from pytest_llmperf.sim.openai import ApiError
from pytest_llmperf.sim.spec import Faults

_KINDS = {
    400: ("BadRequestError", "injected fault: bad request"),
    429: ("RateLimitError", "injected fault: too many requests"),
    500: ("InternalServerError", "injected fault: internal server error"),
    503: ("ServiceUnavailableError", "injected fault: service unavailable"),
}


@dataclass(frozen=True, slots=True)
class Fate:
    """What happens to one request on purpose."""

    error: ApiError | None = None
    cut_after_tokens: int | None = None
    crash: bool = False


class FaultInjector:
    """Draws the fate of each generation request."""

    def __init__(self, faults: Faults, seed: int) -> None:
        self.faults = faults
        self._random = random.Random(seed ^ 0x5EED)
        self._n_requests = 0

    def next_fate(self) -> Fate:
        """The fate of the request that has just come in."""
        faults = self.faults
        self._n_requests += 1
        # Always two draws, so that changing one rate does not change who is struck by the other.
        error_draw, abort_draw = self._random.random(), self._random.random()
        if faults.crash_after_requests and self._n_requests >= faults.crash_after_requests:
            return Fate(crash=True)
        for status, rate in sorted(faults.error_rates.items()):
            if error_draw < rate:
                kind, message = _KINDS.get(int(status), ("InjectedError", f"injected fault: status {status}"))
                return Fate(error=ApiError(int(status), kind, message))
            error_draw -= rate
        return Fate(cut_after_tokens=faults.abort_after_tokens if abort_draw < faults.abort_rate else None)
