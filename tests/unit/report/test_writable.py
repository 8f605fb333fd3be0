"""Places at which no result can be put, told before there is one."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_llmperf.report.writable import refusal


@pytest.mark.parametrize(
    ("place", "is_file", "told"),
    [
        ("new/folders/out.json", True, None),
        ("there.txt", True, None),
        ("new/folders", False, None),
        ("folder", True, "{0}/folder is a directory"),
        ("/dev/null", True, "/dev/null is no regular file"),
        ("there.txt/out.json", True, "{0}/there.txt is no directory"),
        ("there.txt", False, "{0}/there.txt is no directory"),
    ],
)
def test_where_something_can_be_put(tmp_path: Path, place: str, is_file: bool, told: str | None) -> None:
    (tmp_path / "there.txt").touch()
    (tmp_path / "folder").mkdir()
    assert refusal(tmp_path / place, is_file=is_file) == (told and told.format(tmp_path))
