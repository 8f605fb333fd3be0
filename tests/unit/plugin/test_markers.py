"""From markers to a request, from a request to an SLA, and the order of tests: on items that pytest itself has collected."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from pytest_llmperf.errors import ConfigError, Where
from pytest_llmperf.experiment.catalog import builtin_directory, load_catalog
from pytest_llmperf.experiment.matrix import expand
from pytest_llmperf.experiment.sla import Gate
from pytest_llmperf.plugin.asserted import LlmperfWarning
from pytest_llmperf.plugin.cells import (
    Request,
    cell_of,
    check_requests,
    grouped_by_cell,
    node_id_of,
    request_of,
    sla_given,
    sla_of,
)

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


OVERRIDDEN: dict[str, object] = {
    "ttft": {"p99": {"target": "1s", "acceptable": "2s"}},
    "hardware": {"h100": {"ttft": {"p99": {"target": "300ms", "acceptable": "400ms"}}}},
    "cells": {"gke_a100-80gb_standalone_llama-3.1-8b": {"ttft": {"p99": "800ms"}}},
}
OVERRIDDEN_TEXT = str(OVERRIDDEN)  # A flow mapping of YAML too.


@pytest.mark.parametrize("gate", ["target", "acceptable"])
@pytest.mark.parametrize("inline", [True, False], ids=["marker", "command line"])
def test_an_sla_is_as_it_is_for_the_cell_at_the_gate(inline: bool, gate: Gate) -> None:
    request = Request("interactive-chat", OVERRIDDEN if inline else None, None, WHERE)
    found = {
        cell.id if cell else None: sla_of(request, CATALOG, CHAT, None if inline else OVERRIDDEN_TEXT, cell, gate)
        for cell in (None, *expand(CATALOG.matrix_named("default"), CATALOG))
    }
    expected = {
        None: (1.0, 2.0),
        "gke_h100_standalone_llama-3.1-8b": (0.3, 0.4),
        "gke_a100-80gb_standalone_llama-3.1-8b": (0.8, 0.8),
        "eks_l40s_standalone_llama-3.1-8b": (1.0, 2.0),
    }
    assert {name: sla.thresholds[0].limit for name, sla in found.items()} == {
        name: limits[gate == "acceptable"] for name, limits in expected.items()
    }
    assert {sla.gate for sla in found.values()} == {gate}
    assert {name for name, sla in found.items() if sla.overrides} == {None}


@pytest.mark.parametrize(
    ("document", "key", "message"),
    [
        ({"ttft": {"p99": {"target": "1s", "poor": "1s"}}}, "ttft.p99.poor", "'poor' (1s) must be laxer than 'target' (1s)"),
        ({"error_rate": 1}, "error_rate", "'1' may be a percentage or a fraction: write '1%' or 0.01"),
        ({"ttft": {"p9": "1s"}}, "ttft.p9", "p9 is reached by the fastest requests alone; did you mean 'p90' or 'p99'?"),
        (
            {"goodput": {"min": "9%", "within": {"itl": "1s"}}},
            "goodput.within.itl",
            "unknown latency of a request 'itl' (known: ttft, tpot, e2e, service_ttft, service_e2e)",
        ),
        (
            {"error_rate": 0, "hardware": {"h100": {"ttft": {"p50": "9"}}}},
            "hardware.h100.ttft.p50",
            "'9' has no unit; a duration",
        ),
    ],
)
def test_a_bad_sla_is_told_with_its_key(document: dict[str, object], key: str, message: str) -> None:
    request = Request("interactive-chat", document, None, Where(file="test_it.py", line=3, key="marker llmperf"))
    with pytest.raises(ConfigError) as caught:
        sla_of(request, CATALOG, CHAT, None)
    assert str(caught.value).startswith(f"test_it.py:3: marker llmperf.{key}: {message}")
    with pytest.raises(ConfigError) as caught:
        sla_of(request, CATALOG, CHAT, str(document))
    assert str(caught.value).startswith(f"--llmperf-sla: {message}")
    assert str(caught.value).endswith(f"\n  At {key}.")


@pytest.mark.parametrize(
    ("overrides", "key", "message"),
    [
        ({"hardware": {"h101": {"error_rate": 0}}}, "hardware.h101", "unknown hardware 'h101'\n  Did you mean 'h100'?"),
        (
            {"cells": {"gke_h100_standalone_llama-3.1-9b": {"error_rate": 0}}},
            "cells.gke_h100_standalone_llama-3.1-9b",
            "unknown cell 'gke_h100_standalone_llama-3.1-9b': no matrix of the catalog has it\n"
            "  Did you mean 'gke_h100_standalone_llama-3.1-8b'?",
        ),
    ],
)
def test_an_override_of_what_does_not_exist(overrides: dict[str, object], key: str, message: str) -> None:
    document = {"error_rate": 0, **overrides}
    request = Request("interactive-chat", document, None, Where(file="test_it.py", line=3, key="marker llmperf"))
    with pytest.raises(ConfigError) as caught:
        sla_of(request, CATALOG, CHAT, None)
    assert str(caught.value).startswith(f"test_it.py:3: marker llmperf.{key}: {message}")
    with pytest.raises(ConfigError) as caught:
        sla_of(request, CATALOG, CHAT, str(document))
    assert str(caught.value).startswith(f"--llmperf-sla: {message}")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("{ttft", "did not find expected ',' or '}'"),
        ("ttft: {p99: 1s, p99: 2s}", "the key is given twice (first on line 1)"),
    ],
)
def test_a_command_lines_sla_that_is_no_yaml(text: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        sla_of(Request(None, None, None, WHERE), CATALOG, None, text)
    assert str(caught.value) == f"--llmperf-sla: not YAML: {text!r}\n  {hint}"


def test_an_override_that_does_not_exist_ends_the_session_before_a_deployment(collect: Collect) -> None:
    items = collect("""
        @cells
        @llmperf(workload="agentic", sla={"error_rate": "1%", "hardware": {"h10": {"error_rate": "2%"}}})
        def test_it(load, cell, sla):
            pass
    """)
    with pytest.raises(ConfigError, match="unknown hardware 'h10'"):
        check_requests(items, CATALOG, None)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ('sla="agentci"', r"unknown SLA 'agentci'\n  Did you mean 'agentic'\?"),
        ('sla={"tfft": {"p99": "1s"}}', "marker llmperf.tfft.p99: unknown metric 'tfft'"),
        ('profile="saok"', "unknown load profile 'saok'"),
        ('workload="agentci"', "unknown workload 'agentci'"),
    ],
)
@pytest.mark.parametrize("fixtures", ["load, cell", "cell", "cell, sla"])
def test_what_is_given_is_checked_whether_or_not_the_test_uses_it(
    collect: Collect, given: str, problem: str, fixtures: str
) -> None:
    items = collect(f"""
        pytestmark = llmperf(workload="agentic")

        @llmperf({given})
        class TestIt:
            @cells
            def test_it(self, {fixtures}):
                pass
    """)
    with pytest.raises(ConfigError, match=problem):
        check_requests(items, CATALOG, None)
    if "sla" in given:
        # Also where the command line's takes its place.
        with pytest.raises(ConfigError, match=problem):
            check_requests(items, CATALOG, "ttft: {p99: 1s}")


def test_the_command_lines_sla_is_checked_where_no_test_asks_for_one(collect: Collect) -> None:
    items = collect("@cells\ndef test_it(cell):\n    pass\n")
    check_requests(items, CATALOG, "ttft: {p99: 1s}")
    with pytest.raises(ConfigError, match="--llmperf-sla: unknown metric 'tfft'; did you mean 'ttft'"):
        check_requests(items, CATALOG, "tfft: {p99: 1s}")


IDLE = """
    @cells
    @llmperf(workload="agentic", sla="agentic")
    def test_it(load, cell):
        pass
