"""Recorded traces: arrival times, lengths and shared blocks as published files hold them.

Two formats are read: the Azure LLM inference traces (CSV with TIMESTAMP, ContextTokens, GeneratedTokens) and the Mooncake
traces (JSON lines with timestamp in milliseconds, input_length, output_length, hash_ids of 512-token blocks).
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pytest_llmperf.errors import ConfigError, Where
from pytest_llmperf.experiment.profile import TraceReplay
from pytest_llmperf.load.records import Floats, Ints

BLOCK_TOKENS = 512
"""Tokens a hash id of a Mooncake trace stands for."""

_AZURE_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_UTC_OFFSET = re.compile(r"(\+00:?00|Z)$")


@dataclass(frozen=True)
class Trace:
    """n rows in order of time: ``time_s`` from the first row on, lengths of at least one token, hash ids (may be empty)."""

    time_s: Floats
    prompt_tokens: Ints
    output_tokens: Ints
    hash_ids: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return len(self.time_s)


@dataclass(frozen=True)
class _Row:
    time_s: float
    prompt_tokens: int
    output_tokens: int
    hash_ids: tuple[int, ...] = ()


def read_trace(replay: TraceReplay) -> Trace:
    """The rows of ``replay.path`` after its first ``start_s`` seconds, gaps multiplied by ``time_scale``.

    Raises ``ConfigError`` naming file and line of what cannot be read, and for a trace with no row left.
    """
    try:
        rows = list(_azure_rows(replay.path) if replay.kind == "azure" else _mooncake_rows(replay.path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the trace cannot be read: {error}", where=Where(file=str(replay.path))) from None
    rows.sort(key=lambda row: row.time_s)
    if not rows:
        raise ConfigError("the trace has no request", where=Where(file=str(replay.path)))
    zero_s = rows[0].time_s + replay.start_s
    kept = [row for row in rows if row.time_s >= zero_s]
    if not kept:
        length_s = rows[-1].time_s - rows[0].time_s
        raise ConfigError(
            f"start {replay.start_s:g}s skips the whole trace, which is {length_s:g}s long",
            where=Where(file=str(replay.path)),
        )
    return Trace(
        time_s=np.array([row.time_s - zero_s for row in kept]) * replay.time_scale,
        # Published rows hold zeros (a request that was refused); a server takes and gives one token at least.
        prompt_tokens=np.array([max(1, row.prompt_tokens) for row in kept], dtype=np.int64),
        output_tokens=np.array([max(1, row.output_tokens) for row in kept], dtype=np.int64),
        hash_ids=tuple(row.hash_ids for row in kept),
    )


def _azure_rows(path: Path) -> Iterator[_Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        missing = [column for column in _AZURE_COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise ConfigError(
                f"the trace has no column {missing[0]}",
                where=Where(file=str(path), line=1),
                hint=f"An azure trace is a CSV with the columns {', '.join(_AZURE_COLUMNS)}.",
            )
        for row in reader:
            try:
                yield _Row(_azure_time_s(row["TIMESTAMP"]), _length(row["ContextTokens"]), _length(row["GeneratedTokens"]))
            except (ValueError, TypeError) as error:
                raise ConfigError(f"not a row of an azure trace: {error}", where=Where(str(path), reader.line_num)) from None


def _azure_time_s(text: str) -> float:
    # Seven-digit fractions, which datetime.fromisoformat refuses; numpy keeps them in nanoseconds.
    stamp = np.datetime64(_UTC_OFFSET.sub("", text.strip()), "ns")
    if np.isnat(stamp):
        raise ValueError(f"{text!r} is not a time")
    return int(stamp.astype(np.int64)) / 1e9


def _mooncake_rows(path: Path) -> Iterator[_Row]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield _mooncake_row(json.loads(line))
            except KeyError as error:
                what = f"not a row of a mooncake trace: no key {error}"
                raise ConfigError(what, where=Where(str(path), number)) from None
            except (ValueError, TypeError) as error:
                raise ConfigError(f"not a row of a mooncake trace: {error}", where=Where(str(path), number)) from None


def _mooncake_row(row: dict[str, object]) -> _Row:
    time_ms, hash_ids = row["timestamp"], row.get("hash_ids", [])
    if isinstance(time_ms, bool) or not isinstance(time_ms, int | float):
        raise TypeError(f"timestamp {time_ms!r} is not a number of milliseconds")
    if not isinstance(hash_ids, list):
        raise TypeError("hash_ids is not a list")
    blocks = tuple(_length(hash_id) for hash_id in hash_ids)
    return _Row(time_ms / 1000, _length(row["input_length"]), _length(row["output_length"]), blocks)


def _length(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise TypeError(f"{value!r} is not a whole number")
    number = int(value)
    if number < 0:
        raise ValueError(f"{value!r} is negative")
    return number
