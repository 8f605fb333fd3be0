"""``pytest-llmperf cells``: what a matrix expands to."""

from __future__ import annotations

import argparse
from pathlib import Path

from pytest_llmperf.errors import Where


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare ``cells``."""
    cells = commands.add_parser("cells", help="list the cells of a matrix, and which cannot run")
    cells.add_argument("--matrix", default="default", help="[%(default)s]")
    cells.add_argument(
        "--catalog",
        type=Path,
        metavar="DIR",
        help="a catalog whose records override the built-in ones [fixtures/, if it is here]",
    )
    cells.set_defaults(run=_cells)


def _cells(options: argparse.Namespace) -> int:
    from pytest_llmperf.experiment.catalog import catalog_directories, load_catalog
    from pytest_llmperf.experiment.fit import fits
    from pytest_llmperf.experiment.matrix import expand

    catalog = load_catalog(catalog_directories(Path.cwd(), options.catalog, Where(option="--catalog")))
    for cell in expand(catalog.matrix_named(options.matrix, Where(option="--matrix")), catalog):
        fit = fits(cell)
        print(cell.id if fit.ok else f"{cell.id}  (skipped: {fit.reason})")
    return 0
