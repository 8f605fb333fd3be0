"""``-k`` of commands reads as pytest's does."""

from __future__ import annotations

import re

import pytest

from pytest_llmperf.cli.keywords import keywords
from pytest_llmperf.errors import ConfigError

IDS = ["gke_h100_standalone_llama-3.1-8b", "gke_h100x4_standalone_llama-3.3-70b", "ocp_a100-80gb_standalone_llama-3.1-8b"]


@pytest.mark.parametrize(
    ("expression", "chosen"),
    [
        ("h100", [0, 1]),
        ("H100", [0, 1]),
        ("gke_h100_standalone_llama-3.1-8b", [0]),
        ("h100 and not h100x4", [0]),
        ("ocp or h100x4", [1, 2]),
        ("gke and 70b or ocp", [1, 2]),
        ("gke and (70b or ocp)", [1]),
        ("not (gke)", [2]),
        ("not not gke", [0, 1]),
        ("t4", []),
    ],
)
def test_words_with_and_or_not(expression: str, chosen: list[int]) -> None:
    matches = keywords(expression)
    assert [index for index, cell_id in enumerate(IDS) if matches(cell_id)] == chosen


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("h100 and", "-k: 'h100 and' cannot be read: it ends where a word was expected"),
        ("or h100", "'or' stands where a word was expected"),
        ("(h100", "a ')' is missing"),
        ("h100)", "')' was not expected"),
        ("h100 gke", "'gke' was not expected"),
        ("", "it ends where a word was expected"),
    ],
)
def test_mistakes(expression: str, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        keywords(expression)
