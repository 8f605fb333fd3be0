"""The accelerators of this machine, as their driver names them."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from functools import cache

_PATIENCE_S = 10.0
"""A driver that has to wake its accelerators takes seconds; one that hangs is not waited for."""
_QUESTION = ("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")


@dataclass(frozen=True)
class Gpu:
    """Names of accelerators and of their driver's version; None where nobody says."""

    name: str | None = None
    driver: str | None = None


NO_GPU = Gpu()


@cache
def gpu_here() -> Gpu:
    """What ``nvidia-smi`` says, asked once a process; nothing where there is none, or it fails."""
    try:
        done = subprocess.run(
            _QUESTION,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return NO_GPU
    return gpu_in(done.stdout)


def gpu_in(lines: str) -> Gpu:
    """``NVIDIA H100 80GB HBM3, 550.54.15``, a line an accelerator -> its name and driver; several kinds are all named."""
    rows = [line.rpartition(",") for line in lines.splitlines() if "," in line]
    names, drivers = (dict.fromkeys(row[at].strip() for row in rows) for at in (0, 2))
    return Gpu(", ".join(names) or None, ", ".join(drivers) or None)
