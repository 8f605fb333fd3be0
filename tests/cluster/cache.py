"""What is made once and kept outside the checkout: ``~/.cache/pytest-llmperf/cluster/NAME-DIGEST``, whole or not there at all."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

_DIGEST_CHARS = 16


def cache_folder() -> Path:
    """Where everything of the test clusters lies."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache, "pytest-llmperf", "cluster").expanduser().absolute()


def digest(parts: Iterable[bytes | str]) -> str:
    """One key for many parts: a change of any, or of where one ends, changes it."""
    whole = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        whole.update(len(data).to_bytes(8, "big") + data)
    return whole.hexdigest()[:_DIGEST_CHARS]


def digest_of_files(root: Path, files: Iterable[Path]) -> str:
    """One key for files: their names below ``root`` and what they hold."""
    ordered = sorted(files)
    return digest(part for file in ordered for part in (str(file.relative_to(root)), file.read_bytes()))


def once(name: str, make: Callable[[Path], None]) -> Path:
    """The folder ``name`` of the cache. Where it is missing, ``make`` fills an empty folder that then takes that name.

    Of several processes one makes it and the others wait. What a maker that died has left is replaced by the next.
    """
    place = cache_folder() / name
    if place.is_dir():
        return place
    with locked(_family(name)):
        if not place.is_dir():
            unfinished = place.with_name(f".{name}.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            make(unfinished)
            unfinished.rename(place)
    return place


def remove_older(kept: Path) -> None:
    """Remove what has the name of ``kept`` and another digest."""
    for other in kept.parent.glob(f"{_family(kept.name)}-*"):
        if other != kept and _family(other.name) == _family(kept.name):
            shutil.rmtree(other, ignore_errors=True)


def _family(name: str) -> str:
    """A name without its digest."""
    return name.rpartition("-")[0]


@contextmanager
def locked(name: str) -> Iterator[None]:
    """One process at a time; the lock goes with the process that holds it."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
