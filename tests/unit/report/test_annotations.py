"""Annotations: GitHub's workflow commands, escaped as it reads them."""

from __future__ import annotations

import re
from urllib.parse import unquote

from pytest_llmperf.report.annotations import Place, workflow_commands
from pytest_llmperf.report.results_v2 import DeploymentErrorPart, RunDocument
from tests.unit.report.exported import measured
from tests.unit.report.test_markdown import COMPARED, of_parameter

PLACE = Place("suites/test_chat.py", 12)
_COMMAND = re.compile(r"::(?P<level>error|warning) (?P<properties>[^:\n]*)::(?P<message>[^\n]*)")


def command(run: RunDocument) -> tuple[str, dict[str, str], str]:
    (line,) = workflow_commands([run], [], {run.run_id: PLACE})
    return parts(line)


def parts(line: str) -> tuple[str, dict[str, str], str]:
    """As GitHub reads it."""
    found = _COMMAND.fullmatch(line)
    assert found is not None, line
    properties = dict(one.split("=", 1) for one in found["properties"].split(","))
    return found["level"], {name: unquote(value) for name, value in properties.items()}, unquote(found["message"])


def test_an_sla_miss_is_an_error_where_the_test_stands() -> None:
    level, properties, message = command(measured(scale=2.0))
    assert level == "error"
    assert properties == {"file": "suites/test_chat.py", "line": "12", "title": "SLA missed: test_meets_sla (SIMULATED)"}
    assert message.splitlines() == [
        "suites/test_chat.py::test_meets_sla[gke_h100_standalone_llama-3.1-8b]: TTFT p50 389ms, required <= 250ms (1.6x over)",
        "TTFT p95 579ms, required <= 400ms (1.4x over)",
    ]


def test_invalid_is_an_error_and_inconclusive_a_warning() -> None:
    level, properties, message = command(measured(invalid=("50% late, and: more",)))
    assert (level, properties["title"]) == ("error", "INVALID: test_meets_sla (SIMULATED)")
    assert message.endswith(": 50% late, and: more")
    level, properties, message = command(measured(requests=30, sla={"ttft": {"p99": "9s"}}, simulated=False))
    assert (level, properties["title"]) == ("warning", "INCONCLUSIVE: test_meets_sla")
    assert "needs 269 more samples" in message


def test_a_pass_says_nothing() -> None:
    assert workflow_commands([measured()], [], {}) == ()


def test_a_regression_is_an_error() -> None:
    level, properties, message = command(measured().model_copy(update={"comparison": COMPARED}))
    assert (level, properties["title"]) == ("error", "regressed beside 0001_main: test_meets_sla (SIMULATED)")
    assert message.endswith("TTFT p50 +100% (10% allowed)")


def test_a_cell_that_is_not_deployed_is_an_error_without_a_place() -> None:
    (line,) = workflow_commands([], [DeploymentErrorPart(cell_id="c", target="process", error="100%\r\noom")], {})
    assert line == "::error title=not deployed%3A c::100%25%0D%0Aoom"


def test_parametrised_tests_have_titles_of_their_own() -> None:
    runs = [of_parameter(name, verdict="FAIL") for name in ("short", "long")]
    titles = [parts(line)[1]["title"] for line in workflow_commands(runs, [], {})]
    assert titles == ["SLA missed: test_meets_sla[short] (SIMULATED)", "SLA missed: test_meets_sla[long] (SIMULATED)"]


def test_a_run_whose_place_is_not_known_is_told_of_all_the_same() -> None:
    (line,) = workflow_commands([measured(scale=2.0)], [], {})
    assert line.startswith("::error title=SLA missed%3A test_meets_sla (SIMULATED)::")
