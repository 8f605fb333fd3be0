"""What several workers tell, put together; and how it gets to the parent."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import numpy as np

from pytest_llmperf.load.messages import ROW, Inbox, Message, Outbox, Progress, Seen
from pytest_llmperf.load.sightings import WorkerView, sighting_of

NAN = float("nan")


def seen(now_s: float, *rows: tuple[Any, ...]) -> Seen:
    """Of a worker at ``now_s``: (row, scheduled, sent, first token, last token, end, tokens, failed) of each request."""
    states = [(scheduled, row, 0, *times, tokens, failed, False) for row, scheduled, *times, tokens, failed in rows]
    return Seen(now_s, np.array([row for row, *_ in rows], dtype=np.int64), np.array(states, dtype=ROW))


def view(*told: Seen) -> WorkerView:
    made = WorkerView()
    for each in told:
        made.take(each)
    return made


def test_rows_are_told_bit_by_bit_and_come_in_order_of_their_schedule() -> None:
    one = view(
        seen(1.0, (0, 0.1, 0.1, NAN, NAN, NAN, 0, False), (1, 0.5, NAN, NAN, NAN, NAN, 0, False)),
        seen(2.0, (0, 0.1, 0.1, 0.2, 1.1, 1.2, 7, False), (2, 1.4, 1.4, NAN, NAN, NAN, 0, False)),
    )
    other = view(seen(2.0, (0, 0.3, 0.3, NAN, NAN, 0.9, 0, True)))
    sighting = sighting_of([one, other], 2.0)
    assert (len(sighting), sighting.now_s) == (4, 2.0)
    assert sighting.scheduled_s.tolist() == [0.1, 0.3, 0.5, 1.4]
    assert np.array_equal(sighting.sent_s, [0.1, 0.3, NAN, 1.4], equal_nan=True)
    assert np.array_equal(sighting.first_token_s, [0.2, NAN, NAN, NAN], equal_nan=True)
    assert np.array_equal(sighting.last_token_s, [1.1, NAN, NAN, NAN], equal_nan=True)
    assert np.array_equal(sighting.end_s, [1.2, 0.9, NAN, NAN], equal_nan=True)
    assert sighting.output_tokens.tolist() == [7, 0, 0, 0]
    assert sighting.failed.tolist() == [False, True, False, False]


def test_what_a_worker_knows_before_the_others_is_not_told() -> None:
    rows = [(0, 0.1, 0.1, 0.2, 2.4, 2.5, 7, True), (1, 0.2, 0.2, 2.7, NAN, NAN, 0, False), (2, 2.1, NAN, NAN, NAN, NAN, 0, False)]
    ahead = view(seen(3.0, *rows))
    sighting = sighting_of([ahead, view(seen(2.0))], 2.0)
    assert sighting.scheduled_s.tolist() == [0.1, 0.2]
    assert np.array_equal(sighting.first_token_s, [0.2, NAN], equal_nan=True)
    assert np.isnan([sighting.last_token_s, sighting.end_s]).all()
    assert (sighting.output_tokens.tolist(), sighting.failed.tolist()) == ([0, 0], [False, False])


def test_more_rows_than_there_was_room_for() -> None:
    begun = [(row, row / 100, NAN, NAN, NAN, NAN, 0, False) for row in range(3500)]
    told = [seen(second, *begun[700 * second : 700 * second + 700]) for second in range(5)]
    sighting = sighting_of([view(*told)], 100.0)
    assert np.allclose(sighting.scheduled_s, np.arange(3500) / 100)


def test_a_message_that_the_pipe_cannot_take_yet_holds_nobody_up() -> None:
    read, write = os.pipe()
    large = seen(1.0, *[(row, 0.0, *[NAN] * 4, 0, False) for row in range(20_000)])

    async def exchange() -> list[Message]:
        loop = asyncio.get_running_loop()
        outbox, inbox = Outbox(loop, write), Inbox(read)
        # Nobody reads yet, and the pipe holds a small part of it.
        outbox.send(large)
        outbox.send(Progress(1, 2, 3, 4))
        came: list[Message] = []
        over: asyncio.Future[None] = loop.create_future()

        def receive() -> None:
            came.extend(inbox.receive())
            if len(came) == 2:
                over.set_result(None)

        loop.add_reader(read, receive)
        await asyncio.wait_for(over, 10)
        loop.remove_reader(read)
        outbox.send(Progress(5, 6, 7, 8))
        outbox.close()
        return [*came, *inbox.receive()]

    try:
        first, second, third = asyncio.run(exchange())
    finally:
        os.close(read)
        os.close(write)
    assert isinstance(first, Seen)
    assert np.array_equal(first.row, large.row)
    assert (second, third) == (Progress(1, 2, 3, 4), Progress(5, 6, 7, 8))