"""


def test_an_sla_on_a_test_that_does_not_ask_for_it_is_told_once(collect: Collect) -> None:
    with pytest.warns(LlmperfWarning) as told:
        check_requests(collect(IDLE), CATALOG, None)
    assert [str(warning.message) for warning in told] == ["sla= asserts nothing: the test does not ask for the fixture sla"]


@pytest.mark.filterwarnings("error")
def test_a_test_with_request_may_ask_for_its_sla_while_it_runs(collect: Collect) -> None:
    check_requests(collect(IDLE.replace("load, cell", "load, cell, request")), CATALOG, None)


@pytest.mark.filterwarnings("error")
def test_an_idle_sla_is_a_usage_error_where_warnings_are(collect: Collect) -> None:
    with pytest.raises(ConfigError, match="marker llmperf: sla= asserts nothing"):
        check_requests(collect(IDLE), CATALOG, None)


@pytest.mark.filterwarnings("error")
def test_an_sla_for_a_module_or_class_need_not_be_asked_for_by_every_test(collect: Collect) -> None:
    items = collect("""
        pytestmark = llmperf(workload="agentic", sla="agentic")

        @llmperf(sla="translation")
        class TestIt:
            @cells
            def test_it(self, load, cell):
                pass

            @cells
            @llmperf(sla="agentic")
            def test_too(self, load, cell, sla):
                pass
    """)
    check_requests(items, CATALOG, None)


def test_a_test_may_give_an_sla_as_limits_or_by_name() -> None:
    where = Where(key="run.meets()")
    named = sla_given("interactive-chat", where, catalog=CATALOG)
    assert named == CATALOG.slas["interactive-chat"]
    assert sla_given(named, where, catalog=CATALOG, gate="acceptable") is named
    assert sla_given("interactive-chat", where, catalog=CATALOG, gate="acceptable") == named.at("acceptable")
    inline = sla_given(OVERRIDDEN, where, catalog=CATALOG, gate="acceptable")
    assert (repr(inline), len(inline.overrides)) == ("Sla(inline at acceptable: TTFT p99 <= 2s)", 2)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("interactive-chta", "run.meets(): unknown SLA 'interactive-chta'\n  Did you mean 'interactive-chat'? Known: agentic, "),
        ({"tfft": {"p99": "1s"}}, "run.meets().tfft.p99: unknown metric 'tfft'; did you mean 'ttft'?"),
        ({"ttft": {"p99": "1"}}, "run.meets().ttft.p99: '1' has no unit"),
        ({"error_rate": 0, "hardware": {"h10": {"error_rate": 0}}}, "run.meets().hardware.h10: unknown hardware 'h10'"),
        ({}, "run.meets(): an SLA needs at least one limit"),
        (0.5, "run.meets(): takes an SLA, not float\n  Give the fixture sla, limits such as {"),
        (None, "run.meets(): takes an SLA, not NoneType\n  Give the fixture sla"),
    ],
)
def test_what_is_given_for_an_sla_and_is_none(given: object, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        sla_given(given, Where(key="run.meets()"), catalog=CATALOG)
    assert str(caught.value).startswith(problem)


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
