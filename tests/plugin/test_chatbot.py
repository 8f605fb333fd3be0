"""A service that is not OpenAI-compatible, from the catalog's YAML to the verdict."""

from __future__ import annotations

import json

import pytest

from tests.plugin.conftest import Sessions
from tests.unit.load.chatbot import PATH, TOKEN, chatbot

WORKLOAD = f"""\
title: Support chatbot
api: http
stream: false
http:
  path: {PATH}
  body: {{question: "{{prompt}}", chat_id: "{{session}}"}}
  text: /data/answers/0/text
queries:
  - {{text: Where is my order?, weight: 3}}
  - {{text: What is your returns policy?}}
warmup: 0s
"""
SUITE = """\
    import math
    import pytest
    from pytest_llmperf import concurrency

    @pytest.mark.llmperf(workload="chatbot")
    def test_answers_in_time(load):
        run = load(concurrency(4), requests=80)
        assert run.meets({"e2e_p50": "10s", "error_rate": 0})
        assert math.isnan(run["output_tokens_per_s"])
"""
# What is tested here is not how fast this machine is, and the chatbot answers within a millisecond.
CALM = "--llmperf-trust=busy_share:1%,lateness_p99:10s,loop_lag_p99:10s"


@pytest.fixture(autouse=True)
def suite(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SUITE)
    folder = pytester.mkdir("fixtures") / "workloads"
    folder.mkdir()
    (folder / "chatbot.yaml").write_text(WORKLOAD)


def test_a_chatbot_behind_a_bearer_token(pytester: pytest.Pytester, llmperf: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATBOT", f"Bearer {TOKEN}")
    with chatbot() as server:
        target = ("-k", "h100", "--llmperf-target=endpoint", f"--llmperf-url={server.url}", CALM)
        result = llmperf(*target, "--llmperf-header=Authorization=env:CHATBOT", "--llmperf-json=out.json")
        result.assert_outcomes(passed=1)
        assert set(server.questions) == {"Where is my order?", "What is your returns policy?"}
    assert TOKEN not in result.stdout.str()
    document = (pytester.path / "out.json").read_text()
    assert TOKEN not in document
    (run,) = json.loads(document)["runs"]
    assert run["metrics"]["output_tokens_per_s"]["value"] is None


@pytest.mark.parametrize(("elsewhere", "more"), [(403, ()), (503, ()), (403, ("--llmperf-served-model=m",))])
def test_a_chatbot_behind_a_gateway_that_refuses_every_other_path(
    pytester: pytest.Pytester, llmperf: Sessions, monkeypatch: pytest.MonkeyPatch, elsewhere: int, more: tuple[str, ...]
) -> None:
    # A test without a workload asks nothing of the service by itself.
    pytester.makepyfile(test_standing="def test_stands(deployment):\n    assert deployment.lost() is None\n")
    monkeypatch.setenv("CHATBOT", f"Bearer {TOKEN}")
    with chatbot(elsewhere) as server:
        target = ("-k", "h100", "--llmperf-target=endpoint", f"--llmperf-url={server.url}", CALM)
        llmperf(*target, "--llmperf-header=Authorization=env:CHATBOT", *more).assert_outcomes(passed=2)


def test_beside_a_workload_of_openais_the_service_must_be_one(pytester: pytest.Pytester, llmperf: Sessions) -> None:
    pytester.makepyfile(SUITE + SUITE.replace('"chatbot"', '"interactive-chat"').replace("test_answers", "test_chats"))
    with chatbot(elsewhere=403) as server:
        result = llmperf("-k", "h100", "--llmperf-target=endpoint", f"--llmperf-url={server.url}")
    result.assert_outcomes(errors=2)
    said = " ".join(result.stdout.str().split())
    assert "/v1/models answers 403: the server wants another credential" in said
    assert "A service that is not OpenAI-compatible is for tests whose workloads are all of 'api: http'." in said


def test_an_openai_workload_at_a_chatbot(pytester: pytest.Pytester, llmperf: Sessions) -> None:
    pytester.makepyfile(SUITE.replace('"chatbot"', '"interactive-chat"'))
    with chatbot() as server:
        result = llmperf("-k", "h100", "--llmperf-target=endpoint", f"--llmperf-url={server.url}")
    assert f"{server.url} has no OpenAI-compatible API: it lists no models at /v1/models" in " ".join(result.stdout.str().split())
