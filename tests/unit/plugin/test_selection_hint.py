"""What is said when ``-k`` selected nothing."""

from __future__ import annotations

import pytest

from pytest_llmperf.plugin.start import empty_selection_hint

IDS = ["gke_h100_standalone_llama-3.1-8b", "eks_l40s_standalone_llama-3.1-8b"]


@pytest.mark.parametrize(
    ("keyword", "meant"),
    [
        ("h1000", " Did you mean 'h100'?"),
        ("not (l40 or h1000)", " Did you mean 'h100'?"),
        ("L40S and standalnoe", " Did you mean 'l40s'?"),
        ("h100 and l40s", ""),
        ("zzzzzz", ""),
    ],
)
def test_hint(keyword: str, meant: str) -> None:
    hint = empty_selection_hint(keyword, "default", IDS)
    assert hint == f"-k {keyword!r} selects no test.{meant} Cells of matrix 'default': {', '.join(IDS)}"
