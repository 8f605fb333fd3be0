"""What is made once is there whole, or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.cache import cache_folder, digest, once, remove_older

ROOT = Path(__file__).parents[2]
MAKER = """
import sys
from tests.cluster.cache import once

def make(folder):
    (folder / "half").write_text("")
    print("here", flush=True)
    sys.stdin.read()

once("thing-1", make)
"""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def make_whole(folder: Path) -> None:
    assert list(folder.iterdir()) == []
    (folder / "whole").write_text("")


def test_what_a_killed_maker_left_is_made_anew() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", MAKER], cwd=ROOT, env=os.environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as maker:
        assert maker.stdout is not None
        assert maker.stdout.readline() == "here\n"
        maker.kill()
    assert not (cache_folder() / "thing-1").exists()
    assert [file.name for file in once("thing-1", make_whole).iterdir()] == ["whole"]


def test_what_is_there_is_not_made_again() -> None:
    first = once("thing-1", make_whole)
    assert once("thing-1", lambda folder: pytest.fail(f"{folder} is made again")) == first


def test_only_older_ones_of_the_same_thing_are_removed() -> None:
    others = [once(name, make_whole) for name in ("thing-1", "thing-else-1", "other-1")]
    newest = once("thing-2", make_whole)
    remove_older(newest)
    assert [other.exists() for other in others] == [False, True, True]


def test_a_digest_tells_parts_from_their_sum() -> None:
    assert digest(["ab", "c"]) != digest(["a", "bc"])
