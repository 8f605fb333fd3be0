"""Measured medians of loads -> the constants of the simulator under which it would measure the same.

Pure: whoever calls says how constants become predictions (``Predict``), so that what is fitted is the very model that is
simulated later, its scheduling included, and not a formula beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from statistics import median
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pytest_llmperf.errors import LoadError

Floats = NDArray[np.float64]

RELATIVE_ERROR = 0.05
"""What an error is measured in: beyond it a row loses weight, so that one disturbed run does not bend the rest."""
_START_SPREAD = 3.0
"""How far a cost may lie from the start, in units of its scale, before that counts as an error: it only decides where the runs
say nothing."""
_DETERMINED = 0.30
"""A constant is determined when its relative standard error is no more than this."""
_NOISE_FLOOR = 0.02
"""Residuals of few runs may be small by chance; medians of a real server are not known better than this."""
_STEP = 0.05
"""For derivatives, in units of the scale: large, because scheduling makes predictions jump a little."""
_LEAST_COST, _LEAST_COST_OF_RATE = 1e-6, 0.02
"""A rate that nothing depends on would grow without end."""
_FAR, _NEAR = 6.0, 2.0
"""Up to where errors count in full, at first and at last, in units of ``RELATIVE_ERROR``."""
_MOST_TRIES = 40
_ALL_AT_ONCE = 0.75
_ABOUT = 1.15
_CLOSE = 0.99


@dataclass(frozen=True)
class Constants:
    """What the simulator does not know of a deployment. Bandwidth and FLOPs are those reached, of one accelerator."""

    bandwidth_bytes_per_s: float
    flops_per_s: float
    layer_overhead_s: float
    sequence_overhead_s: float
    token_overhead_s: float
    api_overhead_s: float


@dataclass(frozen=True)
class ClosedLoad:
    """A closed loop. Of several streams, prompts and answers are 0.5 to 1.5 times as long as said here, evenly spread: answers of
    one length would all begin and end together, as those of no real load do. A single stream's are of one length."""

    concurrency: int
    prompt_tokens: int
    output_tokens: int

    @property
    def prompt_bounds(self) -> tuple[int, int]:
        """The shortest and the longest prompt, in tokens."""
        return self._bounds(self.prompt_tokens)

    @property
    def answer_bounds(self) -> tuple[int, int]:
        """The shortest and the longest answer, in tokens."""
        return self._bounds(self.output_tokens)

    def _bounds(self, tokens: int) -> tuple[int, int]:
        half = tokens // 2 if self.concurrency > 1 else 0
        return tokens - half, tokens + half


@dataclass(frozen=True)
class Medians:
    """What a load measured, or would measure: seconds, nan where there is no such value."""

    ttft_s: float
    tpot_s: float


@dataclass(frozen=True)
class Measured:
    """One load against the real server. ``decoding`` is the most answers that were under way at one time, ``requests`` how many
    were counted."""

    load: ClosedLoad
    medians: Medians
    requests: int
    decoding: int

    @property
    def is_saturated(self) -> bool:
        """Whether the server had as many sequences in its batch as were asked for."""
        return self.decoding >= _ALL_AT_ONCE * self.load.concurrency


def quickest(passes: Sequence[tuple[Medians, int]]) -> Medians:
    """Of several passes of one load, each with the mean length of an answer, the one that was disturbed least.

    What disturbs a server makes its answers later; a stall between the engine and its client makes the first token late and
    brings at once what it held back. So of the passes whose answers were about as soon as the soonest, the one whose first
    tokens came first. Whole passes are chosen: the least TTFT and the least TPOT of several may be those of no server at all.
    """
    soonest_s = min(answer_s(*each) for each in passes)
    about_as_soon = [medians for medians, tokens in passes if answer_s(medians, tokens) <= _ABOUT * soonest_s]
    return min(about_as_soon, key=lambda medians: medians.ttft_s)


def answer_s(medians: Medians, output_tokens: int) -> float:
    """How long an answer takes, from asking to its last token."""
    paced_s = 0.0 if math.isnan(medians.tpot_s) else medians.tpot_s * (output_tokens - 1)
    return medians.ttft_s + paced_s


def undisturbed(passes: Sequence[Measured]) -> Measured:
    """Several passes of one load as one: the medians of the quickest, and all their requests."""
    load = passes[0].load
    return Measured(
        load,
        quickest([(run.medians, load.output_tokens) for run in passes]),
        sum(run.requests for run in passes),
        max(run.decoding for run in passes),
    )


Predict = Callable[[Constants, ClosedLoad], Medians]


@dataclass(frozen=True)
class Calibration:
    """The fitted constants, how well each is known, and what they predict of the runs they were fitted to."""

    constants: Constants
    spread: Mapping[str, float]
    """By field of ``Constants``: its relative standard error. A constant that was held has none."""
    fitted: tuple[tuple[Measured, Medians], ...]
    at_bound: tuple[str, ...] = ()
    """Constants that ended at the most they may be: a datasheet's peak."""

    def is_determined(self, name: str) -> bool:
        """Whether the runs say what this constant is; else it is where the fit started, or near it."""
        return self.spread[name] <= _DETERMINED and name not in self.at_bound

    @property
    def worst_error(self) -> float:
        """The largest relative error among the runs that were fitted."""
        errors = [relative_errors(run.medians, guess) for run, guess in self.fitted if run.is_saturated]
        return max(abs(error) for pair in errors for error in pair if not math.isnan(error))


def relative_errors(measured: Medians, predicted: Medians) -> tuple[float, float]:
    """By how much the prediction is off, of TTFT and of TPOT: +0.1 is 10 % too slow. nan where either is not known."""
    return predicted.ttft_s / measured.ttft_s - 1, predicted.tpot_s / measured.tpot_s - 1


def check_runs(runs: Sequence[Measured]) -> None:
    """Whether constants can be told apart by these runs at all. Raises ``LoadError`` that says which run is missing."""
    single = [run for run in runs if run.load.concurrency == 1]
    lengths = {run.load.prompt_tokens for run in single if not math.isnan(run.medians.ttft_s)}
    batches = {run.load.concurrency for run in runs if not math.isnan(run.medians.tpot_s) and run.is_saturated}
    missing = []
    if not any(not math.isnan(run.medians.tpot_s) for run in single):
        missing.append("a single-stream run with a TPOT (time of a step that decodes one sequence)")
    if len(lengths) < 2 or max(lengths) < 4 * min(lengths):
        missing.append("single-stream TTFT at two prompt lengths, one of them 4 times the other (FLOPs and the API's overhead)")
    if len(batches) < 2:
        missing.append("TPOT at two concurrencies, the server decoding them all at once (what a sequence costs)")
    if missing:
        raise LoadError("the constants cannot be told apart; missing:\n  " + "\n  ".join(missing))


def notes_on(runs: Sequence[Measured]) -> list[str]:
    """What the runs did not reach, one sentence each."""
    return [
        f"the run of {run.load.concurrency} streams was not saturated: at most {run.decoding} were answered at one time "
        "(is that the server's max_num_seqs? then name a --variant that has it)"
        for run in runs
        if not run.is_saturated
    ]


def calibrate(
    runs: Sequence[Measured],
    predict: Predict,
    start: Constants,
    scale: Constants,
    *,
    most: Constants | None = None,
    held: Collection[str] = (),
) -> Calibration:
    """Fit the constants: least squares on the logarithm of predicted over measured TTFT and TPOT, robustly.

    What is fitted are costs (seconds a byte, a FLOP, a layer, ...), in which times are all but linear, each in units of ``scale``
    (``first_guess``). ``start`` is where the fit begins, and where constants stay that the runs do not determine, as do those
    named in ``held``; none is faster than ``most``. Runs that were not saturated are not fitted. Raises ``LoadError`` for runs
    that cannot tell constants apart.
    """
    check_runs(runs)
    from scipy.optimize import least_squares

    used = [run for run in runs if run.is_saturated]
    unit = _costs(scale)
    floor = np.where(_RATES, _LEAST_COST_OF_RATE, _LEAST_COST)
    least = floor if most is None else np.maximum(_costs(most) / unit, floor)
    origin = np.maximum(_costs(start) / unit, least + _LEAST_COST)
    free = np.array([name not in held for name in _NAMES])
    floor, least, names = floor[free], least[free], [name for name in _NAMES if name not in held]

    def constants_at(costs: Floats) -> Constants:
        every = _costs(start) / unit
        every[free] = costs
        return _constants(every * unit)

    def residuals(costs: Floats) -> Floats:
        constants = constants_at(costs)
        rows = [_log_errors(run, predict(constants, run.load)) for run in used]
        return np.append(np.concatenate(rows) / RELATIVE_ERROR, (costs - origin[free]) / _START_SPREAD)

    def slopes(costs: Floats) -> Floats:
        here = residuals(costs)
        steps = _STEP * np.maximum(costs, 0.5)
        return np.stack([(residuals(costs + step) - here) / step.max() for step in np.diag(steps)], axis=1)

    costs = origin[free]
    # From far away every row looks like an outlier; then those that do not fit the others have no say at all.
    stages: tuple[tuple[Literal["soft_l1", "cauchy"], float], ...] = (("soft_l1", _FAR), ("cauchy", _NEAR))
    for loss, tolerance in stages:
        limits = (least, np.inf)
        costs = least_squares(
            residuals, costs, slopes, bounds=limits, loss=loss, f_scale=tolerance, xtol=1e-3, ftol=1e-3, max_nfev=_MOST_TRIES
        ).x
    constants = constants_at(costs)
    errors = _standard_errors(residuals(costs), slopes(costs)) / costs
    return Calibration(
        constants,
        dict(zip(names, errors.tolist(), strict=True)),
        tuple((run, predict(constants, run.load)) for run in runs),
        tuple(name for name, is_there in zip(names, (least > floor) & (costs < least / _CLOSE), strict=True) if is_there),
    )


