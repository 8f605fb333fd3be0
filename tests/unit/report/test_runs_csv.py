"""Runs as CSV: one row a run, names and units of the registry, nothing rounded."""

from __future__ import annotations

import csv
import math
from io import StringIO

from pytest_llmperf.metrics import metric_key
from pytest_llmperf.report.results_v2 import RunDocument
from pytest_llmperf.report.runs_csv import runs_csv
from tests.unit.report.runs import answered, judged, run_of


def rows(*documents: RunDocument) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(runs_csv(documents))))


def test_every_metric_has_its_value_and_interval_in_base_units() -> None:
    document = judged(run_of(answered(300)))
    (row,) = rows(document)
    for name, part in document.metrics.items():
        for side, text in (("value", row[name]), ("low", row[f"{name}_low"]), ("high", row[f"{name}_high"])):
            value = getattr(part, side)
            expected = value if value is not None else math.inf if side in part.unbounded else None
            assert (float(text) if text else None) == expected


def test_headings_are_names_of_the_registry() -> None:
    heading = runs_csv([judged(run_of(answered(30)))]).splitlines()[0].split(",")
    metrics = heading[heading.index("bottleneck") + 1 :]
    assert [metric_key(name).name for name in metrics[::3]] == metrics[::3]
    assert metrics[1::3] == [f"{name}_low" for name in metrics[::3]]
    assert len(set(heading)) == len(heading)


def test_row_says_which_run_it_is() -> None:
    (row,) = rows(judged(run_of(answered(300), run_id="r1", profile='stages "a, b"')))
    assert row["run_id"] == "r1"
    assert row["cell"] == "gke_h100_standalone_llama-3.1-8b"
    assert row["profile"] == 'stages "a, b"'
    assert row["simulated"] == "yes"
    assert row["verdict"] == "PASS"
    assert row["requests_ok"] == "300"


def test_metric_that_one_run_alone_has_is_empty_in_the_others() -> None:
    common, extra = judged(run_of(answered(30))), judged(run_of(answered(30)), {"ttft": {"p97.5": "1s"}})
    first, second = rows(common, extra)
    assert first["ttft_p97.5"] == ""
    assert float(second["ttft_p97.5"]) > 0


def test_no_runs_are_a_heading() -> None:
    assert runs_csv([]).count("\n") == 1
