"""The same function on many arguments, in this process or in several."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from itertools import starmap
from multiprocessing import get_context
from types import TracebackType
from typing import Self, TypeVar

Result = TypeVar("Result")


class Crowd:
    """A context manager; with one process everything runs here, where a debugger and a profiler see it."""

    def __init__(self, processes: int = 1) -> None:
        self._pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn")) if processes > 1 else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def run(self, function: Callable[..., Result], arguments: Iterable[tuple[object, ...]]) -> list[Result]:
        """``function(*each)`` for each tuple, in their order; what goes to other processes must pickle."""
        if self._pool is None:
            return list(starmap(function, arguments))
        return [future.result() for future in [self._pool.submit(function, *each) for each in arguments]]
