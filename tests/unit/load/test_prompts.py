"""What is asked: exact lengths, shared beginnings, growing histories, and a request that is HTTP."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmperf.deploy.base import Endpoint
from pytest_llmperf.experiment.profile import Constant
from pytest_llmperf.experiment.records import Lengths, SharedPrefix, Turns, Workload
from pytest_llmperf.load.plan import SessionPlan, plan_load
from pytest_llmperf.load.prompts import FIRST_TOKEN_ID, TOKEN_IDS, ids_json, request_writer, tokens_of
from tests.unit.load.loads import workload

ENDPOINT = Endpoint("http://localhost:8000/base/", 'a "model"')
TURNS = Turns(Lengths(3), Lengths(7))


def sessions(asked: Workload, count: int = 8) -> list[SessionPlan]:
    return list(plan_load(Constant(10.0), asked, None, seed=5, warmup_s=0, max_requests=count).sessions())


def sent(asked: Workload, session: SessionPlan, turn: int = 0, endpoint: Endpoint = ENDPOINT) -> tuple[str, dict[str, Any]]:
    head, _, body = request_writer(asked, endpoint, 5).request(session, turn).partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}" in head.decode()
    return head.decode(), json.loads(body)


@given(st.integers(0, 2**64 - 1), st.integers(0, 10_000), st.integers(0, 500), st.integers(0, 500))
def test_tokens_are_a_function_of_their_position(key: int, start: int, first: int, second: int) -> None:
    whole = tokens_of(key, start, start + first + second)
    assert np.array_equal(whole[:first], tokens_of(key, start, start + first))
    assert np.array_equal(whole[first:], tokens_of(key, start + first, start + first + second))
    assert np.all((whole >= 0) & (whole < TOKEN_IDS))


def test_tokens_are_uniform_and_streams_unrelated() -> None:
    first, second = tokens_of(1, 0, 90_000), tokens_of(2, 0, 90_000)
    counts = np.bincount(first, minlength=TOKEN_IDS)
    # 100 expected of each: chi-square over 899 degrees of freedom, five standard deviations (42) around.
    assert abs(((counts - 100) ** 2 / 100).sum() - 899) < 212
    assert abs(np.mean(first == second) - 1 / TOKEN_IDS) < 0.001


def test_ids_are_json() -> None:
    assert json.loads(ids_json(np.array([0, 899, 5]))) == [100, 999, 105]


def test_a_completion_asks_for_exactly_the_planned_tokens() -> None:
    asked = workload(input=Lengths(40, "lognormal", 1.0), output=Lengths(9))
    for session in sessions(asked):
        head, body = sent(asked, session)
        assert head.startswith("POST /base/v1/completions HTTP/1.1\r\nHost: localhost:8000\r\n")
        assert len(body["prompt"]) == session.turns[0].prompt_tokens
        assert all(FIRST_TOKEN_ID <= token < FIRST_TOKEN_ID + TOKEN_IDS for token in body["prompt"])
        del body["prompt"]
        assert body == {
            "model": 'a "model"',
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": 9,
            "min_tokens": 9,
            "ignore_eos": True,
        }


def test_prompts_differ() -> None:
    asked = workload()
    prompts = {tuple(sent(asked, session)[1]["prompt"]) for session in sessions(asked, 200)}
    assert len(prompts) == 200


def test_options_of_the_workload() -> None:
    asked = workload(ignore_eos=False, stream=False)
    _, body = sent(asked, sessions(asked)[0])
    assert body.keys() == {"model", "stream", "prompt", "max_tokens"}
    assert body["stream"] is False


@pytest.mark.parametrize(
    ("continuous", "takes", "options"),
    [
        (False, True, {"include_usage": True}),
        (True, True, {"include_usage": True, "continuous_usage_stats": True}),
        (False, False, None),
    ],
)
@pytest.mark.parametrize("api", ["completions", "chat"])
def test_a_stream_is_asked_for_its_usage(api: str, continuous: bool, takes: bool, options: object) -> None:
    asked = workload(api=api, continuous_usage=continuous)
    endpoint = Endpoint("http://h", "m", stream_usage=takes)
    assert sent(asked, sessions(asked)[0], endpoint=endpoint)[1].get("stream_options") == options


def test_the_key_is_a_bearer_token_and_nowhere_in_a_repr() -> None:
    asked = workload()
    head, _ = sent(asked, sessions(asked)[0], endpoint=Endpoint("http://h", "m", "s3cret"))
    assert "Authorization: Bearer s3cret" in head.splitlines()
    assert "Authorization" not in sent(asked, sessions(asked)[0])[0]
    assert "s3cret" not in repr(request_writer(asked, Endpoint("http://h", "m", "s3cret"), 5))


def test_text_has_a_word_a_token() -> None:
    asked = workload(prompt="text", input=Lengths(25))
    _, body = sent(asked, sessions(asked)[0])
    assert len(body["prompt"].split()) == 25


def test_shared_prefix_groups_begin_alike() -> None:
    asked = workload(input=Lengths(50), shared_prefix=SharedPrefix(32, 3))
    beginnings: Counter[tuple[int, ...]] = Counter()
    for session in sessions(asked, 60):
        prompt = sent(asked, session)[1]["prompt"]
        assert len(prompt) == 50
        beginnings[tuple(prompt[:32])] += 1
    assert len(beginnings) == 3


def test_a_turn_repeats_all_that_came_before() -> None:
    asked = workload(turns=TURNS, shared_prefix=SharedPrefix(4))
    session = sessions(asked)[0]
    prompts = [sent(asked, session, turn)[1]["prompt"] for turn in range(3)]
    assert [len(prompt) for prompt in prompts] == [12, 12 + 6 + 7, 12 + 6 + 7 + 6 + 7]
    assert prompts[1][:12] == prompts[0]
    assert prompts[2][:25] == prompts[1]


@pytest.mark.parametrize("prompt", ["token_ids", "text"])
def test_a_chats_history_is_its_messages(prompt: str) -> None:
    asked = workload(api="chat", prompt=prompt, turns=TURNS)
    session = sessions(asked)[0]
    head, body = sent(asked, session, 2)
    assert head.startswith("POST /base/v1/chat/completions HTTP/1.1")
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user", "assistant", "user"]
    assert [len(message["content"].split()) for message in body["messages"]] == [12, 6, 7, 6, 7]
    _, before = sent(asked, session, 1)
    assert body["messages"][:3] == before["messages"]