_NAMES = tuple(field.name for field in fields(Constants))
_RATES = np.array([name.endswith("_per_s") for name in _NAMES])


def _costs(constants: Constants) -> Floats:
    """Seconds a byte, a FLOP, a layer, ...: rates are turned over."""
    values = np.array(astuple(constants))
    return np.where(_RATES, 1 / np.where(_RATES, values, 1.0), values)


def _constants(costs: Floats) -> Constants:
    return Constants(*np.where(_RATES, 1 / np.where(_RATES, costs, 1.0), costs).tolist())


def _log_errors(run: Measured, predicted: Medians) -> Floats:
    pairs = ((run.medians.ttft_s, predicted.ttft_s), (run.medians.tpot_s, predicted.tpot_s))
    return np.array([math.log(guess / seen) for seen, guess in pairs if not math.isnan(seen) and not math.isnan(guess)])


def _standard_errors(residuals: Floats, slopes: Floats) -> Floats:
    """Of each cost, in units of its scale: from how strongly the rows move with it, given how well they fit."""
    n_costs = slopes.shape[1]
    rows, steepness = residuals[:-n_costs] * RELATIVE_ERROR, slopes[:-n_costs] * RELATIVE_ERROR
    # The median does not let one bad row make all constants look uncertain.
    noise = max(_NOISE_FLOOR, 1.4826 * float(np.median(np.abs(rows))))
    # A row that the fit has passed over tells nothing.
    steepness = steepness / np.sqrt(1 + (rows / (_NEAR * RELATIVE_ERROR)) ** 2)[:, None]
    information = steepness.T @ steepness / noise**2 + np.eye(n_costs) / _START_SPREAD**2
    return np.sqrt(np.diag(np.linalg.inv(information)))


def first_guess(runs: Sequence[Measured], *, layers: int, weight_bytes: float, flops_per_token: float) -> Constants:
    """How large each constant may be, roughly: the scale of a fit, and its start for a machine that nobody has described.

    Half of a single stream's step is taken for reading the weights, half for overhead; what TTFT grows by with
    the prompt is taken for arithmetic. Raises ``LoadError`` for runs that cannot tell.
    """
    check_runs(runs)
    single = [run for run in runs if run.load.concurrency == 1 and not math.isnan(run.medians.ttft_s)]
    step_s = median(run.medians.tpot_s for run in single if not math.isnan(run.medians.tpot_s))
    api_s = max(min(run.medians.ttft_s for run in single) - step_s, 0.1 * step_s)
    # The median of all pairs, so that one disturbed run does not decide.
    token_s = median(
        max((longer.medians.ttft_s - shorter.medians.ttft_s) / tokens, 0.01 * longer.medians.ttft_s / tokens)
        for shorter in single
        for longer in single
        if (tokens := longer.load.prompt_tokens - shorter.load.prompt_tokens) > 0
    )
    return Constants(
        bandwidth_bytes_per_s=weight_bytes / (0.5 * step_s),
        flops_per_s=flops_per_token / token_s,
        layer_overhead_s=0.5 * step_s / layers,
        sequence_overhead_s=0.03 * step_s / layers,
        token_overhead_s=0.2 * token_s / layers,
        api_overhead_s=api_s,
    )
