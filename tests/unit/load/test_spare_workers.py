"""Workers that are started before there is a load: taken, replaced where they have died, ended where nobody takes them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pytest_llmperf.load.worker_process import SpareWorkers


@pytest.fixture
def spare() -> Iterator[SpareWorkers]:
    spare = SpareWorkers()
    yield spare
    spare.close()


def test_those_that_were_started_are_taken_before_new_ones(spare: SpareWorkers) -> None:
    spare.warm(1)
    (waiting,) = spare._workers
    taken = [spare.take(index) for index in (3, 4)]
    assert taken[0] is waiting
    assert [worker.index for worker in taken] == [3, 4]
    for worker in taken:
        assert worker.process.poll() is None
        worker.end()


def test_one_that_has_died_is_not_taken(spare: SpareWorkers) -> None:
    spare.warm(1)
    (dead,) = spare._workers
    dead.process.kill()
    dead.process.wait()
    worker = spare.take(0)
    assert worker is not dead
    assert worker.process.poll() is None
    worker.end()


def test_those_that_nobody_took_are_ended(spare: SpareWorkers) -> None:
    spare.warm(2)
    spare.warm(2)
    processes = [worker.process for worker in spare._workers]
    assert len(processes) == 2
    spare.close()
    spare.close()
    assert all(process.poll() is not None for process in processes)


def test_one_that_waits_ends_with_whoever_started_it(spare: SpareWorkers) -> None:
    spare.warm(1)
    (worker,) = spare._workers
    assert worker.process.stdin is not None
    worker.process.stdin.close()
    worker.process.wait(30)
