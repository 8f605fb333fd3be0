"""A run says so where tokens are not counted by the server's own word, event by event."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pytest_llmperf.deploy.base import Endpoint
from pytest_llmperf.experiment.http_template import HttpTemplate
from pytest_llmperf.experiment.records import Workload
from pytest_llmperf.load.notes import counting_notes
from pytest_llmperf.load.records import RequestLog, TokenFit
from tests.unit.load.conftest import PacedServer
from tests.unit.load.loads import run, workload
from tests.unit.measure.logs import Asked, failed, log_of

SERVER = Endpoint("http://h", "m")
PLAIN = log_of([Asked(0.0, ((1.0, 1), (2.0, 1)))])
GROUPED = log_of([Asked(0.0, ((1.0, 3), (2.0, 3))), Asked(0.5, ((1.0, 1),)), failed(0.7)])
SPREAD = replace(GROUPED, token_fit=np.array([TokenFit.MORE, TokenFit.AS_SAID, TokenFit.AS_SAID], np.uint8))
FEWER = replace(GROUPED, token_fit=np.array([TokenFit.AS_SAID, TokenFit.FEWER, TokenFit.AS_SAID], np.uint8))
SILENT = replace(GROUPED, usage_reported=np.array([True, False, False]))


def http(**pointers: str) -> Workload:
    return workload(api="http", http=HttpTemplate("/p", "/t", {"q": "{prompt}"}, **pointers))  # type: ignore[arg-type]


@pytest.mark.parametrize("log", [PLAIN, GROUPED])
def test_what_the_server_says_needs_no_note(log: RequestLog) -> None:
    assert counting_notes(workload(continuous_usage=True), SERVER, log) == ()
    assert counting_notes(workload(stream=False), SERVER, log) == ()
    assert counting_notes(workload(), SERVER, log) == ()
    assert counting_notes(http(output_tokens="/n"), SERVER, log) == ()


@pytest.mark.parametrize(
    ("asked", "advice"),
    [
        (workload(), ": 'continuous_usage: true' in the workload asks the server how many each event has"),
        (
            workload(continuous_usage=True),
            ": the server does not say with every event how many there are so far, though 'continuous_usage' asks for it",
        ),
        (http(output_tokens="/n"), ""),
    ],
)
def test_tokens_that_are_spread(asked: Workload, advice: str) -> None:
    (note,) = counting_notes(asked, SERVER, SPREAD)
    assert note == f"1 answers have more tokens than events, taken to be evenly spread over them{advice}"


@pytest.mark.parametrize("asked", [workload(), http(output_tokens="/n")])
def test_fewer_tokens_than_texts(asked: Workload) -> None:
    (note,) = counting_notes(asked, SERVER, FEWER)
    assert note.startswith("1 answers have fewer tokens, by the server's count, than events with a text")


@pytest.mark.parametrize(
    ("asked", "takes_options", "said"),
    [
        (workload(), True, ": each event with a text counts as one"),
        (workload(), False, " (the server takes no 'stream_options'): each event with a text counts as one"),
        (workload(stream=False), True, ": each counts as one"),
        (http(), True, ": there are no metrics of tokens"),
        (http(output_tokens="/n"), True, " ('/n' is missing, 0, or never grows): there are no metrics of tokens"),
    ],
)
def test_a_server_that_does_not_say(asked: Workload, takes_options: bool, said: str) -> None:
    (note,) = counting_notes(asked, replace(SERVER, stream_usage=takes_options), SILENT)
    assert note == f"1 of 2 answers do not say how many tokens they have{said}"


def test_a_server_that_says_it_unasked_needs_no_note() -> None:
    assert counting_notes(workload(), replace(SERVER, stream_usage=False), PLAIN) == ()


def test_a_chats_words() -> None:
    (note,) = counting_notes(workload(api="chat"), SERVER, PLAIN)
    assert note.startswith("chat prompts are text of about a word a token")
    assert counting_notes(workload(api="chat", prompt="text"), SERVER, PLAIN) == ()


def test_a_stream_that_may_not_be_asked_for_its_usage_is_counted_by_event(server: PacedServer) -> None:
    endpoint = replace(server.endpoint("no_done/1/1/unasked"), stream_usage=False)
    result = run(endpoint)
    assert not any("stream_options" in truth["body"] for truth in server.truth("no_done/1/1/unasked"))
    assert result.log.output_tokens.tolist() == [6] * 4
    assert not result.log.usage_reported.any()
    assert result.health.notes[-1].startswith("4 of 4 answers do not say how many tokens they have (the server takes no")


def test_a_stream_is_asked_for_the_count_of_every_event(server: PacedServer) -> None:
    result = run(server.endpoint("ok/1/1/continuous"), asked=workload(continuous_usage=True))
    options = [truth["body"]["stream_options"] for truth in server.truth("ok/1/1/continuous")]
    assert options == [{"include_usage": True, "continuous_usage_stats": True}] * 4
    assert result.log.usage_reported.all()
