"""How long the tests' own Kubernetes takes to come up, and to be gone without a trace."""

from __future__ import annotations

import os

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.machine import why_not

TIMES = 3
UP_S, DOWN_S = 20.0, 30.0
"""What each may cost, once its programs are built."""


def test_up_and_down() -> None:
    if reason := why_not():
        pytest.skip(reason)
    seen = []
    for _ in range(TIMES):
        cluster = Cluster.up(f"bench-{os.getpid()}")
        seen.append((cluster.up_s, cluster.down()))
    print("\n" + "\n".join(f"cluster: up after {up_s:.1f} s, down after {down_s:.1f} s" for up_s, down_s in seen))
    assert max(up_s for up_s, _ in seen) <= UP_S
    assert max(down_s for _, down_s in seen) <= DOWN_S
