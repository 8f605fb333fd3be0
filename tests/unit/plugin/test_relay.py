"""Progress lines from a worker to the controller: heard in their order, from nobody else, and never waited for."""

from __future__ import annotations

import socket
from queue import Queue

import pytest

from pytest_llmperf.plugin.progress import ProgressLine
from pytest_llmperf.plugin.relay import HOST, Relay, RelayReporter


def test_a_workers_lines_are_heard_in_their_order() -> None:
    heard: list[str] = []
    relay = Relay(heard.append)
    line = ProgressLine(RelayReporter(relay.address), None, 0, simulated=False)
    for number in range(20):
        line.note(f"état {number}")
    relay.close()
    assert heard == [f"état {number}" for number in range(20)]


def test_nobody_else_is_heard() -> None:
    heard: Queue[str] = Queue()
    relay = Relay(heard.put)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(b"anything", (HOST, int(relay.address.partition(":")[0])))
    RelayReporter(relay.address).write_line("a worker")
    assert heard.get(timeout=10) == "a worker"
    relay.close()
    assert heard.empty()


def test_a_line_that_is_too_long_is_cut() -> None:
    heard: list[str] = []
    relay = Relay(heard.append)
    RelayReporter(relay.address).write_line("x" * 100_000)
    relay.close()
    assert len(heard) == 1
    assert set(heard[0]) == {"x"}
    assert len(heard[0]) < 5000


def test_a_controller_that_is_gone_is_no_trouble() -> None:
    heard: list[str] = []
    relay = Relay(heard.append)
    reporter = RelayReporter(relay.address)
    relay.close()
    relay.close()
    for _ in range(3):
        reporter.write_line("is anybody there?")
    assert heard == []


def test_what_the_controller_cannot_print_does_not_end_it(capfd: pytest.CaptureFixture[str]) -> None:
    heard: list[str] = []
    relay = Relay(heard.append)
    reporter = RelayReporter(relay.address)
    reporter._socket.sendto(reporter._token + b"\xff\xfe", reporter._controller)
    reporter.write_line("and on")
    relay.close()
    assert heard[-1] == "and on"
    assert "Traceback" not in capfd.readouterr().err
