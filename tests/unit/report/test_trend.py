"""The history of the saved sessions: what is one history, what changed, and what is not compared."""

from __future__ import annotations

import math
from datetime import UTC
from pathlib import Path

import pytest

from pytest_llmperf.metrics import MetricKey, metric_key
from pytest_llmperf.report.commit import Commit
from pytest_llmperf.report.saved import Saved, saved_sessions
from pytest_llmperf.report.tables import render_text
from pytest_llmperf.report.trend import DEFAULT_KEYS, change_shown, course, histories, trend_table
from tests.unit.report.stored import CONDITIONS, measured, save

TTFT, ERRORS = metric_key("ttft_p50"), metric_key("error_rate")


def table(sessions: list[Saved], width: int) -> str:
    return render_text(trend_table(histories(sessions), DEFAULT_KEYS, width, UTC), width)


def a_history(storage: Path) -> list[Saved]:
    save(storage, "main", measured(), commit=Commit("a1b2c3d4" * 5, dirty=False))
    save(storage, "main", measured(1.1), days=1, commit=Commit("b2c3d4e5" * 5, dirty=True))
    save(storage, "main", measured(1.1, engine="vLLM 0.33.0"), days=2)
    save(storage, "main", measured(0.5, conditions={**CONDITIONS, "engine max-num-seqs": "256"}), days=3)
    return saved_sessions(storage)


AT_80 = """\
suites/test_chat.py::test_meets_sla[gke_h100_standalone_llama-3.1-8b]
 (SIMULATED)
no.  saved            commit       TTFT p50   TTFT p99  TPOT p50 output tokens/s
0001 2025-06-15 15:06 a1b2c3d4   195ms      300ms      20ms         29.8/s
0002 2025-06-16 15:06 b2c3d4e5*  214ms +10% 330ms +10% 22ms +10%    29.7/s -0.2%
0003 2025-06-17 15:06 -          214ms   0% 330ms   0% 22ms   0%    29.7/s    0%
0004 2025-06-18 15:06 -         97.4ms      150ms      10ms         29.9/s
no.   saved             commit     error rate
0001  2025-06-15 15:06  a1b2c3d4       0%
0002  2025-06-16 15:06  b2c3d4e5*      0% 0pp
0003  2025-06-17 15:06  -              0% 0pp
0004  2025-06-18 15:06  -              0%
0003: engine version vLLM 0.32.0 -> vLLM 0.33.0
0004: not comparable with the one before: engine max-num-seqs 128 -> 256
TTFT p50         |*##|_|  97.4ms..214ms
TTFT p99         |*##|_|  150ms..330ms
TPOT p50         |*##|_|  10ms..22ms
output tokens/s  |___|_|  29.7/s..29.9/s
error rate       |___|_|  0%
"""

AT_120 = """\
suites/test_chat.py::test_meets_sla[gke_h100_standalone_llama-3.1-8b] (SIMULATED)
no.   saved             commit        TTFT p50    TTFT p99   TPOT p50  output tokens/s  error rate
0001  2025-06-15 15:06  a1b2c3d4    195ms       300ms       20ms          29.8/s            0%
0002  2025-06-16 15:06  b2c3d4e5*   214ms +10%  330ms +10%  22ms +10%     29.7/s -0.2%      0% 0pp
0003  2025-06-17 15:06  -           214ms   0%  330ms   0%  22ms   0%     29.7/s    0%      0% 0pp
0004  2025-06-18 15:06  -          97.4ms       150ms       10ms          29.9/s            0%
0003: engine version vLLM 0.32.0 -> vLLM 0.33.0
0004: not comparable with the one before: engine max-num-seqs 128 -> 256
"""


def test_at_80_columns(tmp_path: Path) -> None:
    assert table(a_history(tmp_path), 80) == AT_80


def test_at_120_columns(tmp_path: Path) -> None:
    assert table(a_history(tmp_path), 120).startswith(AT_120)


@pytest.mark.parametrize("width", [60, 79, 80, 81, 100, 120, 200])
def test_no_line_is_wider_than_the_terminal(tmp_path: Path, width: int) -> None:
    text = render_text(trend_table(histories(a_history(tmp_path)), DEFAULT_KEYS, width, UTC), 300)
    assert max(map(len, text.splitlines())) <= width
    assert all(key.title in text for key in DEFAULT_KEYS)


def test_one_history_a_test_and_cell_simulated_and_measured_apart(tmp_path: Path) -> None:
    save(tmp_path, "main", measured(), measured(hardware="l40s"), measured(test="test_other"))
    save(tmp_path, "main", measured(hardware="l40s"), measured(simulated=False))
    found = [(h.title, h.simulated, [p.saved.number for p in h.points]) for h in histories(saved_sessions(tmp_path))]
    chat = "suites/test_chat.py::"
    assert found == [
        (f"{chat}test_meets_sla[gke_h100_standalone_llama-3.1-8b]", True, [1]),
        (f"{chat}test_meets_sla[gke_l40s_standalone_llama-3.1-8b]", True, [1, 2]),
        (f"{chat}test_other[gke_h100_standalone_llama-3.1-8b]", True, [1]),
        (f"{chat}test_meets_sla[gke_h100_standalone_llama-3.1-8b]", False, [2]),
    ]


