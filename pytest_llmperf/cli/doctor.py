"""``pytest-llmperf doctor``: what a cluster has of that which cells need, what is missing, and what to do about it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_llmperf.cli.chosen import add_cell_options, add_render_options, by_own_option, chosen_cells, render_settings
from pytest_llmperf.cli.results import console
from pytest_llmperf.cli.status import OK
from pytest_llmperf.errors import ConfigError, DeployError, Where

if TYPE_CHECKING:
    from rich.text import Text

    from pytest_llmperf.deploy.kubernetes.doctor.checks import Check
    from pytest_llmperf.deploy.kubernetes.doctor.examination import Asked

MISSING = 1
"""Exit status: something is missing without which the cells cannot be deployed."""
_STYLES = {"ok": "green", "missing": "bold red", "unsure": "yellow"}


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare ``doctor``."""
    doctor = commands.add_parser(
        "doctor",
        help="say what a cluster lacks of that which cells need",
        description="Asks a cluster, and changes nothing: is it reachable, may you do all that is done there, are there nodes "
        "with the matrix's GPUs, storage, secrets, images. 'unsure' is what works all the same, or is only seen when it is used. "
        f"Exit status: {OK}; {MISSING} when something is missing.",
    )
    add_cell_options(doctor)
    doctor.add_argument(
        "--kubeconfig", type=Path, metavar="FILE", help="[KUBECONFIG, else ~/.kube/config; in a pod its own account]"
    )
    doctor.add_argument("--context", metavar="NAME", help="of the kubeconfig [its current one]")
    doctor.add_argument("--namespace", metavar="NAME", help="where to deploy [each session makes one]")
    add_render_options(doctor)
    doctor.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    from pytest_llmperf.deploy.kubernetes.doctor.examination import Asked
    from pytest_llmperf.deploy.kubernetes.rendering.sources import check_values

    _check_names(options)
    chosen = chosen_cells(options)
    for cell_id, reason in chosen.skipped:
        print(f"{cell_id}  (skipped: {reason})")
    try:
        check_values(chosen.cells, render_settings(options))
        asked = Asked.of(chosen.cells, render_settings(options), options.namespace, os.environ)
    except ConfigError as error:
        raise by_own_option(error) from None
    checks = list(_checks(options, asked))
    _print_table(checks)
    return MISSING if any(check.state == "missing" for check in checks) else OK


def _check_names(options: argparse.Namespace) -> None:
    """Raises ``ConfigError`` for what the cluster would refuse as a name."""
    from pytest_llmperf.deploy.kubernetes.settings import check_hf_secret, check_namespace

    for name, check in (("namespace", check_namespace), ("hf_secret", check_hf_secret)):
        if text := getattr(options, name):
            check(text, Where(option=f"--{name.replace('_', '-')}"))


def _checks(options: argparse.Namespace, asked: Asked) -> Iterator[Check]:
    """All checks; trouble with the cluster is the last of them."""
    from pytest_llmperf.deploy.kubernetes.api.client import KubeApi
    from pytest_llmperf.deploy.kubernetes.doctor.checks import Check
    from pytest_llmperf.deploy.kubernetes.doctor.examination import examine

    try:
        with KubeApi.connect(options.kubeconfig, options.context) as api:
            yield from examine(api, asked)
    except DeployError as error:
        yield Check("API server", "missing", error.what, error.hint or "")


def _print_table(checks: Sequence[Check]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(max_width=26, overflow="fold")
    table.add_column(overflow="fold")
    for check in checks:
        table.add_row(*_row(check))
    console().print(table, soft_wrap=False)


def _row(check: Check) -> Iterator[Text]:
    from rich.text import Text

    yield Text(check.state, _STYLES[check.state])
    yield Text(check.what)
    found = Text(check.found)
    if check.todo:
        found.append(f"\n→ {check.todo}", "italic")
    yield found
