"""Which state of the source code was measured, as git tells it."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

_PATIENCE_S = 10.0
"""On a slow network file system git may take seconds; a session's end does not wait longer for it."""


@dataclass(frozen=True)
class Commit:
    """A commit's full hash; ``dirty`` when tracked files differed from it."""

    hash: str
    dirty: bool


def commit_of(directory: Path) -> Commit | None:
    """The commit that is checked out at ``directory``; None without git, a repository or a first commit."""
    commit = _git(directory, "rev-parse", "--verify", "HEAD")
    if not commit:
        return None
    # Untracked files do not count: results and virtual environments that nobody ignores would make every commit dirty.
    # What git cannot tell in time is not known to be clean.
    return Commit(commit, dirty=_git(directory, "status", "--porcelain", "--untracked-files=no") != "")


def short_commit(commit: str | None, dirty: bool) -> str:
    """``a1b2c3d4``, ``a1b2c3d4-dirty``; empty where there is none."""
    if not commit:
        return ""
    return commit[:8] + ("-dirty" if dirty else "")


def _git(directory: Path, *arguments: str) -> str | None:
    """What git prints; None when it is absent, refuses or takes too long."""
    # Without optional locks git does not write to the repository, where another git may be at work.
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
