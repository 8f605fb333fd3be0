"""What goes into the records that allure-pytest hands over, and what happens when a part of it cannot."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from allure_commons import model2

from pytest_llmperf.plugin.allure_teller import AllureTeller, Told
from pytest_llmperf.plugin.asserted import LlmperfWarning
from pytest_llmperf.plugin.cells import REPETITION
from pytest_llmperf.plugin.display import INTERNAL
from pytest_llmperf.plugin.session import STASH
from pytest_llmperf.report.allure import AllureTest
from pytest_llmperf.report.allure_steps import Step

TEST = AllureTest("A title", "About it.", (("epic", "m"), ("tag", "SIMULATED")), (("platform", "gke"),))
TOLD = Told("test_a[c]", "gke_h100", TEST, [Step("Load", 1.0, 2.5, "failed", "too slow", (("seed", "1"),))], links=[("CI", "u")])


@pytest.fixture
def teller(pytestconfig: pytest.Config) -> AllureTeller:
    return AllureTeller(pytestconfig)


def result() -> Any:
    parameters = [model2.Parameter("cell", "Cell(gke_h100)"), model2.Parameter(REPETITION, "2")]
    return model2.TestResult(name="test_a[c]", description="\n    Its docstring.\n    ", parameters=parameters)


def test_a_result_gets_all_that_is_told(teller: AllureTeller) -> None:
    teller.tell(lambda: TOLD)
    told = result()
    teller.report_result(told)
    assert (told.name, told.description) == ("A title", "Its docstring.\n\nAbout it.")
    assert [(each.name, each.value, each.excluded) for each in told.parameters] == [
        ("cell", "gke_h100", None),
        ("repetition", "2", None),
        ("platform", "gke", True),
    ]
    assert [(each.name, each.url) for each in told.links] == [("CI", "u")]
    (step,) = told.steps
    assert (step.name, step.start, step.stop, step.status) == ("Load", 1000, 2500, "failed")
    assert step.statusDetails.message == "too slow"


def test_what_is_told_is_told_once(teller: AllureTeller) -> None:
    teller.tell(lambda: TOLD)
    teller.report_result(result())
    other = result()
    teller.report_result(other)
    assert other.name == "test_a[c]"


def test_what_a_suite_says_itself_is_kept(teller: AllureTeller) -> None:
    teller.tell(lambda: TOLD)
    told = result()
    told.name, told.labels = "Mine", [model2.Label("epic", "my epic"), model2.Label("tag", "slow")]
    teller.report_result(told)
    assert told.name == "Mine"
    assert [(each.name, each.value) for each in told.labels] == [("epic", "my epic"), ("tag", "slow"), ("tag", "SIMULATED")]


def test_a_part_that_cannot_be_told_is_a_warning_and_the_others_are_told(teller: AllureTeller) -> None:
    broken = Step("Load", float("nan"), 1.0)
    teller.tell(lambda: replace(TOLD, steps=[broken]))
    told = result()
    with pytest.warns(LlmperfWarning, match="Allure is not told the steps: ValueError"):
        teller.report_result(told)
    assert (told.name, told.steps) == ("A title", [])


@pytest.mark.filterwarnings("error")
def test_where_warnings_are_errors_no_test_is_lost(teller: AllureTeller) -> None:
    def fails() -> Told:
        raise KeyError("later version")

    teller.tell(fails)
    told = result()
    teller.report_result(told)
    assert told.name == "test_a[c]"


def test_what_is_internal_is_not_among_the_fixtures_but_where_it_failed(
    teller: AllureTeller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teller, "config", type("Config", (), {"stash": {STASH: None}})())
    befores = [model2.TestBeforeResult(name=name, status=status) for name, status in BEFORES]
    afters = [model2.TestAfterResult(name=name, status=status) for name, status in AFTERS]
    container = model2.TestResultContainer(befores=befores, afters=afters)
    teller.report_container(container)
    assert [each.name for each in container.befores] == ["mine", INTERNAL]
    assert [each.name for each in container.afters] == ["mine", "mine::close"]


BEFORES = [("mine", "passed"), (INTERNAL, "passed"), (INTERNAL, "broken")]
AFTERS = [("mine::1", "passed"), ("mine::<lambda>", None), (f"{INTERNAL}::0", "passed"), ("mine::close", "passed")]
