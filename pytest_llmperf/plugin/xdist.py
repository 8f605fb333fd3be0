"""Under pytest-xdist: a cell's tests stay on one worker, and what a worker finds wrong is told by the controller."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from pytest_llmperf.errors import ConfigError
from pytest_llmperf.plugin.start import started

PROBLEM = "llmperf_problem"


def cell_in(node_id: str, cell_ids: Iterable[str]) -> str | None:
    """The cell a node id's parameters name, or None: ``t.py::test[gke_h100_standalone_m-8]`` is in ``gke_h100_standalone_m``."""
    parameters = node_id.partition("::")[2].partition("[")[2].rpartition("]")[0]
    named = [cell for cell in cell_ids if re.search(rf"(^|-){re.escape(cell)}(-|$)", parameters)]
    return max(named, key=len, default=None)


def scheduler(config: pytest.Config, log: Any) -> Any:
    """The ``loadgroup`` scheduler, but a cell is known by the test's parameters.

    xdist itself sends a test's group by changing its node id, which pytest since 9.2 no longer lets it do: the groups are lost
    without a word, and every worker would stand up every cell.
    """
    from xdist.scheduler import LoadGroupScheduling

    try:
        cell_ids = [cell.id for cell in started(config).cells]
    except ConfigError:
        cell_ids = []  # The workers find the same, and ``tell_controller`` brings it back.

    class CellScheduling(LoadGroupScheduling):  # type: ignore[misc]  # xdist carries no types
        def _split_scope(self, nodeid: str) -> str:
            return cell_in(nodeid, cell_ids) or str(super()._split_scope(nodeid))

    return CellScheduling(config, log)


def tell_controller(config: pytest.Config, problem: str) -> None:
    """In a worker: leave a usage error where the controller finds it. Raised here, it would look like a crash."""
    config.workeroutput[PROBLEM] = problem  # type: ignore[attr-defined]


def problem_of(node: Any) -> str | None:
    """In the controller: what a worker that is going down has left."""
    return getattr(node, "workeroutput", {}).get(PROBLEM)


def xdist_workers(environ: Mapping[str, str]) -> int:
    """How many of xdist's workers drive loads side by side on this machine; 1 without xdist."""
    count = environ.get("PYTEST_XDIST_WORKER_COUNT", "")
    return max(1, int(count)) if count.isdecimal() else 1
