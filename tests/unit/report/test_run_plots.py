"""The two plots of a run: what is drawn in them, where the SLA's limits stand, and what is left out for want of data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from pytest_llmperf.errors import ConfigError
from pytest_llmperf.load.records import Floats
from pytest_llmperf.report.plots import draw_run, requests_in, write_run_plots
from pytest_llmperf.report.plots.latency import latency_figure
from pytest_llmperf.report.plots.samples import COLUMNS, MOST_STEPS, Ecdf, ecdf, latency_ecdfs
from pytest_llmperf.report.plots.style import GREEN, RED, encoded, styled
from pytest_llmperf.report.plots.throughput import throughput_figure
from pytest_llmperf.report.requests_file import read_requests
from pytest_llmperf.report.results_v2 import RunDocument, ServerPart, ServerSeriesPart, SteadinessPart
from tests.unit.measure.logs import Asked, failed, streamed
from tests.unit.report.drawn import stored, warmed_up
from tests.unit.report.runs import answered, judged, run_of

STRICT = {"ttft": {"p50": "210ms", "p95": "250ms"}, "error_rate": "50%"}


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    with styled():
        yield


def curves(directory: Path, document: RunDocument) -> dict[str, Ecdf]:
    return latency_ecdfs(read_requests(directory / "requests.parquet", COLUMNS), document)


def curve_of(*values: Floats) -> Ecdf:
    found = ecdf(np.concatenate(values), failed=0)
    assert found is not None
    return found


def panels(figure: Figure | None) -> dict[str, Axes]:
    """The axes by the beginning of their titles."""
    assert figure is not None
    return {axes.get_title("left").partition(":")[0].partition(",")[0]: axes for axes in figure.axes}


def texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.texts)


def legend(axes: Axes) -> dict[str, object]:
    handles, labels = axes.get_legend_handles_labels()
    return dict(zip(labels, handles, strict=True))


def line_of(axes: Axes, label: str) -> tuple[list[float], list[float], str]:
    (line,) = [line for line in axes.get_lines() if line.get_label() == label]
    xs, ys = line.get_data()
    return list(np.asarray(xs)), list(np.asarray(ys)), to_hex(line.get_color())


def test_ecdf_of_few_values_has_a_step_for_each() -> None:
    found = ecdf(np.array([3.0, 1.0, 2.0]), failed=1)
    assert found is not None
    assert found.x_s.tolist() == [1.0, 2.0, 3.0]
    assert found.share.tolist() == [0.25, 0.5, 0.75]
    assert found.top == 0.75


def test_ecdf_of_many_values_is_nowhere_off_by_more_than_a_step() -> None:
    values = np.random.default_rng(5).lognormal(size=200_000)
    found = ecdf(values, failed=0)
    assert found is not None
    assert len(found.x_s) == MOST_STEPS
    assert (found.x_s[0], found.x_s[-1]) == (values.min(), values.max())
    at = np.quantile(values, np.linspace(0, 1, 5_000))
    true = np.searchsorted(np.sort(values), at, side="right") / len(values)
    drawn = np.concatenate([[0.0], found.share])[np.searchsorted(found.x_s, at, side="right")]
    assert np.abs(true - drawn).max() <= 1 / (MOST_STEPS - 1)


def test_ecdf_of_nothing_is_none_and_of_failures_stays_at_zero() -> None:
    assert ecdf(np.empty(0), failed=0) is None
    found = ecdf(np.empty(0), failed=4)
    assert found is not None
    assert found.top == 0


@pytest.mark.parametrize("name", ["ttft", "tpot", "e2e"])
@pytest.mark.parametrize("statistic", ["p50", "p95"])
def test_curve_crosses_each_quantile_where_the_document_has_it(tmp_path: Path, name: str, statistic: str) -> None:
    directory, document = stored(tmp_path, [*warmed_up(200), *(failed(12 + i / 10) for i in range(5))])
    curve = curves(directory, document)[name]
    first = np.searchsorted(curve.share, float(statistic[1:]) / 100 - 1e-12)
    value = document.metrics[f"{name}_{statistic}"].value
    assert curve.x_s[first] == pytest.approx(value, abs=2e-6)
    assert curve.answered == document.counts.ok
    assert curve.failed == document.counts.failed


def test_lengthened_warmup_is_not_in_the_curves(tmp_path: Path) -> None:
    directory, document = stored(tmp_path, answered(100))
    longer = document.model_copy(update={"steadiness": SteadinessPart(extra_warmup_s=2.95, unstable="")})
    assert curves(directory, longer)["ttft"].answered == 70


def test_limits_stand_at_their_value_and_quantile_in_the_colour_of_their_verdict(tmp_path: Path) -> None:
    directory, _ = stored(tmp_path, answered(100))
    document = judged(run_of(answered(100)), STRICT)
    figure = latency_figure(document, curves(directory, document))
    assert figure is not None
    spread = panels(figure)["TTFT"]
    for label, limit, quantile, colour in (("p50 <= 210ms: met", 0.21, 0.5, GREEN), ("p95 <= 250ms: missed", 0.25, 0.95, RED)):
        xs, _, drawn = line_of(spread, label)
        assert set(xs) == {limit}
        assert drawn == colour.lower()
        marks = [line.get_data() for line in spread.get_lines() if line.get_marker() == "D"]
        assert ([limit], [quantile]) in [(list(np.asarray(x)), list(np.asarray(y))) for x, y in marks]
    low, high = spread.get_xlim()
    assert low < 0.1
    assert high > 0.3


def test_few_that_are_much_faster_do_not_stretch_the_axis() -> None:
    usual = np.linspace(0.008, 0.012, 990)
    figure = latency_figure(judged(run_of(answered(30)), {"e2e": {"p50": "1s"}}), {"tpot": curve_of(usual, np.full(10, 8e-5))})
    spread = panels(figure)["TPOT"]
    assert spread.get_xscale() == "linear"
    slow = latency_figure(judged(run_of(answered(30)), {"e2e": {"p50": "1s"}}), {"tpot": curve_of(usual, usual * 20)})
    assert panels(slow)["TPOT"].get_xscale() == "log"


def test_heading_names_cell_workload_profile_and_simulated(tmp_path: Path) -> None:
    directory, document = stored(tmp_path, answered(50))
    for figure in (latency_figure(document, curves(directory, document)), throughput_figure(document)):
        assert figure is not None
        said = texts(figure)
        for words in (document.cell.id, "interactive-chat", "poisson 10/s", "SIMULATED"):
            assert words in said
        assert all(any(text.get_gid() == "watermark" for text in axes.texts) for axes in figure.axes)


def test_real_run_is_not_called_simulated(tmp_path: Path) -> None:
    directory, document = stored(tmp_path, answered(50), simulated=False)
    drawn = draw_run(document, requests_in(directory), ["svg"])
    assert drawn.files
    assert not any(b"SIMULATED" in content for content in drawn.files.values())


def test_failures_are_told_and_keep_the_curve_below_one(tmp_path: Path) -> None:
    directory, document = stored(tmp_path, answered(90, failures=10))
    figure = latency_figure(document, curves(directory, document))
    spread = panels(figure)["E2E"]
    assert "10 of 100 failed: never answered" in legend(spread)
    _, ys, _ = line_of(spread, "E2E of 90 requests")
    assert max(ys) == pytest.approx(0.9)


def test_course_is_the_series_and_the_warmup_is_shaded() -> None:
    run = run_of(warmed_up(100))
    document = judged(run)
    moved = document.model_copy(update={"timing": document.timing.model_copy(update={"window_start_s": 1.0})})
    figure = latency_figure(moved, None)
    course = panels(figure)["TTFT over time"]
    assert document.series is not None
    xs, ys, _ = line_of(course, "TTFT p99")
    assert ys == pytest.approx([np.nan if v is None else v for v in document.series.ttft_p99_s], nan_ok=True)
    assert xs[0] == document.series.start_s + document.series.step_s / 2
    assert "warm-up, not counted" in legend(course)
    shade = legend(course)["warm-up, not counted"]
    assert shade.get_extents().x1 == pytest.approx(course.transData.transform((1.0, 0))[0])  # type: ignore[attr-defined]


def test_throughput_shows_both_sides_where_the_server_spoke() -> None:
    said = ServerSeriesPart(
        at_s=(0.0, 1.0, 2.0),
        values={
            "running": (1.0, 2.0, 3.0),
            "waiting": (0.0, None, 1.0),
            "kv_cache_usage": (0.1, 0.2, 0.3),
            "generation_tokens_per_s": (None, 5.0, 6.0),
        },
    )
    document = judged(run_of(answered(50))).model_copy(update={"server": ServerPart(source="metrics", samples=3, series=said)})
    found = panels(throughput_figure(document))
    assert list(found) == ["output tokens/s", "requests/s", "requests at once", "server"]
    assert set(legend(found["requests/s"])) == {"sent", "ended well", "failed"}
    assert {"in flight", "server: running", "server: waiting"} <= set(legend(found["requests at once"]))
    _, ys, _ = line_of(found["requests at once"], "server: waiting")
    assert ys == pytest.approx([0.0, np.nan, 1.0], nan_ok=True)
    xs, _, _ = line_of(found["output tokens/s"], "server: generated")
    assert xs[1:] == [0.5, 1.5], "a rate is of the time before its sample"


def test_without_tokens_there_is_no_panel_of_tokens() -> None:
    asked = [Asked(i / 10, end_s=i / 10 + 0.2, output_tokens=0) for i in range(50)]
    document = judged(run_of(asked), {"e2e": {"p50": "1s"}})
    assert "output tokens/s" not in panels(throughput_figure(document))


def test_what_was_not_streamed_has_e2e_alone(tmp_path: Path) -> None:
    asked = [Asked(i / 10, end_s=i / 10 + 0.2, output_tokens=5) for i in range(50)]
    directory, document = stored(tmp_path, asked)
    assert set(panels(latency_figure(document, curves(directory, document)))) == {"E2E", "E2E over time"}


def test_run_of_nothing_but_failures_is_drawn(tmp_path: Path) -> None:
    directory, document = stored(tmp_path, [failed(i / 10) for i in range(30)])
    figure = latency_figure(document, curves(directory, document))
    assert "30 of 30 failed: never answered" in legend(panels(figure)["E2E"])
    assert [text.get_text() for text in panels(figure)["E2E over time"].texts if not text.get_gid()] == ["no request ended well"]
    assert len(write_run_plots(directory)) == 4


def test_files_are_written_and_are_the_same_each_time(tmp_path: Path) -> None:
    directory, _ = stored(tmp_path, answered(60))
    paths = write_run_plots(directory)
    assert [path.name for path in paths] == [
        "latency_analysis.png",
        "latency_analysis.svg",
        "throughput_analysis.png",
        "throughput_analysis.svg",
    ]
    before = [path.read_bytes() for path in paths]
    assert before[0].startswith(b"\x89PNG")
    assert b"TTFT over time" in before[1]
    assert [path.read_bytes() for path in write_run_plots(directory)] == before


def test_without_requests_what_went_over_time_is_drawn(tmp_path: Path) -> None:
    directory, document = stored(tmp_path, answered(60))
    (directory / "requests.parquet").unlink()
    drawn = draw_run(document, requests_in(directory), ["svg"])
    assert set(drawn.files) == {"latency_analysis.svg", "throughput_analysis.svg"}
    assert drawn.missing == ("how the latencies are spread: the run's requests were not kept",)
    assert b"share of requests" not in drawn.files["latency_analysis.svg"]


def test_run_of_an_older_version_has_no_plots_and_it_is_told_why() -> None:
    document = judged(run_of([streamed(0.1, 0.1)])).model_copy(update={"series": None})
    drawn = draw_run(document, None)
    assert drawn.files == {}
    assert len(drawn.missing) == 2


def test_names_with_dollar_signs_are_names(tmp_path: Path) -> None:
    directory, document = stored(tmp_path, answered(30))
    odd = document.model_copy(update={"profile": r"$\frac{1}{ $ a<b> & $x"})
    drawn = draw_run(odd, requests_in(directory), ["svg"])
    assert rb"$\frac{1}{ $ a&lt;b&gt; &amp; $x" in drawn.files["latency_analysis.svg"]


@pytest.mark.parametrize("simulated", [True, False])
@pytest.mark.parametrize("letters", ["gke_h100-mig-3g.40gbx8_standalone_llama-405b_", "WWW_MMM_", "iiii"])
def test_long_names_go_on_in_further_lines(letters: str, simulated: bool) -> None:
    plain = judged(run_of(answered(60), simulated=simulated))
    name = (letters * 30)[:90]
    named = {"cell": plain.cell.model_copy(update={"id": name}), "profile": "stages 1/s for 10m, " * 9}
    usual, figure = (throughput_figure(each) for each in (plain, plain.model_copy(update=named)))
    assert usual is not None
    assert figure is not None
    # The figures differ in height, not in that of their panels.
    grown_in = figure.get_figheight() - usual.get_figheight()
    assert grown_in > 0
    for each in (usual, figure):
        encoded(each, "svg")
    heights = [each.axes[0].get_position().height * each.get_figheight() for each in (usual, figure)]
    assert heights[1] == pytest.approx(heights[0], rel=0.02)
    # As a screen draws it: an SVG has fewer dots to an inch.
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]  # matplotlib gives it none
    boxes = [text.get_window_extent(renderer) for text in figure.texts if text.get_text()]
    page = figure.bbox
    assert all(page.x0 <= box.x0 and box.x1 <= page.x1 and box.y1 <= page.y1 for box in boxes)
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])
    assert name in texts(figure).replace("\n", "")


def test_the_verdict_stands_first_below_the_heading() -> None:
    figure = throughput_figure(judged(run_of(answered(60)), STRICT))
    assert figure is not None
    assert figure.texts[1].get_text().startswith("verdict FAIL, interactive-chat, poisson 10/s")


def test_directory_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"run\.json: cannot be read: No such file"):
        write_run_plots(tmp_path)
