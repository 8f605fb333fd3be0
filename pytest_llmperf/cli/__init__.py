"""The command ``pytest-llmperf``: what is done outside a pytest session."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from pytest_llmperf.cli import cells, doctor, gc, render, report, results, simulator
from pytest_llmperf.cli.status import OK, USAGE_ERROR, drop_output
from pytest_llmperf.errors import LlmperfError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it did what was asked, 4 when it was asked for something that cannot be.

    ``compare`` also answers 1 for a regression and 3 for what cannot be compared.
    """
    try:
        options = _parser().parse_args(arguments)
        status: int = options.run(options)
        sys.stdout.flush()
    except LlmperfError as error:
        print(f"pytest-llmperf: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read along (head, less) has seen enough.
        drop_output()
        return OK
    return status


class _Parser(argparse.ArgumentParser):
    """One status for all usage errors, also for those that argparse finds."""

    def error(self, message: str) -> NoReturn:
        """Print how the command is used, and end."""
        self.print_usage(sys.stderr)
        self.exit(USAGE_ERROR, f"{self.prog}: {message}\n")


class _Version(argparse.Action):
    """Prints the version and ends; it is looked up only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from importlib.metadata import version

        print(f"{parser.prog} {version('pytest-llmperf')}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="pytest-llmperf", description="Performance experiments on LLM deployments.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and end")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in (results, report, simulator, cells, doctor, gc, render):
        module.add_commands(commands)
    return parser
