"""Signals to a session that deploys: the first ends it, the next two wait, with real signals to this process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from pytest_llmperf.errors import DeployError
from pytest_llmperf.load.ctrl_c import CtrlC
from pytest_llmperf.plugin.terminate import Termination

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@dataclass
class Heard:
    """What a termination has said, and why it let no further test begin."""

    said: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def termination(heard: Heard) -> Iterator[Termination]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    termination = Termination(heard.said.append, heard.stopped.append)
    termination.listen()
    yield termination
    termination.restore()
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.usefixtures("termination")
def test_the_first_ends_the_session_as_ctrl_c_does(heard: Heard, number: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)
    assert heard == Heard(stopped=[f"ended by {number.name}"])


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.usefixtures("termination")
def test_the_second_is_told_and_the_third_gives_up(heard: Heard, number: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)
    signal.raise_signal(number)
    (said,) = heard.said
    assert said == "taking down what was deployed; signal number 3 gives up, and leaves it to `pytest-llmperf gc`"
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)
    assert heard.said[1:] == ["given up: `pytest-llmperf gc` removes what still stands"]


def test_one_that_comes_when_the_session_ends_anyway_is_only_told(termination: Termination, heard: Heard) -> None:
    termination.end()
    signal.raise_signal(signal.SIGTERM)
    with termination.undisturbed():
        signal.raise_signal(signal.SIGINT)
    assert len(heard.said) == 2


def test_taking_one_cell_down_is_finished_first(termination: Termination, heard: Heard) -> None:
    done = []

    def take_down() -> None:
        with termination.undisturbed():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            done.append("down")

    with pytest.raises(KeyboardInterrupt):
        take_down()
    assert done == ["down"]
    assert heard.said == ["the session ends when this deployment is taken down"] * 2


def test_what_could_not_be_taken_down_is_not_hidden_by_the_interruption(termination: Termination, heard: Heard) -> None:
    def take_down() -> None:
        with termination.undisturbed():
            signal.raise_signal(signal.SIGTERM)
            raise DeployError("one pod is left")

    with pytest.raises(KeyboardInterrupt):
        take_down()
    assert heard.said[-1] == "one pod is left"


def test_without_a_signal_an_error_is_an_error(termination: Termination) -> None:
    with pytest.raises(DeployError, match="one pod is left"), termination.undisturbed():
        raise DeployError("one pod is left")


@pytest.mark.usefixtures("termination")
def test_a_load_hears_of_it_in_its_own_way(heard: Heard) -> None:
    with CtrlC() as ctrl_c:
        signal.raise_signal(signal.SIGTERM)
        assert ctrl_c.is_pressed
    assert heard.stopped == ["ended by SIGTERM"]


def test_where_ctrl_c_is_ignored_it_stays_so(heard: Heard) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    termination = Termination(heard.said.append, heard.stopped.append)
    termination.listen()
    try:
        signal.raise_signal(signal.SIGINT)
        assert heard == Heard()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    finally:
        termination.restore()
        signal.signal(signal.SIGINT, before)


def test_signals_are_given_back(heard: Heard) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    termination = Termination(heard.said.append, heard.stopped.append)
    termination.listen()
    assert [signal.getsignal(number) for number in SIGNALS] != before
    termination.restore()
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.usefixtures("termination")
def test_a_forked_child_dies_of_it() -> None:
    child = os.fork()
    if child == 0:
        signal.raise_signal(signal.SIGTERM)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGTERM
