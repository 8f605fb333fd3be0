"""Constants out of medians: numbers that the simulator made are traced back to the constants it made them with."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import numpy as np
import pytest

from pytest_llmperf.cli.forecast import closed_medians, constants_of, with_constants
from pytest_llmperf.errors import LoadError
from pytest_llmperf.measure.calibration import (
    Calibration,
    ClosedLoad,
    Constants,
    Measured,
    Medians,
    calibrate,
    check_runs,
    first_guess,
    notes_on,
    quickest,
    relative_errors,
    undisturbed,
)
from tests.unit.sim.cells import spec

SPEC = spec("h100", "llama-3.1-8b", max_model_len=16_384)
START = constants_of(SPEC)
NAMES = [field.name for field in fields(Constants) if field.name != "token_overhead_s"]
LOADS = (
    *(ClosedLoad(1, length, 16) for length in (32, 256, 2048, 8192)),
    *(ClosedLoad(streams, 32, 16) for streams in (4, 16, 48)),
    ClosedLoad(16, 4096, 256),
)
SLOWER = Constants(
    bandwidth_bytes_per_s=0.6 * START.bandwidth_bytes_per_s,
    flops_per_s=0.7 * START.flops_per_s,
    layer_overhead_s=90e-6,
    sequence_overhead_s=3e-6,
    token_overhead_s=0.0,
    api_overhead_s=9e-3,
)


def predict(constants: Constants, load: ClosedLoad) -> Medians:
    return closed_medians(with_constants(SPEC, constants), load)


def scale_of(runs: list[Measured]) -> Constants:
    model = SPEC.model
    return first_guess(
        runs, layers=model.n_layers, weight_bytes=model.total_weight_bytes, flops_per_token=2 * model.active_layer_params
    )


def fit(runs: list[Measured], most: Constants | None = None) -> Calibration:
    return calibrate(runs, predict, START, scale_of(runs), most=most, held={"token_overhead_s"})


def runs_of(constants: Constants, loads: tuple[ClosedLoad, ...] = LOADS, noise: float = 0.0, seed: int = 0) -> list[Measured]:
    rng = np.random.default_rng(seed)
    runs = []
    for load in loads:
        medians = predict(constants, load)
        ttft, tpot = np.exp(rng.normal(0.0, noise, 2)) * (medians.ttft_s, medians.tpot_s)
        runs.append(Measured(load, Medians(float(ttft), float(tpot)), 4 * load.concurrency, load.concurrency))
    return runs


def off_by(calibration: Calibration, truth: Constants) -> dict[str, float]:
    return {name: getattr(calibration.constants, name) / getattr(truth, name) - 1 for name in NAMES}


def test_the_constants_behind_exact_numbers_are_found() -> None:
    calibration = fit(runs_of(SLOWER))
    assert {name for name in NAMES if calibration.is_determined(name)} >= set(NAMES) - {"layer_overhead_s"}
    assert off_by(calibration, SLOWER) == pytest.approx(dict.fromkeys(NAMES, 0.0), abs=0.05)
    assert calibration.worst_error < 0.02


@pytest.mark.parametrize("seed", range(3))
def test_noise_of_three_percent_leaves_constants_within_what_is_said_of_them(seed: int) -> None:
    calibration = fit(runs_of(SLOWER, noise=0.03, seed=seed))
    for name, error in off_by(calibration, SLOWER).items():
        assert abs(error) < 4 * calibration.spread[name], (name, error, calibration.spread[name])
    for name in ("bandwidth_bytes_per_s", "flops_per_s", "layer_overhead_s", "api_overhead_s"):
        assert abs(off_by(calibration, SLOWER)[name]) < 0.25, name


def test_one_disturbed_run_does_not_bend_the_rest() -> None:
    runs = runs_of(SLOWER)
    runs[5] = replace(runs[5], medians=Medians(3 * runs[5].medians.ttft_s, 2 * runs[5].medians.tpot_s))
    calibration = fit(runs)
    others = [
        abs(error) for run, fitted in calibration.fitted if run is not runs[5] for error in relative_errors(run.medians, fitted)
    ]
    assert max(others) < 0.10
    assert calibration.worst_error > 0.3


def test_a_machine_nobody_described_is_found_from_a_guess() -> None:
    runs = runs_of(SLOWER)
    calibration = calibrate(runs, predict, scale_of(runs), scale_of(runs))
    assert calibration.worst_error < 0.05
    assert abs(off_by(calibration, SLOWER)["flops_per_s"]) < 0.15


def test_short_contexts_do_not_tell_bandwidth_from_overhead() -> None:
    loads = tuple(replace(load, prompt_tokens=min(load.prompt_tokens, 256)) for load in LOADS if load.concurrency < 48)
    calibration = fit(runs_of(SLOWER, loads))
    assert not calibration.is_determined("layer_overhead_s")
    # What they do determine together is right all the same.
    assert calibration.worst_error < 0.05


def test_a_constant_stays_within_its_peak() -> None:
    most = Constants(0.5 * START.bandwidth_bytes_per_s, math.inf, 0.0, 0.0, 0.0, 0.0)
    calibration = fit(runs_of(SLOWER), most)
    assert calibration.constants.bandwidth_bytes_per_s <= most.bandwidth_bytes_per_s
    assert "bandwidth_bytes_per_s" in calibration.at_bound
    assert not calibration.is_determined("bandwidth_bytes_per_s")


@pytest.mark.parametrize(
    ("loads", "missing"),
    [
        (tuple(load for load in LOADS if load.concurrency == 1), "two concurrencies"),
        (tuple(load for load in LOADS if load.concurrency > 1), "single-stream run with a TPOT"),
        (tuple(load for load in LOADS if load.prompt_tokens == 32), "two prompt lengths"),
        ((), "single-stream"),
    ],
)
def test_runs_that_cannot_tell_are_refused_with_what_is_missing(loads: tuple[ClosedLoad, ...], missing: str) -> None:
    runs = [Measured(load, Medians(0.1, 0.01), 8, load.concurrency) for load in loads]
    with pytest.raises(LoadError, match="cannot be told apart") as raised:
        fit(runs)
    assert missing in str(raised.value)


def test_a_batch_the_server_did_not_run_is_told_and_not_fitted() -> None:
    runs = runs_of(SLOWER)
    queued = replace(runs[6], medians=Medians(30.0, 0.5), decoding=8)
    calibration = fit([*runs[:6], queued, runs[7]])
    assert abs(off_by(calibration, SLOWER)["layer_overhead_s"]) < 0.05
    assert [run for run, _ in calibration.fitted].count(queued) == 1
    (note,) = notes_on([run for run, _ in calibration.fitted])
    assert "48 streams was not saturated: at most 8" in note


def test_a_missing_tpot_is_no_row() -> None:
    runs = runs_of(SLOWER)
    runs[1] = replace(runs[1], medians=replace(runs[1].medians, tpot_s=math.nan))
    check_runs(runs)
    calibration = fit(runs)
    assert abs(off_by(calibration, SLOWER)["flops_per_s"]) < 0.05
    assert math.isfinite(calibration.worst_error)


def test_a_stalled_pass_is_left_out_whole() -> None:
    # The stall made the first token late; the tokens it held back came at once.
    stalled, calm = Medians(0.100, 0.0001), Medians(0.008, 0.002)
    assert quickest([(stalled, 32), (calm, 32)]) == calm
    load = ClosedLoad(4, 32, 32)
    one = undisturbed([Measured(load, stalled, 10, 3), Measured(load, calm, 12, 4)])
    assert one == Measured(load, calm, 22, 4)
