"""``pytest-llmperf sim calibrate``: fits the simulator's constants to a server, and says how well it then predicts it."""

from __future__ import annotations

import argparse
import math
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_llmperf.cli.status import OK
from pytest_llmperf.errors import ConfigError, DeployError, UnitError, Where
from pytest_llmperf.units import format_duration, format_fraction, parse_fraction

if TYPE_CHECKING:
    from collections.abc import Sequence

    import httpx

    from pytest_llmperf.cli.calibration_load import Budget, Pace, Server
    from pytest_llmperf.experiment.catalog import Catalog
    from pytest_llmperf.experiment.records import Cell, Hardware, Model
    from pytest_llmperf.load.plan import LoadPlan
    from pytest_llmperf.measure.calibration import Calibration, ClosedLoad, Constants, Measured, Medians
    from pytest_llmperf.sim.spec import SimSpec

    Checked = Sequence[tuple[Medians, int]]
    """The passes of one load of the check: its medians, and of how many requests."""

TOO_FAR = 1
"""Exit status: a prediction of the check is further off than --max-error."""
_READY_S = 60.0
_ANSWER_S = 10.0
_SHAPE = f"{'streams':>7} {'prompt':>7} {'answer':>7}"
_TIMES = "   ".join(f"{name:>8} {'model':>8} {'error':>7}" for name in ("TTFT", "TPOT"))
_HEADING = f"{_SHAPE}   {_TIMES}"


