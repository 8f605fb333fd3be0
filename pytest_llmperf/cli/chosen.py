"""Which cells a command is for, and from what their objects are rendered: the options that several commands have."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_llmperf.cli.keywords import keywords
from pytest_llmperf.errors import ConfigError, Where, nearest

if TYPE_CHECKING:
    from pytest_llmperf.deploy.kubernetes.settings import RenderSettings
    from pytest_llmperf.experiment.records import Cell

_PLUGIN_PREFIX = "--llmperf-"


@dataclass(frozen=True)
class Chosen:
    """Cells that can run, and why others of those that were asked for cannot: (id, reason)."""

    cells: tuple[Cell, ...]
    skipped: tuple[tuple[str, str], ...]


def add_cell_options(parser: argparse.ArgumentParser) -> None:
    """``-k``, ``--matrix``, ``--catalog``."""
    parser.add_argument("-k", dest="keywords", default="", metavar="EXPR", help="cells by their ids, as pytest's -k [all]")
    parser.add_argument("--matrix", default="default", help="[%(default)s]")
    parser.add_argument(
        "--catalog",
        type=Path,
        metavar="DIR",
        help="a catalog whose records override the built-in ones [fixtures/, if it is here]",
    )


def add_render_options(parser: argparse.ArgumentParser) -> None:
    """What decides which objects a cell has."""
    parser.add_argument("--manifests", type=Path, metavar="PATH", help="YAML, a kustomization or a chart [the method's]")
    parser.add_argument(
        "--helm-values", type=Path, action="append", default=[], metavar="FILE", help="of a chart (may be repeated)"
    )
    parser.add_argument("--image", help="the engine's image [the manifest's]")
    parser.add_argument("--simulator-image", metavar="IMAGE", help="the simulator in the engine's place")
    parser.add_argument("--model-cache", metavar="PLACE", help="pvc:NAME, hostpath:/DIR or none [the manifest's]")
    parser.add_argument("--hf-secret", metavar="NAME[/KEY]", help="a Secret with the Hub's token [the manifest's]")
    parser.add_argument("--queue", metavar="NAME", help="Kueue's local queue")


def render_settings(options: argparse.Namespace) -> RenderSettings:
    """What ``add_render_options`` has read."""
    from pytest_llmperf.deploy.kubernetes.settings import RenderSettings

    return RenderSettings(
        manifests=options.manifests,
        helm_values=tuple(options.helm_values),
        image=options.image,
        simulator_image=options.simulator_image,
        model_cache=options.model_cache,
        hf_secret=options.hf_secret,
        queue=options.queue,
    )


def chosen_cells(options: argparse.Namespace) -> Chosen:
    """The cells that ``add_cell_options`` asks for. Raises ``ConfigError`` where there are none."""
    from pytest_llmperf.experiment.catalog import catalog_directories, load_catalog
    from pytest_llmperf.experiment.fit import fits
    from pytest_llmperf.experiment.matrix import expand

    catalog = load_catalog(catalog_directories(Path.cwd(), options.catalog, Where(option="--catalog")))
    cells = expand(catalog.matrix_named(options.matrix, Where(option="--matrix")), catalog)
    chosen = [cell for cell in cells if not options.keywords or keywords(options.keywords)(cell.id)]
    if not chosen:
        raise _no_cell(options, [cell.id for cell in cells])
    fitting = [(cell, fits(cell)) for cell in chosen]
    skipped = tuple((cell.id, fit.reason) for cell, fit in fitting if not fit.ok)
    return Chosen(tuple(cell for cell, fit in fitting if fit.ok), skipped)


def by_own_option(error: ConfigError) -> ConfigError:
    """The plugin's options have a prefix that a command's have not."""
    if error.where is None or error.where.option is None:
        return error
    option = error.where.option.replace(_PLUGIN_PREFIX, "--")
    return ConfigError(error.what, where=replace(error.where, option=option), hint=error.hint)


def _no_cell(options: argparse.Namespace, ids: Sequence[str]) -> ConfigError:
    close = nearest(options.keywords, ids)
    return ConfigError(
        f"{options.keywords!r} is in the id of no cell of the matrix {options.matrix!r}",
        where=Where(option="-k"),
        hint=f"The nearest: {close}." if close else f"Cells: {', '.join(ids)}.",
    )
