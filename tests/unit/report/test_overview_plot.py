"""Latency against throughput: the Pareto front, whose runs may be on it, and what the key says of each."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from pytest_llmperf.errors import ConfigError
from pytest_llmperf.report.plots import write_overview_plot
from pytest_llmperf.report.plots.overview import latency_keys, marker_sizes, overview_figure, pareto_front
from pytest_llmperf.report.plots.style import styled
from pytest_llmperf.report.results_v2 import OutcomeName, RunDocument
from tests.unit.report.runs import answered, cell, judged, run_of, workload


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    with styled():
        yield


def at(flow: float, ttft_s: float, verdict: OutcomeName | None = "PASS", run_id: str = "r", count: int = 1) -> RunDocument:
    """A run whose values are these."""
    document = judged(run_of(answered(60), run_id=run_id, of=cell(count=count)), {"ttft": {"p99": "10s"}})
    metrics = dict(document.metrics)
    metrics["output_tokens_per_s"] = metrics["output_tokens_per_s"].model_copy(update={"value": flow})
    metrics["ttft_p99"] = metrics["ttft_p99"].model_copy(update={"value": ttft_s})
    return document.model_copy(update={"metrics": metrics, "verdict": verdict})


def front(figure: Figure, panel: int = 0) -> list[tuple[float, float]]:
    lines = [line for line in figure.axes[panel].get_lines() if str(line.get_label()).startswith("Pareto")]
    return [(float(x), float(y)) for line in lines for x, y in zip(*map(np.asarray, line.get_data()), strict=True)]


def test_front_is_what_no_other_betters() -> None:
    points = [(100.0, 1.0), (200.0, 2.0), (150.0, 3.0), (200.0, 2.5), (50.0, 0.5)]
    assert pareto_front(points) == (4, 0, 1)


def test_front_agrees_with_comparing_every_pair() -> None:
    points = [(float(x), float(y)) for x, y in np.random.default_rng(3).integers(0, 12, (60, 2))]

    def bettered(i: int) -> bool:
        (x, y), others = points[i], (points[j] for j in range(len(points)) if j != i)
        return any(ox >= x and oy <= y and (ox, oy) != (x, y) for ox, oy in others)

    assert set(pareto_front(points)) == {i for i in range(len(points)) if not bettered(i)}


def test_front_of_equal_points_has_them_all_and_none_that_is_not_finite() -> None:
    assert pareto_front([(1.0, 1.0), (1.0, 1.0)]) == (0, 1)
    assert pareto_front([(math.nan, 0.0), (math.inf, 0.0), (2.0, math.inf), (2.0, math.nan), (1.0, 1.0)]) == (4,)
    assert pareto_front([]) == ()


def test_invalid_run_is_marked_and_never_on_the_front() -> None:
    runs = [at(100, 0.1), at(200, 0.2, "FAIL"), at(300, 0.05, "INVALID")]
    figure = overview_figure(runs)
    assert front(figure) == [(100, 0.1), (200, 0.2)]
    numbers = [text.get_text() for text in figure.axes[0].texts]
    assert {"1", "2", "3"} <= set(numbers)
    paths = {np.asarray(collection.get_paths()[0].vertices).tobytes() for collection in figure.axes[0].collections}
    assert len(paths) == 3, "each verdict has a shape of its own"


def test_run_whose_client_is_not_trusted_is_not_on_the_front_either() -> None:
    document = at(300, 0.05, None)
    distrusted = document.model_copy(update={"client": document.client.model_copy(update={"distrust": ("it was late",)})})
    assert front(overview_figure([at(100, 0.1), at(90, 0.2), distrusted])) == [(100, 0.1)]


def test_run_without_a_value_is_in_the_key_alone() -> None:
    figure = overview_figure([at(100, 0.1), at(math.nan, 0.1)])
    assert [text.get_text() for text in figure.axes[0].texts if text.get_text().isdigit()] == ["1"]
    assert "2" in [text.get_text() for text in figure.axes[-1].texts]


def test_cells_of_different_size_are_also_compared_by_accelerator() -> None:
    figure = overview_figure([at(100, 0.1), at(400, 0.1, count=4)])
    assert [axes.get_xlabel() for axes in figure.axes[:-1]] == [
        *["output tokens/s"] * 2,
        *["output tokens/s per accelerator"] * 2,
    ]
    assert front(figure, panel=0) == [(400, 0.1)]
    assert front(figure, panel=2) == [(100, 0.1), (100, 0.1)]


def test_each_workload_has_a_row_of_its_own() -> None:
    runs = [judged(run_of(answered(60), doing=workload(name))) for name in ("chat", "translation")]
    titles = [axes.get_title("left") for axes in overview_figure(runs).axes[:-1]]
    assert titles == ["chat: TTFT p50", "chat: TPOT p95", "translation: TTFT p50", "translation: TPOT p95"]


def test_latencies_are_those_of_the_sla_where_all_runs_have_them() -> None:
    strict = judged(run_of(answered(60)), {"e2e": {"p97.5": "1s"}, "tpot": {"p95": "1s"}})
    assert [key.name for key in latency_keys([strict])] == ["e2e_p97.5", "tpot_p95"]
    assert [key.name for key in latency_keys([strict, at(1, 1)])] == ["ttft_p99", "tpot_p95"]


def test_key_tells_which_number_is_which_run() -> None:
    document = at(1234, 0.1)
    said = [text.get_text() for text in overview_figure([document]).axes[-1].texts]
    for words in ("1", document.cell.id, "interactive-chat", "poisson 10/s", "PASS", "1,234/s"):
        assert words in said


def test_heading_says_which_are_simulated() -> None:
    real = judged(run_of(answered(60), simulated=False))
    said = " ".join(text.get_text() for text in overview_figure([at(1, 1), real]).texts)
    assert "2 runs, 1 of them SIMULATED" in said
    assert "SIMULATED" not in " ".join(text.get_text() for text in overview_figure([real]).texts)


def test_a_hundred_runs_are_drawn_and_the_key_says_how_many_it_leaves_out() -> None:
    figure = overview_figure([at(i + 1, 1 + i / 10) for i in range(100)])
    assert "and 60 more" in [text.get_text() for text in figure.axes[-1].texts]


def test_larger_marks_are_dearer() -> None:
    cheap, dear, unknown = marker_sizes([1.0, 2.0, math.nan])
    assert cheap < unknown < dear
    assert len(set(marker_sizes([1.0, 1.0, math.nan]))) == 1


def test_file_is_what_its_name_says(tmp_path: Path) -> None:
    for name, start in (("o.png", b"\x89PNG"), ("o.svg", b"<?xml")):
        write_overview_plot([at(1, 1)], tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(start)
    with pytest.raises(ConfigError, match=r"Known: \.png, \.svg"):
        write_overview_plot([at(1, 1)], tmp_path / "o.pdf")