def add_calibrate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare ``calibrate``."""
    parser = commands.add_parser(
        "calibrate",
        help="fit the simulator's constants to a server",
        description="Puts single streams and batches on a server for about two minutes, fits the simulator's constants to "
        "what it measures, and writes them as a hardware record of the catalog. Then it predicts two loads that were not "
        "fitted, puts them on the server too, and prints by how much the predictions were off.",
    )
    parser.add_argument("--url", required=True, metavar="URL", help="the server's root, without /v1; only this is asked")
    parser.add_argument("--model", metavar="NAME", help="as the server calls it [the first it lists]")
    parser.add_argument(
        "--model-record", metavar="NAME", help="the model of the catalog whose shape it has [the one of that name or repository]"
    )
    parser.add_argument("--hardware", metavar="NAME", help="of the catalog: h100, h100x4, … [unknown: a record is made]")
    parser.add_argument("--name", default="calibrated", help="of the record that is made of unknown hardware [%(default)s]")
    parser.add_argument("--variant", default="default", help="of the catalog: the server's engine arguments [%(default)s]")
    parser.add_argument(
        "--catalog", type=Path, metavar="DIR", help="records that override the built-in ones [fixtures/, if it is here]"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the hardware record there [it is printed]")
    parser.add_argument("--quick", action="store_true", help="about half a minute: fewer and shorter loads")
    parser.add_argument(
        "--check", action=argparse.BooleanOptionalAction, default=True, help="predict two further loads and measure them"
    )
    parser.add_argument("--max-error", metavar="SHARE", help="exit status 1 when a prediction of the check is further off: 15%%")
    parser.add_argument("--api-key-env", default="LLMPERF_API_KEY", metavar="VAR", help="holds the Bearer token [%(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="of arrivals and lengths [%(default)s]")
    parser.set_defaults(run=_calibrate)


@dataclass(frozen=True)
class _Subject:
    """The server, what it says it is, and the cell that the simulator would make of it."""

    server: Server
    engine: str
    cell: Cell
    spec: SimSpec
    is_known: bool
    """Whether the hardware is a record of the catalog: then only its efficiency is fitted."""


def _calibrate(options: argparse.Namespace) -> int:
    from pytest_llmperf.cli.calibrated_hardware import calibrated
    from pytest_llmperf.cli.calibration_load import NORMAL, QUICK, check_plans, first_look, planned_loads

    most_error = _share(options.max_error, "--max-error")
    if most_error is not None and not options.check:
        raise ConfigError("there is no error without the check", where=Where(option="--max-error"), hint="Leave --no-check out.")
    if options.out is not None and not options.out.absolute().parent.is_dir():
        raise ConfigError(f"there is no directory {str(options.out.parent)!r}", where=Where(option="--out"))
    subject = _subject(options)
    budget = QUICK if options.quick else NORMAL
    mark = " (SIMULATED)" if subject.server.endpoint.simulated else ""
    print(f"{subject.cell.model.name} at {subject.server.endpoint.base_url}, {subject.engine}{mark}", flush=True)
    pace = first_look(subject.server)
    loads = planned_loads(pace, subject.server.max_model_len, budget)
    _tell_plan(loads, pace, budget, with_check=options.check)
    plans = check_plans(subject.server, pace, budget) if options.check else []
    runs, checks = _driven(subject.server, loads, plans, pace)
    calibration = _fitted(subject, runs)
    _tell_fit(calibration)
    hardware = calibrated(subject.cell, calibration.constants, is_known=subject.is_known)
    _write(hardware, _comment(subject, calibration), options.out)
    if not plans:
        return OK
    error = _checked(subject, hardware, plans, checks)
    return TOO_FAR if most_error is not None and not error <= most_error else OK


def _share(text: str | None, option: str) -> float | None:
    try:
        return None if text is None else parse_fraction(text)
    except UnitError as error:
        raise ConfigError(str(error), where=Where(option=option)) from None


def _subject(options: argparse.Namespace) -> _Subject:
    """Raises ``ConfigError`` for whatever cannot be before the first load."""
    from pytest_llmperf.cli.calibrated_hardware import unknown_hardware
    from pytest_llmperf.cli.calibration_load import Server
    from pytest_llmperf.deploy.simspec import sim_spec
    from pytest_llmperf.experiment.catalog import catalog_directories, load_catalog
    from pytest_llmperf.experiment.records import Cell

    catalog = load_catalog(catalog_directories(Path.cwd(), options.catalog, Where(option="--catalog")))
    known = catalog.hardware_named(options.hardware, Where(option="--hardware")) if options.hardware else None
    record = catalog.model_named(options.model_record, Where(option="--model-record")) if options.model_record else None
    variant = catalog.variant_named(options.variant, Where(option="--variant"))
    server, engine = _answering(options)
    model = record or _model_of(server.endpoint.model, catalog)
    cell = Cell(
        platform=next(iter(catalog.platforms.values())),
        hardware=known or unknown_hardware(options.name, model),
        method=catalog.methods["standalone"],
        model=model,
        variant=variant,
    )
    longest = min(server.max_model_len or model.max_model_len, model.max_model_len)
    return _Subject(Server(server.endpoint, longest, options.seed), engine, cell, sim_spec(cell), known is not None)


def _answering(options: argparse.Namespace) -> tuple[Server, str]:
    """The server at --url, which has answered a completion, and its version. Raises ``ConfigError`` for one that does not."""
    import httpx

    from pytest_llmperf.cli.calibration_load import Server
    from pytest_llmperf.deploy.endpoint import EndpointTarget
    from pytest_llmperf.deploy.readiness import await_ready

    place = Where(option="--url")
    api_key = os.environ.get(options.api_key_env) or None
    url = options.url.rstrip("/")
    try:
        EndpointTarget(url, options.model, _READY_S, api_key=api_key).check()
    except ConfigError as error:
        own = Where(option="--api-key-env") if "token" in error.what else place
        raise ConfigError(error.what, where=own, hint=error.hint) from None
    listed = _listed(url, api_key)
    if listed.status_code in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
        hint = f"Put its Bearer token into the environment variable {options.api_key_env} (--api-key-env names another)."
        raise ConfigError(f"/v1/models answers {listed.status_code}: the server wants another credential", where=place, hint=hint)
    try:
        answer = await_ready(url, model=options.model, api_key=api_key, timeout_s=_READY_S, progress=_quiet)
    except DeployError as error:
        state = f" (last state: {error.state})" if error.state else ""
        known_hint = error.hint if error.hint and "--llmperf" not in error.hint else None
        raise ConfigError(error.what + state, where=place, hint=known_hint) from None
    if answer.first_completion_s is None:
        hint = "The endpoint must be OpenAI-compatible, and the URL its root, without /v1."
        raise ConfigError(f"/v1/models answers {listed.status_code} and lists no models", where=place, hint=hint)
    return Server(answer.endpoint, _context_of(_listed(url, api_key), answer.endpoint.model), options.seed), answer.engine


def _context_of(listed: httpx.Response, model: str) -> int:
    """The longest context that the server says it takes; 0 where it says nothing, which is vLLM's alone to say."""
    try:
        return next(int(card["max_model_len"]) for card in listed.json()["data"] if card["id"] == model)
    except (ValueError, KeyError, TypeError, StopIteration):
        return 0


