"""The highest rate at which something still holds: bracketing, then bisection, over probes that are expensive and may be open."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from pytest_llmperf.judge.means import SHORTEST_BLOCK_S
from pytest_llmperf.judge.policy import Policy
from pytest_llmperf.judge.questions import allowed_share
from pytest_llmperf.judge.sequential import ALPHA, log_e_pass, memories_for_pass
from pytest_llmperf.judge.verdict import Outcome, samples_needed
from pytest_llmperf.measure.dependence import BLOCKS, FEWEST, VARIANCE_BOUND
from pytest_llmperf.units import format_fraction, format_rate

if TYPE_CHECKING:
    from pytest_llmperf.experiment.sla import Sla, Threshold

_EFFECT = 4.0
"""The design effect that a probe is long enough for. The largest of several estimates reaches 2 to 4 where requests are
independent already, and a probe whose limits are well kept ends as soon as that is shown."""


class Ending(StrEnum):
    """Why a search ended."""

    FOUND = "found"
    """Between a rate that passed and one that did not, as close as was asked."""
    BELOW = "below"
    """Not even the lowest rate passed."""
    BEYOND = "beyond"
    """The highest rate passed as well."""
    INVALID = "invalid"
    """A probe could not be trusted: the client is the limit, and the server's is not known."""
    SPENT = "spent"
    """The probes were used up before the bracket was narrow enough."""


@dataclass(frozen=True)
class Probe:
    """What one rate showed. INCONCLUSIVE is not PASS: what was not shown is not part of the capacity."""

    rate_per_s: float
    outcome: Outcome
    reason: str = ""
    """Why it is no PASS; empty for one."""


@dataclass(frozen=True)
class Capacity:
    """What a search found, with every probe in the order in which it was made."""

    rate_per_s: float | None
    """The highest rate that passed; None where none did."""
    probes: tuple[Probe, ...]
    low_per_s: float
    """The same as a lower end of the bracket: 0 where no rate passed."""
    high_per_s: float
    """The lowest rate that did not pass; inf where all that were tried did."""
    ending: Ending
    reason: str
    """One sentence: what is known of the capacity, and what is not."""


ProbeAt = Callable[[float], Probe]
"""Loads at a rate (1/s) and says what it showed."""


def search(lo: float, hi: float, probe: ProbeAt, *, precision: float = 0.05, max_probes: int = 12) -> Capacity:
    """Find the highest rate in [``lo``, ``hi``] (1/s) that passes, if each rate below one that passes would pass too.

    Starts at ``lo``, doubles until a rate does not pass or ``hi`` does, then halves the bracket on a logarithmic scale until
    high / low <= 1 + ``precision``. A probe that is not PASS is an upper end; an INVALID one ends the search.
    Raises ``ValueError`` unless 0 < lo <= hi, precision > 0 and max_probes >= 1.
    """
    if not (0 < lo <= hi < math.inf and precision > 0 and max_probes >= 1):
        raise ValueError(f"cannot search from {lo} to {hi} with precision {precision} and {max_probes} probes")
    walk = _Walk()
    rate = lo
    while len(walk.probes) < max_probes and not walk.is_invalid:
        walk.add(probe(rate))
        if walk.low == hi or (walk.low == 0 and math.isfinite(walk.high)) or walk.high <= walk.low * (1 + precision):
            break
        rate = min(2 * rate, hi) if math.isinf(walk.high) else math.sqrt(walk.low * walk.high)
    return _concluded(walk, lo, hi, precision)


def probe_duration_s(sla: Sla, rate_per_s: float, least_s: float, policy: Policy = Policy.MEASURED) -> float:
    """How long a probe takes to have the samples that the SLA's thresholds need under ``policy``, and ``least_s`` at least.

    The number of Poisson arrivals varies by its square root: with three of them more than is needed, one probe in a thousand
    falls short.
    """
    certain = policy is Policy.CERTAIN
    needed_of = certain_samples if certain else lambda threshold: samples_needed(threshold.key)
    needed = max((needed_of(threshold) for threshold in sla.thresholds), default=0)
    of_flows = certain and any(_is_flow(threshold) for threshold in sla.thresholds)
    return max(least_s, BLOCKS * SHORTEST_BLOCK_S if of_flows else 0.0, (needed + 3 * math.sqrt(needed)) / rate_per_s)


