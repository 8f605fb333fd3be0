"""Labels of runs: as short as they can be, and no two alike."""

from __future__ import annotations

import pytest

from pytest_llmperf.report.results_v2 import RunDocument
from pytest_llmperf.report.rows import load_texts, row_groups, test_labels
from tests.unit.report.runs import answered, cell, judged, run_of

H100, L4 = cell("h100"), cell("l4")


def run(parameters: str = "{cell}", *, file: str = "test_a.py", of: str = "h100", **changed: object) -> RunDocument:
    where = {"h100": H100, "l4": L4}[of]
    document = judged(run_of(answered(3), of=where))
    node_id = f"suites/{file}::test_it[{parameters.format(cell=where.id)}]"
    return document.model_copy(update={"node_id": node_id, "test": "test_it", **changed})


@pytest.mark.parametrize(
    ("runs", "labels"),
    [
        ([run(), run(of="l4")], ["test_it", "test_it"]),
        ([run("{cell}-short"), run("{cell}-long")], ["test_it[short]", "test_it[long]"]),
        (
            [run("a-{cell}-run1of2-b"), run("a-{cell}-run2of2-b"), run("a-{cell}-run1of2-c")],
            ["test_it[a-b] #1", "test_it[a-b] #2", "test_it[a-c]"],
        ),
        # Another column has the load.
        ([run(), run(profile="poisson 20/s")], ["test_it", "test_it"]),
        ([run(label="4/s"), run(label="8/s")], ["test_it", "test_it"]),
        ([run(), run()], ["test_it #1", "test_it #2"]),
        ([run(), run(file="test_b.py")], ["test_it suites/test_a.py", "test_it suites/test_b.py"]),
        ([], []),
    ],
)
def test_beside_columns_for_cell_and_load(runs: list[RunDocument], labels: list[str]) -> None:
    assert test_labels(runs) == labels


def test_a_load_has_its_label_once() -> None:
    sweep = [run(profile="poisson 5/s", label="5/s"), run(profile="poisson 15/s", label="15/s")]
    assert load_texts(sweep) == ["poisson 5/s", "poisson 15/s"]
    assert load_texts([run(profile="concurrency 8", label="concurrency 8")]) == ["concurrency 8"]
    assert load_texts([run(profile="gamma 5/s, burstiness 2", label="5/s")]) == ["gamma 5/s, burstiness 2"]
    assert load_texts([run(profile="poisson 15/s", label="5/s")]) == ["poisson 15/s 5/s"]
    assert load_texts([run(label="A 1 of 8"), run()]) == ["poisson 10/s A 1 of 8", "poisson 10/s"]


def test_a_label_stays_where_it_tells_runs_of_a_test_apart() -> None:
    runs = [run(profile="poisson 5/s", label="5/s"), run(profile="poisson 5/s")]
    assert load_texts(runs) == ["poisson 5/s 5/s", "poisson 5/s"]
    assert test_labels(runs) == ["test_it", "test_it"]
    # Of another test it needs no label to be told from.
    assert load_texts([runs[0], run(file="test_b.py", profile="poisson 5/s")]) == ["poisson 5/s", "poisson 5/s"]
    # Two probes at one rate are told apart by their order.
    assert test_labels([runs[0], runs[0]]) == ["test_it #1", "test_it #2"]


def labels_of(runs: list[RunDocument], group_by: str = "cell") -> list[str]:
    (group,) = row_groups(runs, group_by, None)
    return [row.label for row in group.rows]


def test_in_the_summary_a_tests_parameters_tell_it_apart() -> None:
    runs = [run("{cell}-short"), run("{cell}-long", profile="poisson 20/s")]
    assert labels_of(runs) == ["test_it[short]", "test_it[long]"]
    assert labels_of(runs, "test") == [f"{H100.id}[short]", f"{H100.id}[long]"]
    assert labels_of([run(label="4/s"), run(label="8/s")]) == ["test_it 4/s", "test_it 8/s"]
    assert labels_of([run(), run(profile="poisson 20/s")]) == ["test_it poisson 10/s", "test_it poisson 20/s"]
