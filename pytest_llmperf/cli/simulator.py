"""``pytest-llmperf sim``: the simulator as a server, by hand; ``sim calibrate`` fits it to a real one."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_llmperf.cli.calibrate import add_calibrate
from pytest_llmperf.errors import ConfigError, UnitError, Where
from pytest_llmperf.units import parse_duration, parse_fraction

if TYPE_CHECKING:
    from pytest_llmperf.sim.spec import Faults


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare ``sim`` and ``sim calibrate``."""
    sim = commands.add_parser("sim", help="run the simulator as an OpenAI-compatible server, or calibrate it")
    sim.add_argument("--hardware", default="h100", help="from the catalog: h100, h100x4, l40s, … [%(default)s]")
    sim.add_argument("--model", default="llama-3.1-8b", help="from the catalog [%(default)s]")
    sim.add_argument("--variant", default="default", help="from the catalog [%(default)s]")
    sim.add_argument(
        "--catalog",
        type=Path,
        metavar="DIR",
        help="a catalog whose records override the built-in ones [fixtures/, if it is here]",
    )
    sim.add_argument("--host", default="127.0.0.1", help="[%(default)s]")
    sim.add_argument("--port", type=int, default=8000, help="0 picks a free one [%(default)s]")
    sim.add_argument("--seed", type=int, default=0, help="[%(default)s]")
    sim.add_argument("--error-rate", action="append", default=[], metavar="STATUS=SHARE", help="fault: 500=0.01 (repeatable)")
    sim.add_argument("--abort-rate", default="0", metavar="SHARE", help="fault: streams cut in the middle")
    sim.add_argument("--stall", metavar="EVERY=TIME", help="fault: no step for TIME, every EVERY: 10s=500ms")
    sim.add_argument("--crash-after", type=int, default=0, metavar="N", help="fault: exit after N requests")
    sim.add_argument("--slow-start", default="0s", metavar="TIME", help="fault: a longer cold start")
    sim.set_defaults(run=_sim)
    add_calibrate(sim.add_subparsers(metavar="[calibrate]"))


def _sim(options: argparse.Namespace) -> int:
    from dataclasses import replace

    from pytest_llmperf.deploy.simspec import sim_spec
    from pytest_llmperf.experiment.catalog import catalog_directories, load_catalog
    from pytest_llmperf.experiment.fit import fits
    from pytest_llmperf.experiment.records import Cell
    from pytest_llmperf.sim.server import serve

    port = _whole(options.port, "--port", most=65_535)
    catalog = load_catalog(catalog_directories(Path.cwd(), options.catalog, Where(option="--catalog")))
    cell = Cell(
        platform=next(iter(catalog.platforms.values())),
        hardware=catalog.hardware_named(options.hardware, Where(option="--hardware")),
        method=catalog.methods["standalone"],
        model=catalog.model_named(options.model, Where(option="--model")),
        variant=catalog.variant_named(options.variant, Where(option="--variant")),
    )
    if not (fit := fits(cell)).ok:
        raise ConfigError(fit.reason)
    spec = replace(sim_spec(cell, options.seed), faults=_faults(options))

    def listening(taken: int) -> None:
        print(f"SIMULATED {cell.model.name} on {cell.hardware.id}: http://{options.host}:{taken} (Ctrl-C ends it)", flush=True)

    serve(spec, options.host, port, listening)
    return 0


def _faults(options: argparse.Namespace) -> Faults:
    from pytest_llmperf.sim.spec import Faults

    every, stall = _pair(options.stall, "--stall", "EVERY=TIME: 10s=500ms") if options.stall else ("0s", "0s")
    rates = [_pair(rate, "--error-rate", "STATUS=SHARE: 500=0.01") for rate in options.error_rate]
    return Faults(
        error_rates={status: _read(parse_fraction, share, "--error-rate") for status, share in rates},
        abort_rate=_read(parse_fraction, options.abort_rate, "--abort-rate"),
        stall_every_s=_read(parse_duration, every, "--stall"),
        stall_s=_read(parse_duration, stall, "--stall"),
        crash_after_requests=_whole(options.crash_after, "--crash-after"),
        slow_start_s=_read(parse_duration, options.slow_start, "--slow-start"),
    )


def _pair(text: str, option: str, form: str) -> tuple[str, str]:
    first, equals, second = text.partition("=")
    if not equals:
        raise ConfigError(f"{text!r} has no '='", where=Where(option=option), hint=f"Write {form}.")
    return first, second


def _read(parse: Callable[[str], float], text: str, option: str) -> float:
    try:
        return parse(text)
    except UnitError as error:
        raise ConfigError(str(error), where=Where(option=option)) from None


def _whole(number: int, option: str, most: int | None = None) -> int:
    if number < 0 or (most is not None and number > most):
        raise ConfigError(f"{number} is not within 0..{most or ''}", where=Where(option=option))
    return number
