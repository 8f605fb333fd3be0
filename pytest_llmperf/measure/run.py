"""One execution of a load against a deployment, and everything that was measured."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_llmperf.measure.trust import DEFAULT_LIMITS, TrustLimits

if TYPE_CHECKING:
    from pytest_llmperf.deploy.base import DeploymentInfo
    from pytest_llmperf.experiment.records import Cell, Workload
    from pytest_llmperf.load.records import LoadResult
    from pytest_llmperf.measure.compute import Metrics
    from pytest_llmperf.measure.cost import Cost
    from pytest_llmperf.measure.server import ServerSeen


@dataclass(frozen=True)
class Estimate:
    """A measured value in its metric's base unit, with its 95 % interval.

    ``value`` is nan where nothing was measured, +inf where so many requests failed that the statistic falls on one of them.
    ``low`` and ``high`` are nan where no interval is known; ``high`` is +inf where the samples set no upper bound.
    ``samples`` counts the independent observations behind it: requests (also for ITL, whose gaps within a request go together).
    """

    value: float
    low: float
    high: float
    samples: int

    @property
    def is_known(self) -> bool:
        """Whether there is a value at all (+inf is one)."""
        return not math.isnan(self.value)


UNKNOWN = Estimate(math.nan, math.nan, math.nan, 0)
"""What was never measured: no request counted, or the metric does not exist for them (TTFT without streaming)."""


@dataclass(frozen=True)
class Steadiness:
    """Whether a run had a steady state, by what was seen of it (``measure.steady``)."""

    extra_warmup_s: float = 0.0
    """By how much the warm-up was lengthened, because TPOT had not settled when it ended."""
    unstable: str = ""
    """Why there was none: the backlog grew, or TPOT never settled. Empty where nothing speaks against one."""


@dataclass(frozen=True)
class Stopped:
    """A load that ended before its plan did, because its verdict was settled."""

    reason: str
    outcome: str
    """What was settled: ``FAIL`` or ``PASS``."""
    at_s: float
    """When, in seconds since the run's start."""
    saved_s: float
    """How much longer the load was planned to last."""


@dataclass(frozen=True)
class RunIdentity:
    """What was run: enough to name it, to find it again and to repeat it."""

    run_id: str
    """Unique, and fit to be a directory's name."""
    cell: Cell
    workload: Workload
    profile: str
    """``str()`` of the load profile: ``poisson 4/s``."""
    seed: int
    node_id: str
    """The test that made the run."""
    simulated: bool
    duration_s: float
    """How long arrivals were planned to last, without the warm-up; what happened is in the result's window."""
    profile_name: str = ""
    """The catalog's name of the profile, where it has one."""
    ordinal: int = 1
    """Which of its test's runs it is, from 1."""
    label: str = ""
    """Which part of an experiment of several runs it is: ``8/s``, ``A 2 of 8``. Empty for a run that stands alone."""


@dataclass(frozen=True)
class Run:
    """A run: what was asked (``identity``), what answered (``deployment``), what happened (``result``), what it means.

    ``invalid`` holds the reasons not to trust the measurement (``measure.trust``), by the limits in ``trust``; empty when it
    can be trusted.
    """

    identity: RunIdentity
    deployment: DeploymentInfo
    result: LoadResult
    metrics: Metrics
    invalid: tuple[str, ...] = ()
    steadiness: Steadiness = Steadiness()
    stopped: Stopped | None = None
    trust: TrustLimits = DEFAULT_LIMITS
    is_stationary: bool = True
    """Whether the same was asked from the beginning to the end, as ``LoadPlan`` says: only then do they compare."""
    server: ServerSeen | None = None
    """What the server said of itself meanwhile; None where it said nothing."""
    cost: Cost | None = None
    """What the run's work cost; None where the price book has no price for the cell's accelerators."""
