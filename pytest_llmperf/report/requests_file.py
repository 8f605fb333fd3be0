"""A run's requests as a file: Parquet, a row a request with all its chunks, read by column; and CSV from it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pytest_llmperf.errors import ConfigError, Where, unknown
from pytest_llmperf.load.records import Outcome, TokenFit
from pytest_llmperf.measure.latencies import PER_REQUEST, request_latencies
from pytest_llmperf.report.storage import file_in_place

if TYPE_CHECKING:
    import pyarrow as pa

    from pytest_llmperf.load.records import RequestLog
    from pytest_llmperf.report.results_v2 import RunDocument

SCHEMA_VERSION = "1"
COLUMNS: Mapping[str, str] = {
    "scheduled_s": "when it was to be made, in seconds since the run's start on a monotonic clock, as all instants here",
    "sent_s": "when it was sent",
    "connected_s": "when its connection stood; of a reused one, when it was taken",
    "first_byte_s": "when the first byte of the answer arrived",
    "first_token_s": "when the first token arrived; null also for an answer that was not streamed",
    "last_token_s": "when the last token arrived",
    "end_s": "when it ended, well or not",
    "http_status": "the answer's status; 0 without an answer",
    "prompt_tokens": "as the server's usage says, else as planned",
    "output_tokens": "as the server's usage says, else as many as chunks; 0 where nobody counts them",
    "usage_reported": "whether the server said how many tokens it were",
    "planned_prompt_tokens": "what was asked for",
    "planned_output_tokens": "what was asked for",
    "received_bytes": "bytes of the answer that arrived",
    "session": "its session's number in the plan; those of the warm-up are below 0",
    "turn": "which turn of its session it is, from 0",
    "worker": "which load worker made it",
    "warmup": "whether it is of the warm-up: recorded, never counted",
    "ttft_s": "first token - scheduled, in seconds; as all latencies only of requests that ended well",
    "tpot_s": "(last token - first token) / (output tokens - 1)",
    "e2e_s": "last token (not streamed: end) - scheduled",
    "service_ttft_s": "first token - sent",
    "service_e2e_s": "last token (not streamed: end) - sent",
    "chunks": "token-bearing chunks that arrived",
    "outcome": "how it ended: OK, or why not",
    "token_fit": "how the tokens lie on the chunks: AS_SAID, MORE (spread evenly), FEWER",
    "error": "a short class of the error; empty when it ended well",
    "chunk_us": "of each token-bearing chunk, when it arrived: microseconds since scheduled_s (2147483647: that or more)",
    "chunk_tokens": "of each token-bearing chunk, how many tokens it has",
}
"""Every column and what it means, in their order in the file. Latencies are those of the registry of metrics."""
CHUNK_COLUMNS = ("chunk_us", "chunk_tokens")
CHUNK_START = "chunk_start"
"""What ``read_requests`` adds where a column of chunks is named: entries i and i + 1 of it bound the chunks of request i."""

_NAMES: Mapping[str, Sequence[str]] = {"outcome": [o.name for o in Outcome], "token_fit": [fit.name for fit in TokenFit]}
_DERIVED = (*(f"{name}_s" for name in PER_REQUEST), "chunks", "outcome", "token_fit", "error", *CHUNK_COLUMNS)
_OF_CHUNKS = ("chunk_s", "chunk_tokens", "chunk_read_lag_s")
"""The log's columns with an entry a chunk."""
_GROUP = 1 << 16
"""Rows to a row group: enough that columns compress, so few that a group of long answers takes some tens of megabytes."""
_MOST_US = np.iinfo(np.int32).max


def about_run(document: RunDocument) -> dict[str, str]:
    """What the file says of the run whose requests it has."""
    return {
        "run_id": document.run_id,
        "cell": document.cell.id,
        "workload": document.workload.name,
        "profile": document.profile,
        "simulated": "true" if document.simulated else "false",
        "started_at": document.timing.started_at,
        "node_id": document.node_id,
    }


