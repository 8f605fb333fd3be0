"""Errors: one message that names the place, what failed, and what to do."""

from __future__ import annotations

import pytest

from pytest_llmperf.errors import ConfigError, DeployError, Where, nearest, unknown


@pytest.mark.parametrize(
    ("where", "shown"),
    [
        (Where(file="a.yaml", line=3, key="memory"), "a.yaml:3: memory"),
        (Where(file="a.yaml", line=3), "a.yaml:3"),
        (Where(file="a.yaml"), "a.yaml"),
        (Where(option="--llmperf-matrix"), "--llmperf-matrix"),
        (Where(key="poisson()"), "poisson()"),
        (Where(), ""),
    ],
)
def test_a_place_reads_as_editors_take_it(where: Where, shown: str) -> None:
    assert str(where) == shown


def test_message_has_place_problem_and_hint() -> None:
    error = ConfigError("no such thing", where=Where("a.yaml", 3, "memory"), hint="Write another.")
    assert str(error) == "a.yaml:3: memory: no such thing\n  Write another."


def test_message_without_a_place() -> None:
    assert str(ConfigError("no such thing", where=Where())) == "no such thing"


def test_deployment_shows_state_and_log() -> None:
    error = DeployError("not ready", hint="Wait longer.", state="Pending", log_tail="one\ntwo")
    assert str(error) == "not ready\n  Wait longer.\n  last state: Pending\n  log tail:\n    one\n    two"


@pytest.mark.parametrize(
    ("name", "choices", "meant"),
    [
        ("memroy", ["memory", "title"], "memory"),
        ("H100", ["h100", "h200"], "h100"),
        ("Interactive-Chat", ["interactive-chat"], "interactive-chat"),
        ("llama", ["t4"], None),
        ("anything", [], None),
    ],
)
def test_nearest(name: str, choices: list[str], meant: str | None) -> None:
    assert nearest(name, choices) == meant


def test_unknown_names_the_nearest_and_all() -> None:
    assert str(unknown("model", "lama", ["llama", "qwen"], Where(option="-x"))) == (
        "-x: unknown model 'lama'\n  Did you mean 'llama'? Known: llama, qwen."
    )
    assert str(unknown("model", "zzz", ["llama"])) == "unknown model 'zzz'\n  Known: llama."
    assert str(unknown("model", "zzz", [])) == "unknown model 'zzz'\n  Known: none."