def certain_samples(threshold: Threshold) -> int:
    """About how many requests the sequential test takes to PASS a threshold that is well kept, at a moderate dependence.

    With a design effect of 4, and not one request beyond the limit. What no number of requests can show (a
    maximum, no errors at all) takes as many as any dependence can be told from.
    """
    patience = max(FEWEST, math.ceil(memories_for_pass(_EFFECT, _EFFECT)))
    p0 = allowed_share(threshold)
    if p0 is None or not 0 < p0 < 1:
        return patience
    low, high = 0, 1
    while log_e_pass(0.0, high, p0) < -math.log(ALPHA):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if log_e_pass(0.0, middle, p0) >= -math.log(ALPHA) else (middle, high)
    return max(patience, math.ceil(high * _EFFECT * VARIANCE_BOUND))


def _is_flow(threshold: Threshold) -> bool:
    return allowed_share(threshold) is None and not threshold.key.metric.is_distribution


@dataclass
class _Walk:
    """The probes so far and the bracket they leave."""

    probes: list[Probe] = field(default_factory=list)
    low: float = 0.0
    high: float = math.inf

    def add(self, probe: Probe) -> None:
        self.probes.append(probe)
        if probe.outcome is Outcome.PASS:
            self.low = max(self.low, probe.rate_per_s)
        elif probe.outcome is not Outcome.INVALID:
            self.high = min(self.high, probe.rate_per_s)

    @property
    def is_invalid(self) -> bool:
        return bool(self.probes) and self.probes[-1].outcome is Outcome.INVALID

    @property
    def failed_at_high(self) -> bool:
        """Whether the upper end is a FAIL, and not merely a rate that was not shown to pass."""
        return any(probe.outcome is Outcome.FAIL and probe.rate_per_s == self.high for probe in self.probes)


def _concluded(walk: _Walk, lo: float, hi: float, precision: float) -> Capacity:
    ending = _ending(walk, hi, precision)
    found = walk.low if walk.low > 0 else None
    return Capacity(found, tuple(walk.probes), walk.low, walk.high, ending, _reason(ending, walk, lo))


def _ending(walk: _Walk, hi: float, precision: float) -> Ending:
    if walk.is_invalid:
        return Ending.INVALID
    if walk.low == hi:
        return Ending.BEYOND
    if walk.low == 0:
        return Ending.BELOW
    return Ending.FOUND if walk.high <= walk.low * (1 + precision) else Ending.SPENT


def _reason(ending: Ending, walk: _Walk, lo: float) -> str:
    low, high = format_rate(walk.low), format_rate(walk.high)
    last = walk.probes[-1]
    upper = f"{high} {'fails' if walk.failed_at_high else 'was not shown to pass'}"
    if ending is Ending.FOUND:
        return f"{low} passes and {upper}"
    if ending is Ending.BEYOND:
        return f"at least {low}, the highest rate asked for"
    if ending is Ending.BELOW:
        below = "below" if walk.failed_at_high else "not shown for"
        return f"{below} {format_rate(lo)}, the lowest rate asked for: {last.reason}"
    if ending is Ending.INVALID:
        passed = f"{low} passes" if walk.low > 0 else "no lower rate was tried"
        return f"not known: {passed}, and {format_rate(last.rate_per_s)} could not be measured: {last.reason}"
    spent = f"the {len(walk.probes)} probes were used up"
    if math.isinf(walk.high):
        return f"at least {low}: {spent} before a rate failed"
    return f"between {low} and {high}, {format_fraction(walk.high / walk.low - 1)} apart: {spent}; {upper}"
