"""Tasks run when they are due, in order, never before; by a timerfd and by the loop's own timer alike."""

from __future__ import annotations

import asyncio
import sys
from time import monotonic

import pytest

from pytest_llmperf.load.agenda import Agenda


async def run_all(offsets_s: list[float], precise: bool) -> list[tuple[int, float, float]]:
    """Add a task for each offset from now; returns (number, due, now) in the order in which they ran."""
    ran: list[tuple[int, float, float]] = []
    over = asyncio.get_running_loop().create_future()
    book = Agenda(asyncio.get_running_loop(), precise=precise)
    start_s = monotonic()
    for number, offset_s in enumerate(offsets_s):

        def task(due_s: float, now_s: float, number: int = number) -> None:
            ran.append((number, due_s, now_s))
            if number == 0:
                # A task may add another, due before those that wait.
                book.at(now_s, lambda due_s, now_s: ran.append((-1, due_s, now_s)))
            if len(ran) == len(offsets_s) + 1:
                over.set_result(None)

        book.at(start_s + offset_s, task)
    await asyncio.wait_for(over, 10)
    book.close()
    return ran


@pytest.mark.parametrize("precise", [True, False])
def test_tasks_run_in_order_and_never_early(precise: bool) -> None:
    ran = asyncio.run(run_all([0.01, 0.03, 0.0, -1.0, 0.0305, 0.02], precise))
    assert [number for number, _, _ in ran] == [3, 2, 0, -1, 5, 1, 4]
    assert all(now_s >= due_s for _, due_s, now_s in ran)


def test_linux_is_precise() -> None:
    async def is_precise() -> bool:
        book = Agenda(asyncio.get_running_loop())
        book.close()
        return book.is_precise

    assert asyncio.run(is_precise()) == (sys.platform == "linux")
