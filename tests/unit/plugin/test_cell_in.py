"""Under xdist a test's cell is read from its id."""

from __future__ import annotations

import pytest

from pytest_llmperf.plugin.xdist import cell_in

SHORT = "gke_h100_standalone_llama-3.1-8b"
LONG = f"{SHORT}_fp8"
DASHED = f"{SHORT}-instruct"
CELLS = (SHORT, LONG, DASHED, "gke_h100x4_standalone_llama-3.1-8b")


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    "form",
    [
        "t.py::test[{}]",
        "t.py::test[{}-7]",
        "t.py::test[7-{}]",
        "suites/t.py::TestIt::test[a-b-{}-c-d]",
        "a[b]/t.py::test[{}]",
        "t.py::test[{}]@{}",
        "t.py::test[x[0]-{}-y]",
    ],
)
def test_the_cell_is_found(cell: str, form: str) -> None:
    assert cell_in(form.format(cell, cell), CELLS) == cell
    assert cell_in(form.format(cell, cell), reversed(CELLS)) == cell


@pytest.mark.parametrize("node_id", ["t.py::test", "t.py::test[7]", f"t.py::test[x{SHORT}]", f"{SHORT}/t.py::test", ""])
def test_there_is_none(node_id: str) -> None:
    assert cell_in(node_id, CELLS) is None
