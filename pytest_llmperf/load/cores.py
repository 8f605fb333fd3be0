"""The cores that processes of this session may use. Options are read by it: it imports nothing that takes time."""

from __future__ import annotations

import os

WORKERS_A_CORE = 8
"""More than this of them on a core only keep each other from it, and each takes half a second of it to start."""


def available_cores(sharing: int = 1) -> int:
    """The cores that this process may use, divided among ``sharing`` processes that drive loads side by side; at least 1."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:
        cores = os.cpu_count() or 1
    return max(1, cores // max(1, sharing))
