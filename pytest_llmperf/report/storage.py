"""Writing what was measured to disk the moment it is there, so that a session that dies loses none of it."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_llmperf.errors import LlmperfError, Where
from pytest_llmperf.report.document import to_json

if TYPE_CHECKING:
    from pytest_llmperf.report.document import RunDocument

_SAFE_NAME = re.compile(r"[A-Za-z0-9][\w.+-]*", re.ASCII)


def run_directory(storage: Path, run_id: str) -> Path:
    """Where everything of a run lies: ``storage/runs/<run_id>``. Raises ``ValueError`` for an id that is no plain name."""
    if _SAFE_NAME.fullmatch(run_id) is None:
        raise ValueError(f"{run_id!r} cannot name a directory: use letters, digits and '._+-', a letter or digit first")
    return storage / "runs" / run_id


def write_run(storage: Path, document: RunDocument) -> Path:
    """Write ``storage/runs/<run_id>/run.json`` and return its path. Raises ``LlmperfError`` naming it when the disk will not."""
    path = run_directory(storage, document.run_id) / "run.json"
    write_atomically(path, to_json(document))
    return path


def write_atomically(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all, and stays after a power cut; missing directories are made.

    Raises ``LlmperfError`` naming the path; what was there before is then still there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, text.encode())
    except OSError as error:
        reason = error.strerror or str(error)
        raise LlmperfError(
            f"cannot write the results: {reason}",
            where=Where(file=str(path)),
            hint="Free space there, or choose another place (--llmperf-storage, --llmperf-json).",
        ) from error


def _replace(path: Path, content: bytes) -> None:
    # In the same directory: a rename across file systems is no longer atomic.
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), 0o644)  # mkstemp's 0600 would hide results from a CI's collecting step
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    """Make the new name itself durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
