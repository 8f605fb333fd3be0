"""Whether results can be put where they are asked for: told before anything is measured. Nothing that is slow is imported."""

from __future__ import annotations

import os
from pathlib import Path


def refusal(path: Path, *, is_file: bool) -> str | None:
    """Why no file can be put at ``path`` (or, unless it ``is_file``, into that directory), as far as that can be known before."""
    if is_file and path.exists() and not path.is_file():
        return f"{path} is a directory" if path.is_dir() else f"{path} is no regular file"
    folder = path.parent if is_file else path
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not there.is_dir():
        return f"{there} is no directory"
    return None if os.access(there, os.W_OK | os.X_OK) else f"nothing can be written in {there}"
