"""A comparison as a person reads it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_llmperf.metrics import METRICS, metric_key
from pytest_llmperf.report.comparison_table import comparison_lines, comparison_table
from pytest_llmperf.report.results_v2 import ChangePart, ComparisonPart
from tests.unit.report.compared import compared, document, variant
from tests.unit.report.runs import cell

REGRESSED = """\
baseline 0001_main: REGRESSED (SIMULATED: no real server was measured)
metric           baseline  measured  change  90 % interval  allowed  verdict
TTFT p50             10ms      10ms      0%    -4.5..+4.8%      10%  unchanged
TTFT p95             10ms      10ms      0%    -4.5..+4.8%     (5%)  unchanged
TTFT p99             10ms       inf       -              -     (5%)  regressed
TPOT p50             10ms      12ms    +20%      +15..+26%       5%  regressed
TPOT p95             10ms    10.8ms     +8%     +3.1..+13%      10%  noise
TPOT p99             10ms      10ms      0%    -4.5..+4.8%     (5%)  unchanged
E2E p50              10ms      10ms      0%    -4.5..+4.8%     (5%)  unchanged
E2E p95              10ms      10ms      0%    -4.5..+4.8%     (5%)  unchanged
E2E p99              10ms     260ms     26x        25..27x     (5%)  regressed
output tokens/s      50/s      40/s    -20%      -24..-16%       5%  regressed
requests/s         0.01/s    0.01/s      0%    -4.5..+4.8%     (5%)  unchanged
error rate             0%      1.2%  +1.2pp     +1..+1.4pp    0.5pp  regressed
- fewer than 3 runs on either side: a standard deviation of 2% between runs is
  assumed
- compared: 1 run of this session with 1 run of the baseline
- allowed in brackets: shown only, fails no test
- TTFT p99: so many requests failed that there is no finite value
- TPOT p95: the change is too close to the 10% that are allowed: only many more
  runs would tell
- also differs: env TUNED: unset -> 1"""


def test_the_table_of_a_regression() -> None:
    now = document(
        values={
            "ttft_p99": None,
            "tpot_p50": 0.012,
            "tpot_p95": 0.0108,
            "e2e_p99": 0.26,
            "output_tokens_per_s": 40.0,
            "error_rate": (0.012, 0.011, 0.013),
        },
        of=variant("default", TUNED="1"),
    )
    before = document("a", values={"output_tokens_per_s": 50.0, "error_rate": (0.0, 0.0, 0.0)})
    assert comparison_table(compared(now, before), simulated=True) == REGRESSED


INCOMPARABLE = """\
baseline 0001_main: INCOMPARABLE
- the baseline was measured under other conditions
- hardware: a100 -> h100
- profile: poisson 8/s -> poisson 10/s"""


def test_the_table_of_what_cannot_be_compared() -> None:
    part = compared(document(), document("a", of=cell("a100"), profile="poisson 8/s"))
    assert comparison_table(part, simulated=False) == INCOMPARABLE


def change_part(name: str, **changes: object) -> ChangePart:
    key = metric_key(name)
    plain = ChangePart(
        metric=name,
        title=key.title,
        unit=key.metric.unit.value,
        higher_is_better=key.metric.higher_is_better,
        measured=2.0,
        baseline=1.0,
        ratio=2.0,
        low=1.5,
        high=2.5,
        tolerance="10%",
        gated=True,
        verdict="noise",
        note="",
    )
    return plain.model_copy(update=changes)


def row(change: ChangePart) -> list[str]:
    part = ComparisonPart(baseline="main", runs=(), verdict="noise", changes=(change,), differences={})
    return comparison_table(part, simulated=False).splitlines()[2].removeprefix(change.title).split("  ")


@pytest.mark.parametrize(
    ("change", "change_text", "interval"),
    [
        (change_part("ttft_p99", ratio=1.12, low=1.081, high=1.162), "+12%", "+8.1..+16%"),
        (change_part("ttft_p99", ratio=0.9958, low=0.99, high=1.001), "-0.42%", "-1..+0.1%"),
        (change_part("ttft_p99", ratio=1.00001, low=0.99999, high=1.00001), "0%", "0..0%"),
        (change_part("ttft_p99", ratio=12.3, low=8.0, high=16.0), "12x", "+700%..16x"),
        (change_part("ttft_p99", ratio=2.0, low=1.3, high=None), "+100%", "> +30%"),
        (change_part("ttft_p99", ratio=2.0, low=None, high=2.3), "+100%", "< +130%"),
        (change_part("ttft_p99", ratio=None, low=None, high=None), "-", "-"),
        (
            change_part("ttft_p99", scale="difference", measured=0.25, baseline=0.2, low=-0.01, high=0.11),
            "+50ms",
            "-10ms..+110ms",
        ),
        (change_part("error_rate", scale="difference", measured=0.01, baseline=0.017, low=-0.01, high=0.0), "-0.7pp", "-1..0pp"),
    ],
)
def test_how_a_change_reads(change: ChangePart, change_text: str, interval: str) -> None:
    cells = [cell.strip() for cell in row(change) if cell.strip()]
    assert cells[2:4] == [change_text, interval]


@pytest.mark.parametrize("scale", ["ratio", "difference"])
@pytest.mark.parametrize("build", [lambda value: (value, value), lambda value: (None, value)], ids=["bounded", "without a bound"])
def test_nothing_is_wider_than_80_columns(scale: str, build: Callable[[float], tuple[float | None, float]]) -> None:
    changes = []
    for name in METRICS.values():
        low, high = build(123456.789)
        key = f"{name.name}_p99.99" if name.is_distribution else name.name
        wide = {"measured": 98765.4321, "baseline": 0.000123456, "ratio": 8.1e8, "low": low, "high": high, "scale": scale}
        changes.append(change_part(key, **wide, tolerance="12.5pp", gated=False, verdict="unchanged", note="x " * 80))
    part = ComparisonPart(
        baseline="a-name-of-a-baseline " * 6,
        runs=("a",),
        verdict="noise",
        changes=tuple(changes),
        differences={"env X": "y" * 200},
    )
    table = comparison_table(part, simulated=True)
    assert max(map(len, table.splitlines())) <= 80, table
    assert all(change.title in table for change in changes)


def test_the_lines_of_a_session() -> None:
    now = document(values={"tpot_p50": (0.02, 0.0198, 0.0202)})
    regressed = now.model_copy(update={"comparison": compared(now, document("a"), fail=["tpot_p50:10%"])})
    older = document(test="test_older")
    same = compared(older, document("b", test="test_older")).model_copy(update={"baseline": "0000_main"})
    new = [document(test=f"test_new_{i}") for i in range(5)]
    runs = [
        regressed,
        older.model_copy(update={"comparison": same}),
        document(test="test_alone"),
        *(run.model_copy(update={"comparison": compared(run, document("a"))}) for run in new),
    ]
    lines = list(comparison_lines(runs, 200))
    assert lines[:2] == ["beside baseline 0001_main: 5 new, 1 regressed", "beside baseline 0000_main: 1 unchanged"]
    assert lines[2].startswith(f"  {now.node_id}: TPOT p50 +100%")
    text = " ".join(line.strip() for line in lines[3:])
    assert text == f"new, compared with nothing: {', '.join(run.node_id for run in new[:3])} and 2 more"
    assert list(comparison_lines([document()], 80)) == []
