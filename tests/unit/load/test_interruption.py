"""Ctrl-C, lost workers and a killed parent: what was measured is kept, and nothing is left running."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_llmperf.load.records import Outcome
from tests.unit.load.conftest import PacedServer

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc and waits for them by pidfd")


@contextmanager
def load_under_way(server: PacedServer, workers: int, *more: str) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A load in a process group of its own, some of its requests answered; and its workers' process ids."""
    script = Path(__file__).with_name("interruptible.py")
    command = [sys.executable, str(script), str(server.port), str(workers), *more]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0)
    assert process.stdout is not None
    try:
        yield process, json.loads(process.stdout.readline())
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def ends(pid: int, timeout_s: float = 10.0) -> bool:
    """Whether the process ends in that time."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], timeout_s)[0])
    finally:
        os.close(fd)


def result_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    result: dict[str, Any] = json.loads(out)
    return result


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_keeps_what_was_measured(server: PacedServer, workers: int) -> None:
    with load_under_way(server, workers) as (process, pids):
        assert len(pids) == workers
        # As a terminal does it: to every process of the group.
        os.killpg(process.pid, signal.SIGINT)
        result = result_of(process)
        assert all(ends(pid) for pid in pids)
    counts = {Outcome(value): result["outcomes"].count(value) for value in set(result["outcomes"])}
    assert result["interrupted"]
    assert counts.keys() == {Outcome.OK, Outcome.CANCELLED}
    assert result["errors"] == ["", "cancelled"]
    assert result["planned"] == len(result["outcomes"])
    # Every arrival due until then has its record, at the pace of 40 a second.
    assert np.allclose(result["scheduled"], np.arange(len(result["scheduled"])) / 40)
    assert max(result["scheduled"]) <= result["window_end"] < 30


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_while_what_is_in_flight_at_an_early_end_is_awaited(server: PacedServer, workers: int) -> None:
    with load_under_way(server, workers, "enough") as (process, pids):
        os.killpg(process.pid, signal.SIGINT)
        result = result_of(process)
        assert all(ends(pid) for pid in pids)
    assert result["interrupted"]
    assert set(result["outcomes"]) == {Outcome.CANCELLED}
    # The window is the one that had ended before.
    assert result["window_end"] == result["stopped"] < 5
    assert np.allclose(result["scheduled"], np.arange(len(result["scheduled"])) / 40)
    assert result["window_end"] - 1 / 40 <= max(result["scheduled"]) < result["window_end"]


def test_a_lost_worker_interrupts_the_load(server: PacedServer) -> None:
    with load_under_way(server, 2) as (process, pids):
        os.kill(max(pids), signal.SIGKILL)
        result = result_of(process)
    assert result["interrupted"]
    assert any("was killed by signal 9" in note for note in result["notes"])
    lost = [worker for worker, outcome in zip(result["workers"], result["outcomes"], strict=True) if outcome == Outcome.CANCELLED]
    assert "worker lost" in result["errors"]
    assert {0, 1} == set(result["workers"])
    assert 1 <= len(lost) < len(result["workers"])
    # Round robin: the lost worker's arrivals are there too, none missing, none twice.
    assert np.allclose(result["scheduled"], np.arange(len(result["scheduled"])) / 40)


def test_no_worker_left(server: PacedServer) -> None:
    with load_under_way(server, 1) as (process, pids):
        os.kill(pids[0], signal.SIGKILL)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "LoadError: no load worker is left: load worker 0 was killed by signal 9" in err


def test_workers_do_not_outlive_a_killed_parent(server: PacedServer) -> None:
    with load_under_way(server, 2) as (process, pids):
        process.kill()
        assert all(ends(pid) for pid in pids)