def _listed(url: str, api_key: str | None) -> httpx.Response:
    """What the server says to being asked for its models. Raises ``ConfigError`` where nobody answers."""
    import httpx

    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        return httpx.get(f"{url}/v1/models", headers=headers, timeout=_ANSWER_S, trust_env=False)
    except httpx.RequestError as error:
        what = f"{url} cannot be reached ({str(error) or type(error).__name__})"
        hint = "Start the server first: this command starts none."
        raise ConfigError(what, where=Where(option="--url"), hint=hint) from None


def _quiet(_phrase: str) -> None:
    """The server is up already: there is no progress to tell."""


def _model_of(served: str, catalog: Catalog) -> Model:
    names = {served, served.rpartition("/")[2]}
    for model in catalog.models.values():
        if names & {model.name, model.repository, model.repository.rpartition("/")[2]}:
            return model
    raise ConfigError(
        f"the catalog has no model {served!r}, so its shape is not known",
        where=Where(option="--model-record"),
        hint=f"Name one of its shape ({', '.join(sorted(catalog.models))}) or describe it in models/NAME.yaml of a --catalog.",
    )


def _tell_plan(loads: Sequence[ClosedLoad], pace: Pace, budget: Budget, *, with_check: bool) -> None:
    from pytest_llmperf.cli.calibration_load import CHECK_SHARES, PASSES, seconds_of

    check_s = with_check * PASSES * len(CHECK_SHARES) * 1.3 * budget.check_s
    total_s = PASSES * sum(seconds_of(pace, load) for load in loads) + check_s
    shapes = ", ".join(f"{load.concurrency}x{load.prompt_tokens}+{load.output_tokens}" for load in loads)
    print(
        f"plan: about {format_duration(round(total_s))}; {PASSES} passes over {len(loads)} closed loops "
        "(streams x prompt + answer):"
    )
    print(f"  {shapes}", flush=True)


def _driven(
    server: Server, loads: Sequence[ClosedLoad], plans: Sequence[LoadPlan], pace: Pace
) -> tuple[list[Measured], list[Checked]]:
    """Every load in several passes, one pass after the other, so that a disturbance does not meet all of one load.

    Those of the check are among them, so that they meet the server as it is when it is fitted.
    """
    from pytest_llmperf.cli.calibration_load import PASSES, run_closed, run_open
    from pytest_llmperf.measure.calibration import undisturbed

    runs, checks = [], []
    for index in range(PASSES):
        runs.append([run_closed(server, load, pace) for load in loads])
        checks.append([run_open(server, plan) for plan in plans])
        print(f"  pass {index + 1} of {PASSES} is over", flush=True)
    return [undisturbed(same) for same in zip(*runs, strict=True)], list(zip(*checks, strict=True))


def _fitted(subject: _Subject, runs: Sequence[Measured]) -> Calibration:
    from pytest_llmperf.cli.forecast import closed_medians, constants_of, with_constants
    from pytest_llmperf.measure.calibration import calibrate, first_guess

    spec, model = subject.spec, subject.spec.model
    scale = first_guess(
        runs, layers=model.n_layers, weight_bytes=model.total_weight_bytes, flops_per_token=2 * model.active_layer_params
    )

    def predict(constants: Constants, load: ClosedLoad) -> Medians:
        return closed_medians(with_constants(spec, constants), load, subject.server.seed)

    if not subject.is_known:
        return calibrate(runs, predict, scale, scale)
    # What a token costs beside its FLOPs is within an accelerator's MFU: the two cannot be told apart there.
    return calibrate(runs, predict, constants_of(spec), scale, most=_peaks(spec), held={"token_overhead_s"})


def _peaks(spec: SimSpec) -> Constants:
    """The fastest that the datasheet allows."""
    from pytest_llmperf.measure.calibration import Constants

    gpu = spec.gpu
    peak = gpu.flops_per_s.get(spec.model.precision, gpu.flops_per_s["bf16"])
    return Constants(gpu.bandwidth_bytes_per_s, peak, 0.0, 0.0, 0.0, 0.0)


def _tell_fit(calibration: Calibration) -> None:
    from pytest_llmperf.measure.calibration import notes_on

    print(f"\nmeasured and fitted, p50:\n{_HEADING}")
    for run, fitted in calibration.fitted:
        load = run.load
        note = "" if run.is_saturated else "  not fitted: not saturated"
        print(f"{load.concurrency:7} {load.prompt_tokens:7} {load.output_tokens:7}   {_row(run.medians, fitted)}{note}")
    print("\nconstants, and how well these runs determine them:")
    for name, value in _shown(calibration.constants).items():
        known = _known(calibration, name)
        bound = ", at the most that its datasheet allows" if name in calibration.at_bound else ""
        print(f"  {_named(name):18} {value:>14}   {known}{bound}")
    for note in notes_on([run for run, _ in calibration.fitted]):
        print(f"note: {note}")
    sys.stdout.flush()


