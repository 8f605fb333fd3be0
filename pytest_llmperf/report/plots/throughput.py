"""``throughput_analysis``: what came out, what went in, and what waited, over time; the client's view and the server's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pytest_llmperf.metrics import METRICS
from pytest_llmperf.report.plots.over_time import end_of, line, middles_s, time_axis
from pytest_llmperf.report.plots.style import BLUE, GREEN, ORANGE, PURPLE, RED, SKY, head_run, new_figure
from pytest_llmperf.units import format_fraction

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pytest_llmperf.report.results_v2 import RunDocument

_PANEL_IN = 2.0
_Panel = Callable[["Axes", "RunDocument"], None]


def throughput_figure(document: RunDocument) -> Figure | None:
    """One panel a quantity that is known; None where the run has no series. To be called within ``styled()``."""
    if document.series is None:
        return None
    panels: list[_Panel] = [_tokens] if has_tokens(document) else []
    panels += [_requests, _in_flight]
    panels += [_kv_cache] if _said(document, "kv_cache_usage") else []
    figure = new_figure(0.9 + _PANEL_IN * len(panels))
    column = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for i, (axes, panel) in enumerate(zip(column, panels, strict=True)):
        panel(axes, document)
        axes.set_ylim(bottom=0)
        time_axis(axes, document, end_of(document), named=i == len(panels) - 1, explained=i == 0)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    head_run(figure, "Throughput", document)
    return figure


def has_tokens(document: RunDocument) -> bool:
    """Whether any token is known of: nobody counts those of some services with an API of their own, and failures have none."""
    series = document.series
    return bool(_said(document, "generation_tokens_per_s")) or (series is not None and any(series.output_tokens_per_s))


def _said(document: RunDocument, name: str) -> Sequence[float | None]:
    """What the server said of itself, sample by sample; empty where it did not."""
    if document.server is None or document.server.series is None:
        return ()
    values = document.server.series.values.get(name, ())
    return values if any(value is not None for value in values) else ()


def _client_line(axes: Axes, document: RunDocument, name: str, label: str, colour: str, style: str = "-") -> None:
    if document.series is not None:
        line(axes, middles_s(document.series), getattr(document.series, name), label, colour, style)


def _server_line(axes: Axes, document: RunDocument, name: str, label: str, colour: str) -> None:
    if (values := _said(document, name)) and document.server is not None and document.server.series is not None:
        at_s = document.server.series.at_s
        if name.endswith("_per_s"):
            # A rate is of the time since the sample before: it stands in the middle of that.
            at_s = tuple((before + at) / 2 for before, at in zip((at_s[0], *at_s), at_s, strict=False))
        line(axes, at_s, values, label, colour, "--")


def _tokens(axes: Axes, document: RunDocument) -> None:
    axes.set_title(METRICS["output_tokens_per_s"].title)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    _client_line(axes, document, "output_tokens_per_s", "arrived", BLUE)
    _server_line(axes, document, "generation_tokens_per_s", "server: generated", ORANGE)


def _requests(axes: Axes, document: RunDocument) -> None:
    axes.set_title(METRICS["request_rate"].title)
    _client_line(axes, document, "sent_per_s", "sent", SKY, "--")
    _client_line(axes, document, "ok_per_s", "ended well", GREEN)
    _client_line(axes, document, "failed_per_s", "failed", RED, ":")


def _in_flight(axes: Axes, document: RunDocument) -> None:
    axes.set_title("requests at once")
    _client_line(axes, document, "in_flight", "in flight", BLUE)
    _server_line(axes, document, "running", "server: running", GREEN)
    _server_line(axes, document, "waiting", "server: waiting", RED)


def _kv_cache(axes: Axes, document: RunDocument) -> None:
    from matplotlib.ticker import FuncFormatter

    axes.set_title("server: KV cache in use")
    _server_line(axes, document, "kv_cache_usage", "of all blocks", PURPLE)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_fraction(value)))
