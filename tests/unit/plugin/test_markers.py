"""From markers to a request, from a request to an SLA, and the order of tests: on items that pytest itself has collected."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from pytest_llmperf.errors import ConfigError, Where
from pytest_llmperf.experiment.catalog import builtin_directory, load_catalog
from pytest_llmperf.plugin.cells import Request, cell_of, check_requests, grouped_by_cell, node_id_of, request_of, sla_of

CATALOG = load_catalog([builtin_directory()])
CHAT = CATALOG.workloads["interactive-chat"]
WHERE = Where(file="test_it.py", line=3)
# Specimens: modules that are collected and never run. Their cells are parameters of their own.
HEADER = """\
import pytest
from pytest_llmperf.experiment.catalog import builtin_directory, load_catalog
from pytest_llmperf.experiment.matrix import expand

CATALOG = load_catalog([builtin_directory()])
CELLS = expand(CATALOG.matrix_named("default"), CATALOG)
cells = pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.id)
llmperf = pytest.mark.llmperf
"""

Collect = Callable[[str], list[pytest.Item]]


def items_below(node: pytest.Module | pytest.Class) -> Iterator[pytest.Item]:
    for child in node.collect():
        if isinstance(child, pytest.Class):
            yield from items_below(child)
        elif isinstance(child, pytest.Item):
            yield child


@pytest.fixture
def collect(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Collect:
    """Collects the tests of a specimen's source."""

    def items_of(source: str) -> list[pytest.Item]:
        path = tmp_path / f"specimen_{tmp_path.name}.py"
        path.write_text(HEADER + dedent(source))
        monkeypatch.setattr(sys, "path", [*sys.path])
        module = pytest.Module.from_parent(request.session, path=path)
        items = list(items_below(module))
        monkeypatch.delitem(sys.modules, path.stem)
        return items

    return items_of


def test_the_nearest_marker_wins_key_by_key(collect: Collect) -> None:
    (item,) = collect("""
        pytestmark = llmperf(workload="translation", sla="translation", profile="far")

        @llmperf(workload="agentic", sla="agentic")
        class TestIt:
            @llmperf(sla={"ttft": {"p50": "1s"}})
            def test_it(self):
                pass
    """)
    asked = request_of(item)
    assert (asked.workload, asked.sla, asked.profile) == ("agentic", {"ttft": {"p50": "1s"}}, "far")


def test_no_marker_asks_for_nothing(collect: Collect) -> None:
    (item,) = collect("def test_it():\n    pass\n")
    asked = request_of(item)
    assert (asked.workload, asked.sla, asked.profile) == (None, None, None)
    assert asked.where.file is not None
    assert asked.where.line == len(HEADER.splitlines()) + 1


@pytest.mark.parametrize(
    ("marker", "message"),
    [('"agentic"', "takes keywords only, not 'agentic'"), ("worklod='agentic'", "Did you mean 'workload'?")],
)
def test_a_marker_that_cannot_be_read(collect: Collect, marker: str, message: str) -> None:
    (item,) = collect(f"@llmperf({marker})\ndef test_it():\n    pass\n")
    with pytest.raises(ConfigError, match="marker llmperf") as caught:
        request_of(item)
    assert message in str(caught.value)


def test_the_command_lines_sla_before_the_markers_before_the_workloads() -> None:
    named = Request("interactive-chat", "agentic", None, WHERE)
    inline = Request("interactive-chat", {"ttft": {"p50": "1s"}}, None, WHERE)
    bare = Request("interactive-chat", None, None, WHERE)
    override = "ttft: {p99: 3s}"
    for request in (named, inline, bare):
        assert repr(sla_of(request, CATALOG, CHAT, override)) == "Sla(command line: TTFT p99 <= 3s)"
    assert sla_of(named, CATALOG, CHAT, None) == CATALOG.slas["agentic"]
    assert repr(sla_of(inline, CATALOG, None, None)) == "Sla(inline: TTFT p50 <= 1s)"
    assert sla_of(bare, CATALOG, CHAT, None) == CATALOG.sla_for(CHAT)
    with pytest.raises(ConfigError, match=r"test_it\.py:3: names neither an SLA nor a workload"):
        sla_of(Request(None, None, None, WHERE), CATALOG, None, None)


def test_a_parameters_own_marker_is_checked_too(collect: Collect) -> None:
    items = collect("""
        @cells
        @pytest.mark.parametrize(
            "n", [pytest.param(1, marks=llmperf(workload="agentic")), pytest.param(2, marks=llmperf(workload="no-such"))]
        )
        def test_it(load, cell, n):
            pass
    """)
    with pytest.raises(ConfigError, match="unknown workload 'no-such'"):
        check_requests(items, CATALOG, None)


def test_tests_without_a_cell_may_have_fixtures_of_the_same_names(collect: Collect) -> None:
    items = collect("""
        @pytest.fixture
        def load(): ...
        @pytest.fixture
        def profile(): ...
        def test_it(load, profile):
            pass
    """)
    check_requests(items, CATALOG, None)


def test_each_cells_tests_are_put_together_in_their_order(collect: Collect) -> None:
    items = collect("""
        def test_plain():
            pass

        @cells
        @pytest.mark.parametrize("n", [1, 2])
        def test_one(cell, n):
            pass

        @cells
        def test_two(cell):
            pass

        def test_plain_too():
            pass
    """)
    mixed = sorted(items, key=lambda item: item.name.rpartition("]")[0][::-1])
    grouped = grouped_by_cell(mixed)
    order = [cell.id if (cell := cell_of(item)) else None for item in grouped]
    assert len(grouped) == len(items)
    assert order == sorted(order, key=order.index)
    for group in dict.fromkeys(order):
        members = [item for item in mixed if (cell.id if (cell := cell_of(item)) else None) == group]
        assert [item for item, its in zip(grouped, order, strict=True) if its == group] == members


def test_a_node_id_is_without_xdists_group(collect: Collect) -> None:
    (item,) = collect("@pytest.mark.parametrize('cell', ['a@b'])\ndef test_it(cell):\n    pass\n")
    assert node_id_of(item) == item.nodeid
    assert item.nodeid.endswith("::test_it[a@b]")