def _named(constant: str) -> str:
    return constant.removesuffix("_s").removesuffix("_per").removesuffix("_bytes").replace("_", " ")


def _known(calibration: Calibration, name: str) -> str:
    if name not in calibration.spread:
        return "not fitted"
    return f"+-{format_fraction(calibration.spread[name])}" if calibration.is_determined(name) else "not determined"


def _row(measured: Medians, predicted: Medians) -> str:
    from pytest_llmperf.measure.calibration import relative_errors

    off = [f"{error:+.1%}" if not math.isnan(error) else "-" for error in relative_errors(measured, predicted)]
    ttft, tpot = (
        f"{format_duration(seen):>8} {format_duration(guess):>8} {error:>7}"
        for seen, guess, error in zip((measured.ttft_s, measured.tpot_s), (predicted.ttft_s, predicted.tpot_s), off, strict=True)
    )
    return f"{ttft}   {tpot}"


def _shown(constants: Constants) -> dict[str, str]:
    return {
        "bandwidth_bytes_per_s": f"{constants.bandwidth_bytes_per_s / 1e9:,.4g} GB/s",
        "flops_per_s": f"{constants.flops_per_s / 1e12:,.4g} TFLOP/s",
        "layer_overhead_s": format_duration(constants.layer_overhead_s),
        "sequence_overhead_s": format_duration(constants.sequence_overhead_s),
        "token_overhead_s": f"{constants.token_overhead_s * 1e9:.3g}ns",
        "api_overhead_s": format_duration(constants.api_overhead_s),
    }


def _comment(subject: _Subject, calibration: Calibration) -> str:
    from datetime import UTC, datetime

    unknown = [name for name in calibration.spread if not calibration.is_determined(name)]
    lines = [
        f"Fitted by 'pytest-llmperf sim calibrate' on {datetime.now(UTC):%Y-%m-%d}: {subject.cell.model.name}, "
        f"variant {subject.cell.variant.name}, {subject.engine}.",
        f"Worst error of the {len(calibration.fitted)} fitted loads: {format_fraction(calibration.worst_error)}.",
    ]
    if unknown:
        lines.append(f"Not determined by them: {', '.join(map(_named, unknown))}.")
    if not subject.is_known:
        lines.append("Peaks are what is reached. Memory was not measured: there is enough of it.")
    return "".join(f"# {line}\n" for line in lines)


def _write(hardware: Hardware, comment: str, out: Path | None) -> None:
    from pytest_llmperf.cli.calibrated_hardware import record_yaml

    text = comment + record_yaml(hardware)
    if out is None:
        print(
            f"\nhardware/{hardware.name}.yaml of a catalog (pytest-llmperf sim --catalog DIR --hardware {hardware.id}):\n\n{text}"
        )
    else:
        out.write_text(text, encoding="utf-8")
        print(f"\nwritten: {out} (a catalog has it as hardware/{hardware.name}.yaml)")
    sys.stdout.flush()


def _checked(subject: _Subject, hardware: Hardware, plans: Sequence[LoadPlan], checks: Sequence[Checked]) -> float:
    """Print how the loads of the check went and how they were predicted; the largest error of all."""
    from pytest_llmperf.cli.calibration_load import CHECK_SHARES, check_load
    from pytest_llmperf.cli.forecast import open_medians
    from pytest_llmperf.deploy.simspec import sim_spec
    from pytest_llmperf.measure.calibration import quickest, relative_errors

    spec = sim_spec(replace(subject.cell, hardware=hardware))
    tokens = check_load(subject.server).output_tokens
    shares = " and ".join(map(format_fraction, CHECK_SHARES))
    print(f"\ncheck: not fitted; Poisson at {shares} of what 16 streams get, lengths mixed, p50:\n{'rate':>23}   {_TIMES}")
    worst = 0.0
    for plan, passes in zip(plans, checks, strict=True):
        measured, predicted = quickest([(medians, tokens) for medians, _ in passes]), open_medians(spec, plan)
        print(f"{plan.profile!s:>23}   {_row(measured, predicted)}   ({passes[0][1]} requests, {len(passes)} times)")
        worst = max(worst, *(abs(error) for error in relative_errors(measured, predicted) if not math.isnan(error)))
    print(f"largest error of the check: {format_fraction(worst)}")
    return worst
