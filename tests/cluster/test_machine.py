"""A machine that cannot run the cluster is told what it lacks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.binaries import VARIABLE

pytestmark = pytest.mark.usefixtures("able_machine")

ROOT = Path(__file__).parents[2]


def complaint(environment: dict[str, str]) -> str:
    words = [sys.executable, "-m", "tests.cluster", "up"]
    done = subprocess.run(words, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout
    return done.stderr


def test_programs_that_are_missing_are_named_with_their_packages(tmp_path: Path) -> None:
    told = complaint({"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)})
    assert told.startswith("missing: apt-get install --no-install-recommends ")
    assert {"etcd-server", "containerd", "busybox-static"} <= set(told.split())


def test_a_folder_without_the_programs_is_named(tmp_path: Path) -> None:
    told = complaint({VARIABLE: str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)})
    assert told.startswith(f"{VARIABLE}: no program kube-apiserver, ")
