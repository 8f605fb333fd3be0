"""Writing what was measured to disk the moment it is there, so that a session that dies loses none of it."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pytest_llmperf.errors import ConfigError, LlmperfError, Where
from pytest_llmperf.report.document import to_json

if TYPE_CHECKING:
    from pytest_llmperf.report.document import RunDocument

_SAFE_NAME = re.compile(r"[A-Za-z0-9][\w.+-]*", re.ASCII)
_NUMBERED = re.compile(r"(\d+)_(.+)\.json")


REQUESTS = "requests.parquet"
REQUESTS_CSV = "requests.csv"
STATS = "stats.txt"
ARTIFACTS = {
    "requests": REQUESTS,
    "requests_csv": REQUESTS_CSV,
    "stats": STATS,
    "latency_png": "latency_analysis.png",
    "latency_svg": "latency_analysis.svg",
    "throughput_png": "throughput_analysis.png",
    "throughput_svg": "throughput_analysis.svg",
}
"""What may lie beside a run's ``run.json``, by what it is."""


def run_directory(storage: Path, run_id: str) -> Path:
    """Where everything of a run lies: ``storage/runs/<run_id>``. Raises ``ValueError`` for an id that is no plain name."""
    if _SAFE_NAME.fullmatch(run_id) is None:
        raise ValueError(f"{run_id!r} cannot name a directory: use letters, digits and '._+-', a letter or digit first")
    return storage / "runs" / run_id


def file_name_of(run_id: str) -> str:
    """The id itself, to name a file by. Raises ``ConfigError`` for one that is no plain name: no run of ours has such an id."""
    try:
        return run_directory(Path(), run_id).name
    except ValueError as error:
        raise ConfigError(f"the run's id {error}") from None


def artifacts_in(directory: Path) -> dict[str, str]:
    """Which of ``ARTIFACTS`` lie in a run's directory: paths relative to it, by what they are."""
    return {what: name for what, name in ARTIFACTS.items() if (directory / name).is_file()}


def write_run(storage: Path, document: RunDocument) -> Path:
    """Write ``storage/runs/<run_id>/run.json`` and return its path. Raises ``LlmperfError`` naming it when the disk will not."""
    path = run_directory(storage, document.run_id) / "run.json"
    write_atomically(path, to_json(document))
    return path


def write_atomically(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all, and stays after a power cut; missing directories are made.

    Raises ``LlmperfError`` naming the path; what was there before is then still there.
    """
    with file_in_place(path) as file:
        file.write(text.encode())


@contextmanager
def file_in_place(path: Path) -> Iterator[IO[bytes]]:
    """A file to write: it takes its place when the block ends, whole as ``write_atomically`` has it; not at all when it raises.

    An ``OSError`` within the block is told as ``LlmperfError`` naming the path.
    """
    with _refusal_named(path):
        # A device or a pipe would be gone, and a file in its place.
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise OSError(errno.EINVAL, "it is no regular file")
        path.parent.mkdir(parents=True, exist_ok=True)
        with _complete(path.parent, path.name) as (file, finished):
            yield file
            os.replace(finished(), path)
        _sync_directory(path.parent)


def write_numbered(directory: Path, name: str, text: str) -> tuple[int, Path]:
    """Write ``directory/0001_NAME.json`` under a number that no other file there has; return the number and the path.

    The number is higher than all that are there. Nothing is ever replaced, and of processes that write at once each gets a
    number of its own. As whole and as durable as ``write_atomically``. Raises ``LlmperfError`` naming the file or directory.
    """
    with _refusal_named(directory):
        directory.mkdir(parents=True, exist_ok=True)
        # The file is complete before the number is taken, so that a full disk or a crash in between takes none.
        with _complete(directory, name) as (file, finished):
            file.write(text.encode())
            temporary = finished()
            with _next_number(directory) as number:
                path = directory / f"{number:04d}_{name}.json"
                os.rename(temporary, path)
        _sync_directory(directory)
    return number, path


def numbered_files(directory: Path) -> list[tuple[int, str, Path]]:
    """The number, name and path of what ``write_numbered`` wrote, lowest number first; empty where the directory is missing.

    Raises ``LlmperfError`` when the directory cannot be read.
    """
    try:
        paths = [path for path in directory.iterdir() if _NUMBERED.fullmatch(path.name)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise LlmperfError(f"cannot be read: {error.strerror or error}", where=Where(file=str(directory))) from error
    return sorted(_number_and_name(path) for path in paths)


def _number_and_name(path: Path) -> tuple[int, str, Path]:
    number, _, name = path.name.removesuffix(".json").partition("_")
    return int(number), name, path


@contextmanager
def _next_number(directory: Path) -> Iterator[int]:
    """A number that no file has, and that no other process is given until the block ends.

    An empty file ``.0001`` holds the number meanwhile: creating it exclusively is atomic on every file system, with or without
    hard links. One that a crash left behind costs its number and nothing else.
    """
    number, claim = _claimed(directory)
    try:
        yield number
    finally:
        claim.unlink()


def _claimed(directory: Path) -> tuple[int, Path]:
    number = max((taken for taken, _, _ in numbered_files(directory)), default=0)
    while True:
        number += 1
        claim = directory / f".{number:04d}"
        try:
            os.close(os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        except FileExistsError:
            continue
        # Whoever held the number before may have used it and let go between our looking and our taking.
        if all(taken != number for taken, _, _ in numbered_files(directory)):
            return number, claim
        claim.unlink()


@contextmanager
def _refusal_named(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise LlmperfError(
            f"cannot write the results: {reason}",
            where=Where(file=str(place)),
            hint="Free space there, or choose another place.",
        ) from error


@contextmanager
def _complete(directory: Path, name: str) -> Iterator[tuple[IO[bytes], Callable[[], Path]]]:
    """A file under a passing name to write, and what makes it whole and durable, to be renamed within the block.

    It is gone when it was not renamed.
    """
    # In the same directory: a rename across file systems is no longer atomic.
    descriptor, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=directory)

    def finished() -> Path:
        file.flush()
        os.fchmod(file.fileno(), 0o644)  # mkstemp's 0600 would hide results from a CI's collecting step
        os.fsync(file.fileno())
        file.close()
        return Path(temporary)

    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file, finished
    finally:
        Path(temporary).unlink(missing_ok=True)


def _sync_directory(directory: Path) -> None:
    """Make the new name itself durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