def write_requests(path: Path, log: RequestLog, about: Mapping[str, str] | None = None) -> None:
    """Write the log as Parquet, whole or not at all: ``COLUMNS``, each described in its metadata; ``about`` is the file's own.

    An instant or a latency that never was is null. Raises ``LlmperfError`` naming the path when the disk will not.
    """
    import pyarrow.parquet as pq

    schema = _schema({**(about or {}), "requests_schema_version": SCHEMA_VERSION})
    floats = [field.name for field in schema if str(field.type) == "double"]
    encodings = {**dict.fromkeys(floats, "BYTE_STREAM_SPLIT"), "chunk_us.list.element": "DELTA_BINARY_PACKED"}
    dictionaries = [name for name in COLUMNS if name not in {*floats, "chunk_us", "chunk_tokens"}]
    with (
        file_in_place(path) as file,
        pq.ParquetWriter(
            file,
            schema,
            compression="zstd",
            use_dictionary=[*dictionaries, "chunk_tokens.list.element"],
            column_encoding=encodings,
        ) as writer,
    ):
        for start in range(0, len(log), _GROUP):
            writer.write_table(_rows(log, start, min(start + _GROUP, len(log)), schema))


def read_requests(path: Path, columns: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
    """Columns of a file that ``write_requests`` wrote, one entry a request; nan where an instant or a latency never was.

    None: all but the chunks', which are read where they are named: then all requests' chunks in one array each, and
    ``chunk_start`` beside them. Raises ``ConfigError`` for a column there is not, and a file that cannot be read.
    """
    with _opened(path) as file:
        known = file.schema_arrow.names
        wanted = [name for name in known if name not in CHUNK_COLUMNS] if columns is None else list(columns)
        for name in wanted:
            if name not in known:
                raise unknown("column", name, known, Where(file=str(path)))
        table = file.read(columns=wanted)
    read: dict[str, NDArray[Any]] = {}
    for name in wanted:
        if name in CHUNK_COLUMNS:
            read[CHUNK_START], read[name] = _flat(table.column(name))
        else:
            read[name] = _plain(table.column(name))
    return read


def write_requests_csv(source: Path, target: Path | BinaryIO) -> None:
    """The Parquet file ``source`` as CSV, a row group at a time and without the chunks; what is null there is empty here.

    A ``target`` that is a path is written whole or not at all. Raises ``ConfigError`` for a source that cannot be read,
    ``LlmperfError`` naming the target when the disk will not.
    """
    if isinstance(target, Path):
        with file_in_place(target) as file:
            write_requests_csv(source, file)  # type: ignore[arg-type]  # an IO[bytes] is a BinaryIO in all but name
        return
    import pyarrow as pa
    from pyarrow import csv

    with _opened(source) as parquet:
        names = [name for name in parquet.schema_arrow.names if name not in CHUNK_COLUMNS]
        kept = [parquet.schema_arrow.field(name) for name in names]
        schema = pa.schema([each.with_type(pa.string()) if pa.types.is_dictionary(each.type) else each for each in kept])
        with csv.CSVWriter(target, schema, write_options=csv.WriteOptions(quoting_style="needed")) as writer:
            for batch in parquet.iter_batches(batch_size=_GROUP, columns=names):
                writer.write_batch(batch.cast(schema))


def _schema(about: Mapping[str, str]) -> pa.Schema:
    import pyarrow as pa

    text = pa.dictionary(pa.int32(), pa.string())
    types: dict[str, Any] = {
        "http_status": pa.int16(),
        **dict.fromkeys(("prompt_tokens", "output_tokens", "planned_prompt_tokens", "planned_output_tokens"), pa.int64()),
        **dict.fromkeys(("received_bytes", "session"), pa.int64()),
        **dict.fromkeys(("turn", "chunks"), pa.int32()),
        "worker": pa.int16(),
        **dict.fromkeys(("usage_reported", "warmup"), pa.bool_()),
        **dict.fromkeys(("outcome", "token_fit", "error"), text),
        "chunk_us": pa.list_(pa.int32()),
        "chunk_tokens": pa.list_(pa.uint16()),
    }
    described = [pa.field(name, types.get(name, pa.float64()), metadata={"description": told}) for name, told in COLUMNS.items()]
    return pa.schema(described, metadata=dict(about))


def _rows(log: RequestLog, start: int, stop: int, schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

    part = _part(log, start, stop)
    ok = part.outcome == Outcome.OK
    starts = pa.array(part.chunk_start.astype(np.int32))
    columns: dict[str, Any] = {name: getattr(part, name) for name in COLUMNS if name not in _DERIVED}
    columns |= {f"{name}_s": np.where(ok, values, np.nan) for name, values in request_latencies(part).items()}
    arrays = {name: pa.array(values, schema.field(name).type, from_pandas=True) for name, values in columns.items()}
    arrays["chunks"] = pa.array(np.diff(part.chunk_start).astype(np.int32))
    for name, names in _NAMES.items():
        codes = pa.array(getattr(part, name).astype(np.int32))
        arrays[name] = pa.DictionaryArray.from_arrays(codes, pa.array(names))
    arrays["error"] = pa.array(part.error, pa.string()).dictionary_encode()
    arrays["chunk_us"] = pa.ListArray.from_arrays(starts, pa.array(_chunk_us(part)))
    arrays["chunk_tokens"] = pa.ListArray.from_arrays(starts, pa.array(part.chunk_tokens))
    return pa.table([arrays[name] for name in COLUMNS], schema=schema)


def _part(log: RequestLog, start: int, stop: int) -> RequestLog:
    """The rows from ``start`` to ``stop`` and their chunks: views, but for the errors."""
    first, last = int(log.chunk_start[start]), int(log.chunk_start[stop])
    chunks = {name: getattr(log, name)[first:last] for name in _OF_CHUNKS}
    rows = {
        each.name: getattr(log, each.name)[start:stop] for each in fields(log) if each.name not in {*_OF_CHUNKS, "chunk_start"}
    }
    return replace(log, chunk_start=log.chunk_start[start : stop + 1] - first, **rows, **chunks)


def _chunk_us(log: RequestLog) -> NDArray[np.int32]:
    since_s = log.chunk_s - np.repeat(log.scheduled_s, np.diff(log.chunk_start))
    return np.clip(np.rint(since_s * 1e6), -_MOST_US, _MOST_US).astype(np.int32)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The Parquet file. Raises ``ConfigError`` naming it when it cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as error:
        code = error.errno if isinstance(error, OSError) else None
        reason = os.strerror(code) if code else "no Parquet file, or not a whole one"
        raise ConfigError(f"the requests cannot be read: {reason}", where=Where(file=str(path))) from None
    with file:
        yield file


def _plain(column: pa.ChunkedArray) -> NDArray[Any]:
    """A column as numpy has it: names as text."""
    import pyarrow as pa

    if not pa.types.is_dictionary(column.type):
        found: NDArray[Any] = column.to_numpy()
        return found
    whole = column.unify_dictionaries().combine_chunks()
    if isinstance(whole, pa.ChunkedArray):  # what combines no chunk at all
        return np.empty(0, dtype=np.str_)
    names: NDArray[np.str_] = np.asarray(whole.dictionary.to_pylist() or [""], dtype=np.str_)
    codes: NDArray[np.int32] = whole.indices.to_numpy()
    return names[codes]


def _flat(column: pa.ChunkedArray) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Where each request's entries start, shape (n + 1,), and all of them."""
    counts = np.concatenate([[0], *(chunk.value_lengths().to_numpy(zero_copy_only=False) for chunk in column.chunks)])
    values = [chunk.flatten().to_numpy() for chunk in column.chunks]
    empty = np.empty(0, dtype=column.type.value_type.to_pandas_dtype())
    return np.cumsum(counts).astype(np.int64), np.concatenate([empty, *values])
