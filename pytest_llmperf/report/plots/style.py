"""How every plot looks: one palette, one heading, SIMULATED where it belongs, and files that do not change from run to run."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal

from pytest_llmperf.judge.text import shown
from pytest_llmperf.metrics import METRICS
from pytest_llmperf.report.comparison import title_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pytest_llmperf.report.results_v2 import RunDocument

Format = Literal["png", "svg"]
FORMATS: tuple[Format, ...] = ("png", "svg")

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PURPLE = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
"""Okabe and Ito's palette, whose colours stay apart for every kind of colour vision."""
GREY = "#767676"
INK = "#222222"
PAPER = "#fcfcfc"
"""Opaque: on a dark page a plot is a light card, and no line of it depends on what is behind."""
OUTCOME_COLOURS = {"PASS": GREEN, "FAIL": RED, "INCONCLUSIVE": ORANGE, "INVALID": PURPLE}
SIMULATED = "SIMULATED"
WIDTH_IN = 10.0
_SCREEN_DPI = 100
_HEADING_FONT: Mapping[str, Any] = {"fontsize": 12, "fontweight": "bold"}
_MARK_FONT: Mapping[str, Any] = {"fontsize": 10, "fontweight": "bold"}
_LINE_FONT: Mapping[str, Any] = {"fontsize": 9, "fontweight": "normal"}
_MARGIN = 0.012
"""Of the figure's width."""
_TOP_IN, _HEADING_IN, _LINE_IN, _MARK_GAP_IN = 0.1, 0.26, 0.17, 0.2
_MOST_LINES, _FEWEST_LETTERS = 4, 10
_PATH = re.compile(rb'd="M[^"]*"')
_COORDINATE = re.compile(rb"-?\d+\.\d{3,}")
_RC: dict[Any, Any] = {
    # A name with two dollar signs is a name, not mathematics.
    "text.parse_math": False,
    # Text stays text: a small file, in which a reader can search.
    "svg.fonttype": "none",
    # A figure without a layout of its own has none, whatever a matplotlibrc says.
    "figure.autolayout": False,
    "figure.constrained_layout.use": False,
    # Else every file has other ids for the same picture.
    "svg.hashsalt": "pytest-llmperf",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.labelsize": 9,
    "axes.edgecolor": GREY,
    "axes.facecolor": PAPER,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.fontsize": 8,
    "legend.frameon": True,
    "legend.framealpha": 0.85,
    "legend.edgecolor": "#dddddd",
    "lines.linewidth": 1.5,
}


@contextmanager
def styled() -> Iterator[None]:
    """Within the block matplotlib draws and saves in the one style; afterwards as before."""
    from matplotlib import rc_context

    with rc_context(_RC):
        yield


