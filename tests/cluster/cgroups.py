"""The control groups below which the kubelet puts all pods of one cluster, in every hierarchy that is mounted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pytest_llmperf.errors import DeployError

MOUNTS = Path("/proc/self/mounts")
_REMOVAL_TIMEOUT_S = 10.0
_REMOVAL_PAUSE_S = 0.05


def hierarchies() -> Iterator[Path]:
    """Where cgroup hierarchies are mounted: one for version 2, one for each controller in version 1."""
    for line in MOUNTS.read_text().splitlines():
        _, place, kind, *_ = line.split(" ")
        if kind in ("cgroup", "cgroup2"):
            yield Path(place)


def make(name: str) -> None:
    """Make the group everywhere: the kubelet wants its root to exist."""
    for hierarchy in hierarchies():
        (hierarchy / name).mkdir(exist_ok=True)


def remove(name: str) -> None:
    """Remove the group with all below it. Its processes must have ended; the kernel may need a moment to notice."""
    give_up = time.monotonic() + _REMOVAL_TIMEOUT_S
    while left := [place for place in existing(name) if not _removed(place)]:
        if time.monotonic() > give_up:
            raise DeployError(f"the control group {left[0]} cannot be removed: something still runs in it")
        time.sleep(_REMOVAL_PAUSE_S)


def existing(name: str) -> list[Path]:
    """Where the group exists."""
    return [hierarchy / name for hierarchy in hierarchies() if (hierarchy / name).is_dir()]


def _removed(group: Path) -> bool:
    below = sorted((path for path in group.rglob("*/")), key=lambda path: len(path.parts), reverse=True)
    for path in [*below, group]:
        with suppress(OSError):  # busy: the next round tries again
            path.rmdir()
    return not group.exists()