def test_parameters_of_a_test_are_histories_of_their_own(tmp_path: Path) -> None:
    for scale in (1.0, 1.1):
        runs = [measured(scale * slow, run_id=f"{slow}-{i}") for slow in (1, 2) for i in (1, 2)]
        named = [f"suites/test_chat.py::test_cold[{run.cell.id}-run{run.run_id[2:]}of2-{run.run_id[0]}s]" for run in runs]
        save(tmp_path, "main", *(r.model_copy(update={"node_id": n}) for r, n in zip(runs, named, strict=True)))
    found = histories(saved_sessions(tmp_path))
    cold = "suites/test_chat.py::test_cold[gke_h100_standalone_llama-3.1-8b"
    assert [(history.title, [len(point.runs) for point in history.points]) for history in found] == [
        (f"{cold}-1s]", [2, 2]),
        (f"{cold}-2s]", [2, 2]),
    ]


def test_a_session_that_says_nothing_of_its_conditions_is_told_once(tmp_path: Path) -> None:
    save(tmp_path, "main", measured().model_copy(update={"fingerprint": {}, "context": {}}))
    save(tmp_path, "main", measured())
    text = table(saved_sessions(tmp_path), 200)
    assert "0002: perhaps not comparable with the one before: the document says nothing of the conditions" in text
    assert "unset" not in text


def test_runs_that_differ_in_load_or_place_are_told_apart(tmp_path: Path) -> None:
    run = measured()
    runs = [
        run,
        run.model_copy(update={"profile": "poisson 20/s"}),
        run.model_copy(update={"ordinal": 2}),
        run.model_copy(update={"label": "8/s"}),
    ]
    save(tmp_path, "main", *runs)
    titles = [history.title.partition("]")[2] for history in histories(saved_sessions(tmp_path))]
    assert titles == [" interactive-chat poisson 10/s", " interactive-chat poisson 20/s", " #2", " 8/s"]


def test_what_the_engine_was_told_is_a_remark_where_both_sessions_say_it(tmp_path: Path) -> None:
    run = measured()
    for told in ({}, {"argument seed": "1"}, {"argument seed": "2"}):
        save(tmp_path, "main", run.model_copy(update={"context": {**run.context, **told}}))
    text = table(saved_sessions(tmp_path), 120)
    assert "0002:" not in text
    assert "0003: argument seed 1 -> 2" in text


def test_repetitions_count_by_their_median(tmp_path: Path) -> None:
    save(tmp_path, "main", *(measured(scale, run_id=str(scale)) for scale in (1.0, 1.2, 9.0)))
    (history,) = histories(saved_sessions(tmp_path))
    (point,) = history.points
    assert point.value(TTFT) == pytest.approx(1.2 * 0.1947, rel=1e-3)
    lines = table(saved_sessions(tmp_path), 120).splitlines()
    assert lines[1].split()[:4] == ["no.", "saved", "commit", "runs"]
    assert lines[2].split()[:5] == ["0001", "2025-06-15", "15:06", "-", "3"]


def test_several_names_are_shown_where_a_pattern_took_them(tmp_path: Path) -> None:
    save(tmp_path, "main", measured())
    save(tmp_path, "pr-7", measured())
    lines = table(saved_sessions(tmp_path), 120).splitlines()
    assert lines[1].startswith("no. and name  saved")
    assert [line.split()[0] for line in lines[2:4]] == ["0001_main", "0002_pr-7"]


def test_a_metric_that_no_run_has_is_a_dash(tmp_path: Path) -> None:
    save(tmp_path, "main", measured())
    text = render_text(trend_table(histories(saved_sessions(tmp_path)), [metric_key("itl_p12")], 80, UTC), 80)
    assert text.splitlines()[-1].split() == ["0001", "2025-06-15", "15:06", "-", "-"]


@pytest.mark.parametrize(
    ("key", "value", "before", "text"),
    [
        (TTFT, 0.11, 0.1, "+10%"),
        (TTFT, 0.0995, 0.1, "-0.5%"),
        (TTFT, 0.10001, 0.1, "0%"),
        (TTFT, math.inf, 0.1, ""),
        (TTFT, 0.1, math.nan, ""),
        (TTFT, 0.1, 0.0, ""),
        (ERRORS, 0.012, 0.01, "+0.2pp"),
        (ERRORS, 0.0, 0.01, "-1pp"),
        (ERRORS, 0.0, 0.0, "0pp"),
    ],
)
def test_change(key: MetricKey, value: float, before: float, text: str) -> None:
    assert change_shown(key, value, before) == text


@pytest.mark.parametrize(
    ("values", "apart", "line"),
    [
        ([1, 2, 3, 4, 5, 6, 7], (), "_.-=+*#"),
        ([100, 101, 100.5], (), "___"),
        ([100, 125, 100], (), "_#_"),
        ([1, math.inf, math.nan, 2], (), "_! #"),
        ([math.inf, math.inf], (), "!!"),
        ([0, 0], (), "__"),
        ([1, 2, 1], (1,), "_|#_"),
    ],
)
def test_course(values: list[float], apart: tuple[int, ...], line: str) -> None:
    assert course(values, [i in apart for i in range(len(values))]) == line
