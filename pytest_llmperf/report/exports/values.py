"""What the requests of a run measured, one value a request, for forms that hold more than a document's statistics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pytest_llmperf.load.records import Floats
    from pytest_llmperf.report.results_v2 import RunDocument

_LATENCIES = ("ttft", "tpot", "e2e", "service_ttft", "service_e2e")


@dataclass(frozen=True)
class Values:
    """Of the requests that count and ended well, in order of arrival."""

    latencies: Mapping[str, Floats]
    """By metric, in seconds: without those requests that have no such latency."""
    prompt_tokens: NDArray[Any]
    """Shape (n,), as ``output_tokens`` and ``e2e_s``."""
    output_tokens: NDArray[Any]
    e2e_s: Floats


def values_of(run: RunDocument, directory: Path | None) -> Values | None:
    """The values of a run whose requests lie in ``directory``; None where they do not. Raises ``ConfigError`` for a bad file."""
    from pytest_llmperf.report.storage import REQUESTS

    path = directory / REQUESTS if directory is not None else None
    if path is None or not path.is_file():
        return None
    import numpy as np

    from pytest_llmperf.report.requests_file import read_requests

    latencies = [f"{name}_s" for name in _LATENCIES]
    columns = read_requests(path, ["scheduled_s", "warmup", "outcome", "prompt_tokens", "output_tokens", *latencies])
    scheduled_s = columns["scheduled_s"]
    counted = ~columns["warmup"].astype(np.bool_) & (columns["outcome"] == "OK")
    counted &= (scheduled_s >= run.counted_from_s) & (scheduled_s <= run.timing.window_end_s)
    mine = {name: columns[f"{name}_s"][counted] for name in _LATENCIES}
    return Values(
        latencies={name: values[np.isfinite(values)] for name, values in mine.items()},
        prompt_tokens=columns["prompt_tokens"][counted],
        output_tokens=columns["output_tokens"][counted],
        e2e_s=mine["e2e"],
    )
