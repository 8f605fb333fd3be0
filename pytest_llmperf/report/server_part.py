"""What the server said of itself, and what the run waited for -> the document's parts, and the lines below the summary."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from pytest_llmperf.judge.bottleneck import bottleneck
from pytest_llmperf.report.answers import bottleneck_name
from pytest_llmperf.report.comparison import title_of
from pytest_llmperf.report.results_v2 import BottleneckPart, ServerPart, ServerSeriesPart, ServerTimesPart

if TYPE_CHECKING:
    from pytest_llmperf.load.records import Floats
    from pytest_llmperf.measure.run import Run
    from pytest_llmperf.measure.server import ServerSeen
    from pytest_llmperf.report.results_v2 import RunDocument

_SHORT = ("queueing", "kv_cache", "prefill", "decode", "client")
"""The kinds that say that something was short."""
_ITS_OWN = {"times", "series"}
"""The fields of the part that do not stand in ``ServerSeen`` as they are."""
_MOST_RUNS = 3
"""Of each kind so many runs are told in full; the results have all."""
_INDENT = "  "


def server_part(run: Run) -> ServerPart | None:
    """The server's side of the run; None where it is not known."""
    if (seen := run.server) is None:
        return None
    return ServerPart(
        **{name: getattr(seen, name) for name in ServerPart.model_fields if name not in _ITS_OWN},
        times={name: ServerTimesPart(**asdict(times)) for name, times in seen.times.items()},
        series=_series(seen),
    )


def bottleneck_part(run: Run) -> BottleneckPart | None:
    """What the run waited for."""
    return BottleneckPart(**asdict(bottleneck(run)))


def bottleneck_lines(documents: Sequence[RunDocument], width: int) -> Iterator[str]:
    """Lines of at most ``width`` for below the summary: one a run of which something was short, those with equal words as one."""
    by_kind: dict[str, list[tuple[RunDocument, str]]] = {}
    for document in documents:
        # Of a client that is not trusted the summary has said so, and why.
        if (part := document.bottleneck) is not None and part.kind in _SHORT and not document.client.distrust:
            by_kind.setdefault(bottleneck_name(part), []).append((document, part.evidence))
    for name, runs in by_kind.items():
        for document, evidence in runs[:_MOST_RUNS]:
            mark = "SIMULATED, " if document.simulated else ""
            said = f"{title_of(document)}: {mark}bottleneck {name}: {evidence}"
            yield from textwrap.wrap(said, width, subsequent_indent=_INDENT)
        if (more := len(runs) - _MOST_RUNS) > 0:
            said = f"bottleneck {name} in {more} more {'run' if more == 1 else 'runs'}"
            yield from textwrap.wrap(said, width, subsequent_indent=_INDENT)


def _series(seen: ServerSeen) -> ServerSeriesPart:
    return ServerSeriesPart(
        at_s=tuple(round(float(at_s), 3) for at_s in seen.at_s),
        values={name: _numbers(value) for name, value in seen.values.items()},
    )


def _numbers(values: Floats) -> tuple[float | None, ...]:
    return tuple(float(f"{value:.6g}") if math.isfinite(value) else None for value in values.tolist())
