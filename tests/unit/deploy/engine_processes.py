"""Engines that are programs of this machine, for the process target: one that does as a test says, and what is asked of it."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pytest_llmperf.deploy.process import ProcessDeployment, ProcessTarget
from pytest_llmperf.experiment.catalog import builtin_directory, load_catalog
from pytest_llmperf.experiment.matrix import expand

CATALOG = load_catalog([builtin_directory()])
CELL = expand(CATALOG.matrix_named("default"), CATALOG)[0]
FAKE = f"{shlex.quote(sys.executable)} {shlex.quote(str(Path(__file__).with_name('fake_engine.py')))} --port {{port}}"


def is_gone(pid: int) -> bool:
    """Whether a process has ended: a zombie has, though its parent has not asked."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in "ZX"


def target(options: str = "", ready_timeout_s: float = 30.0, log_directory: Path | None = None) -> ProcessTarget:
    return ProcessTarget(command=f"{FAKE} {options}", ready_timeout_s=ready_timeout_s, log_directory=log_directory)


@contextmanager
def deployed(target: ProcessTarget) -> Iterator[ProcessDeployment]:
    deployment = target.deploy(CELL, lambda _: None)
    try:
        yield deployment
    finally:
        deployment.close()


def pid_of(deployment: ProcessDeployment) -> int:
    assert deployment.process.pid is not None
    return deployment.process.pid


def children() -> str:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text()
