"""``pytest-llmperf render``: the Kubernetes objects of cells as files, without a cluster."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from pytest_llmperf.cli.chosen import add_cell_options, add_render_options, by_own_option, chosen_cells, render_settings
from pytest_llmperf.errors import ConfigError


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare ``render``."""
    render = commands.add_parser("render", help="write the Kubernetes objects of cells as YAML, a folder for each cell")
    render.add_argument("folder", type=Path, metavar="DIR", help="where they go; `kubectl apply -f DIR/<cell>` takes them")
    add_cell_options(render)
    add_render_options(render)
    render.set_defaults(run=_render)


def _render(options: argparse.Namespace) -> int:
    from pytest_llmperf.deploy.kubernetes.rendering.render import render_all
    from pytest_llmperf.deploy.kubernetes.rendering.rendered_files import has_secrets, write_rendered

    chosen = chosen_cells(options)
    for cell_id, reason in chosen.skipped:
        print(f"{cell_id}  (skipped: {reason})")
    try:
        # All of them before the first file: a mistake leaves no half.
        rendered = render_all(chosen.cells, render_settings(options), os.environ)
    except ConfigError as error:
        raise by_own_option(error) from None
    for one in rendered:
        for path in write_rendered(options.folder, one):
            print(path)
    masked = sum(has_secrets(manifest) for one in rendered for manifest in one.objects)
    if masked:
        print(f"*** stands for a secret in {masked} of these files: put it in, or make the object by hand.")
    return 0
