"""What Allure is told of a test."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_llmperf.experiment.records import Cell, Workload
from pytest_llmperf.report.allure import TestFacts, allure_test
from tests.unit.report.runs import answered, cell, judged, run_of, workload

FACTS = TestFacts("test_meets_sla", cell(), workload(), "chat", simulated=False)


def test_behaviours_are_model_workload_and_sla() -> None:
    test = allure_test(FACTS)
    assert dict(test.labels) == {"epic": "llama-3.1-8b", "feature": "interactive-chat", "story": "chat", "severity": "critical"}
    assert "SIMULATED" not in test.description


@pytest.mark.parametrize(
    ("name", "asked", "sla", "title"),
    [
        ("test_meets_sla", workload(), "chat", "Interactive chat meets its SLA"),
        ("test_interactive_chat", workload(), "chat", "Interactive chat meets its SLA"),
        ("test_interactive_chat", workload(), None, "Interactive chat"),
        ("test_ttft_keeps_its_place", workload(), None, "Interactive chat: TTFT keeps its place"),
        ("test_is_there", None, None, "Is there"),
        ("test_", workload(), None, "Interactive chat: test_"),
    ],
)
def test_a_title_is_a_sentence(name: str, asked: Workload | None, sla: str | None, title: str) -> None:
    test = allure_test(replace(FACTS, name=name, workload=asked, sla_name=sla))
    assert test.title == f"{title} on 1 x H100, GKE, Llama 3.1 8B Instruct"


@pytest.mark.parametrize(
    ("of", "place"),
    [
        (cell("h100", 4), "4 x H100, GKE, Llama 3.1 8B Instruct"),
        (cell(variant="fp8"), "1 x H100, GKE, Llama 3.1 8B Instruct, fp8"),
        (replace(cell(), method=replace(cell().method, name="helm")), "1 x H100, GKE, helm, Llama 3.1 8B Instruct"),
    ],
)
def test_a_title_tells_cells_apart(of: Cell, place: str) -> None:
    assert allure_test(replace(FACTS, cell=of, parameters="8")).title == f"Interactive chat meets its SLA [8] on {place}"


def test_a_test_without_an_sla_is_its_own_story() -> None:
    labels = allure_test(replace(FACTS, name="test_holds", sla_name=None)).labels
    assert ("story", "holds") in labels
    assert ("severity", "normal") in labels


def test_an_sla_without_a_name_is_described() -> None:
    test = allure_test(replace(FACTS, sla_name="inline"))
    assert ("story", "SLA of the marker") in test.labels
    assert "Held against the SLA of the marker." in test.description


def test_simulated_is_said_in_title_description_and_tag() -> None:
    test = allure_test(replace(FACTS, simulated=True))
    assert test.title.endswith("(SIMULATED)")
    assert "**SIMULATED**" in test.description
    assert ("tag", "SIMULATED") in test.labels


def test_what_identifies_a_test_does_not_depend_on_what_was_measured() -> None:
    facts = replace(FACTS, cell=cell("h100", 4))
    quick, slow = (allure_test(facts, [judged(run_of(answered(300, scale=scale)))]) for scale in (1.0, 9.0))
    assert quick == slow == allure_test(facts)
    assert ("hardware", "h100x4") in quick.parameters
