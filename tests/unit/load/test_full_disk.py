"""A directory for temporary files that takes no more: what was read stays in memory, and none of it is lost."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import gettempdir

import numpy as np

from pytest_llmperf.load.engine import LoadOptions
from pytest_llmperf.load.exchange import Exchange, Tape
from pytest_llmperf.load.plan import SessionPlan, TurnPlan
from pytest_llmperf.load.records import Outcome
from pytest_llmperf.load.wall_clock import NO_STAMP
from tests.unit.load.conftest import PacedServer
from tests.unit.load.loads import outcomes, run

STAMP = bytes(range(len(NO_STAMP)))


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Within the block no file of this process, and of those it starts, grows beyond so many bytes."""
    # Python ignores the signal, so that writing fails; a process that it starts does so too.
    assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def exchange_of(*pieces: bytes) -> Exchange:
    exchange = Exchange(SessionPlan(0, False, None, (TurnPlan(1, 1),)), 0, 0.0, b"", warmup=False)
    for at, piece in enumerate(pieces):
        exchange.reads.add(piece, float(at), STAMP)
    return exchange


def test_what_the_disk_does_not_take_is_read_from_memory() -> None:
    tape = Tape()
    exchanges = [exchange_of(b"a" * 50, b"b" * 10), exchange_of(b"c" * 100), exchange_of(b"d", b"e" * 5)]
    # Room for the first, and for a part of the second.
    with files_of_at_most(200):
        for exchange in exchanges:
            tape.keep(exchange)
    assert [len(exchange.reads) for exchange in exchanges] == [0, 1, 2]
    assert f"{gettempdir()} takes no more (File too large); TMPDIR" in tape.note
    captures = [tape.read(exchange) for exchange in exchanges]
    assert [capture.body for capture in captures] == [b"a" * 50 + b"b" * 10, b"c" * 100, b"deeeee"]
    assert [capture.sizes.tolist() for capture in captures] == [[50, 10], [100], [1, 5]]
    assert [capture.read_s.tolist() for capture in captures] == [[0.0, 1.0], [0.0], [0.0, 1.0]]
    assert [capture.stamps for capture in captures] == [2 * STAMP, STAMP, 2 * STAMP]
    tape.close()


def test_a_tape_with_room_has_nothing_to_say() -> None:
    tape, exchange = Tape(), exchange_of(b"a", b"bc")
    assert tape.read(exchange).body == b"abc"
    assert (len(exchange.reads), tape.note) == (0, "")
    tape.close()


def test_a_load_goes_on_and_all_of_it_is_there(server: PacedServer) -> None:
    with files_of_at_most(2_000):
        result = run(server.endpoint("ok/1/1"), max_requests=20, options=LoadOptions(workers=2))
    assert outcomes(result) == {Outcome.OK: 20}
    assert result.health.lost_workers == 0
    assert np.all(result.log.output_tokens == 6)
    (note,) = [note for note in result.health.notes if "TMPDIR" in note]
    assert "answers were kept in memory" in note