def new_figure(height_in: float, width_in: float = WIDTH_IN) -> Figure:
    """An empty figure that belongs to nobody: no pyplot, no window, no list of open figures."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in), dpi=_SCREEN_DPI, layout="constrained")


def head(figure: Figure, heading: str, line: str, *, simulated: bool) -> None:
    """The title, what was measured below it, and on a simulated one the word there and across the panels.

    What is too long goes on in further lines, for which the figure grows: the panels keep their size.
    """
    mark = f"{SIMULATED}: no real server was measured" if simulated else ""
    room_in = figure.get_figwidth() * (1 - 2 * _MARGIN)
    left_in = room_in - (_width_in(mark, _MARK_FONT) + _MARK_GAP_IN if mark else 0.0)
    titles, lines = _wrapped(heading, left_in, _HEADING_FONT), _wrapped(line, room_in, _LINE_FONT)
    figure.set_figheight(figure.get_figheight() + _HEADING_IN * (len(titles) - 1) + _LINE_IN * (len(lines) - 1))
    height = figure.get_figheight()
    below_in = _TOP_IN + _HEADING_IN * len(titles)
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(rect=(0, 0, 1, 1 - (below_in + _LINE_IN * len(lines) + _TOP_IN) / height))  # type: ignore[call-arg]
    for i, text in enumerate(titles):
        figure.text(_MARGIN, 1 - (_TOP_IN + _HEADING_IN * i) / height, text, va="top", **_HEADING_FONT)
    for i, text in enumerate(lines):
        figure.text(_MARGIN, 1 - (below_in + _LINE_IN * i) / height, text, va="top", **_LINE_FONT)
    figure.text(1 - _MARGIN, 1 - _TOP_IN / height, mark, color=RED, va="top", ha="right", **_MARK_FONT)
    if simulated:
        for axes in figure.axes:
            axes.text(
                0.5,
                0.5,
                SIMULATED,
                transform=axes.transAxes,
                fontsize=26,
                color=GREY,
                alpha=0.13,
                ha="center",
                va="center",
                rotation=15,
                zorder=0,
                gid="watermark",
            )


def _width_in(text: str, font: Mapping[str, Any]) -> float:
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    properties = FontProperties(size=font["fontsize"], weight=font["fontweight"])
    width, _, _ = TextToPath().get_text_width_height_descent(text, properties, ismath=False)
    return float(width) / 72


def _wrapped(text: str, room_in: float, font: Mapping[str, Any]) -> list[str]:
    """Text in lines that are no wider than there is room; what is longer than the most of them ends with a mark of that."""
    letters = max(int(len(text) * room_in / max(_width_in(text, font), room_in)), 1)
    while True:
        lines = textwrap.wrap(text, letters, max_lines=_MOST_LINES, placeholder=" \u2026")
        if letters <= _FEWEST_LETTERS or all(_width_in(line, font) <= room_in for line in lines):
            return lines
        # Letters are not equally wide: what had many wide ones is tried with fewer.
        letters -= 1 + letters // 20


def head_run(figure: Figure, kind: str, document: RunDocument) -> None:
    """The heading of a plot of one run: its verdict, which is looked for, before what it was."""
    parts = [f"verdict {document.verdict}"] if document.verdict else []
    parts += [document.workload.name, document.profile, title_of(document).partition("[")[0].rpartition("::")[2]]
    parts += [document.label] if document.label else []
    head(figure, f"{kind}: {document.cell.id}", ", ".join(parts), simulated=document.simulated)


def encoded(figure: Figure, form: Format) -> bytes:
    """The figure as a file's content: the same figure gives the same bytes. A PNG has twice the pixels of a screen's."""
    if (engine := figure.get_layout_engine()) is not None:
        # Once for all forms: it is half of the work.
        engine.execute(figure)
        # None, not "none": with that every form would be drawn once more, to lay out what need not be.
        figure.set_layout_engine(None)
    target = BytesIO()
    if form == "svg":
        figure.savefig(target, format="svg", metadata={"Date": None, "Creator": None})
        return _PATH.sub(_shorter, target.getvalue())
    figure.savefig(target, format="png", dpi=2 * _SCREEN_DPI, metadata={"Software": None})
    return target.getvalue()


def _shorter(path: re.Match[bytes]) -> bytes:
    """An SVG's path with coordinates to a hundredth of a point: a millionth, as they are written, doubles the file."""
    return _COORDINATE.sub(lambda number: b"%.2f" % float(number[0]), path[0])


def in_units_of(axis: Literal["x", "y"], axes: Axes, metric: str) -> None:
    """Label an axis' ticks as the registry writes values of a metric: ``50ms``, ``1.2s``."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    chosen = axes.xaxis if axis == "x" else axes.yaxis
    chosen.set_major_formatter(FuncFormatter(lambda value, _: shown(METRICS[metric], value)))
    chosen.set_minor_formatter(NullFormatter())


def say(axes: Axes, text: str) -> None:
    """In place of data: why there are none."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=INK, wrap=True)
    axes.set_xticks([])
    axes.set_yticks([])
