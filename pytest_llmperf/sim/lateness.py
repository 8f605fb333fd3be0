"""How long after its step each token leaves: the simulator's proof that its clients measure the model, not the machine."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

_BOUNDS_S = tuple(1e-6 * 10 ** (step / 100) for step in range(701))
"""1 microsecond to 10 seconds, 100 buckets a decade."""


class Lateness:
    """Token counts by the seconds from the end of the step that made them to the moment they had left."""

    def __init__(self) -> None:
        self._counts = [0] * (len(_BOUNDS_S) + 1)
        self._n_tokens = 0
        self._min_s = float("inf")
        self._max_s = 0.0
        self._within = 0

    def record(self, sent_s: Sequence[float], due_s: float) -> None:
        """Tokens that had left at ``sent_s`` and were due at ``due_s``."""
        for moment_s in sent_s:
            late_s = moment_s - due_s
            self._counts[bisect_left(_BOUNDS_S, late_s)] += 1
            self._within += late_s <= 1e-3
            self._min_s = min(self._min_s, late_s)
            self._max_s = max(self._max_s, late_s)
        self._n_tokens += len(sent_s)

    def _quantile_ms(self, share: float) -> float:
        below, rank = 0, share * self._n_tokens
        for bound, count in zip((*_BOUNDS_S, self._max_s), self._counts, strict=True):
            below += count
            if below >= rank:
                return min(bound, self._max_s) * 1e3
        return self._max_s * 1e3

    def summary(self) -> dict[str, float]:
        """Milliseconds at some quantiles, and the share of tokens that left within 1 ms; below 0 would be too early."""
        return {
            "tokens": self._n_tokens,
            "min_ms": round(self._min_s * 1e3, 4) if self._n_tokens else 0.0,
            "p50_ms": round(self._quantile_ms(0.5), 4),
            "p99_ms": round(self._quantile_ms(0.99), 4),
            "p999_ms": round(self._quantile_ms(0.999), 4),
            "max_ms": round(self._max_s * 1e3, 4),
            "share_within_1ms": self._within / self._n_tokens if self._n_tokens else 1.0,
        }
