"""``python -m pytest_llmperf.sim --spec FILE|-|env:NAME``: a simulated vLLM server.

Prints one JSON line with ``port`` and ``pid`` when it listens. ``pytest-llmperf sim`` takes names from the catalog instead.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pytest_llmperf.errors import ConfigError, LlmperfError
from pytest_llmperf.sim.server import serve
from pytest_llmperf.sim.spec import SimSpec

_VARIABLE = "env:"
_SPEC_HELP = "the deployment as JSON; - reads standard input, env:NAME that variable"


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pytest_llmperf.sim", description="A simulated vLLM server.")
    parser.add_argument("--spec", metavar="FILE|-|env:NAME", required=True, help=_SPEC_HELP)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--parent-pid", type=int, help="exit when this process is gone")
    return parser.parse_args(argv)


def _read_spec(source: str) -> SimSpec:
    if source.startswith(_VARIABLE):
        return SimSpec.from_json(_variable(source.removeprefix(_VARIABLE)))
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read the spec {source}: {error.strerror}") from None
    return SimSpec.from_json(text)


def _variable(name: str) -> str:
    if (text := os.environ.get(name)) is None:
        raise ConfigError(f"cannot read the spec: there is no variable {name}")
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0 after a clean stop, 4 for a spec that cannot be used, 1 for the rest."""
    options = _arguments(argv)

    def announce(port: int) -> None:
        sys.stdout.write(json.dumps({"port": port, "pid": os.getpid()}) + "\n")
        sys.stdout.flush()

    try:
        serve(_read_spec(options.spec), options.host, options.port, announce, parent_pid=options.parent_pid)
    except LlmperfError as error:
        sys.stderr.write(f"{error}\n")
        return 4 if isinstance(error, ConfigError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
