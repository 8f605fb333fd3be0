"""What Allure is told of a test."""

from __future__ import annotations

from dataclasses import replace

from pytest_llmperf.report.allure import AllureTest, allure_test, environment_properties
from pytest_llmperf.report.document import from_json, session_document
from tests.unit.report.runs import answered, cell, judged, run_of, workload


def test_behaviours_are_model_workload_and_sla() -> None:
    test = allure_test("test_meets_sla", cell(), workload(), sla_name="chat", simulated=False)
    assert dict(test.labels) == {"epic": "llama-3.1-8b", "feature": "interactive-chat", "story": "chat", "severity": "critical"}
    assert test.title == "test_meets_sla on gke_h100_standalone_llama-3.1-8b"
    assert "SIMULATED" not in test.description
    assert test.attachments == ()


def test_a_test_without_an_sla_is_its_own_story() -> None:
    test = allure_test("test_holds", cell(), workload(), sla_name=None, simulated=False)
    assert ("story", "test_holds") in test.labels
    assert test.severity == "normal"


def test_simulated_is_said_in_title_description_and_tag() -> None:
    test = allure_test("test_meets_sla", cell(), workload(), sla_name="chat", simulated=True)
    assert test.title.endswith("(SIMULATED)")
    assert "**SIMULATED**" in test.description
    assert ("tag", "SIMULATED") in test.labels


def test_what_identifies_a_test_does_not_depend_on_what_was_measured() -> None:
    def described(scale: float) -> AllureTest:
        document = judged(run_of(answered(300, scale=scale)))
        test = allure_test("test_meets_sla", cell("h100", 4), workload(), sla_name="chat", simulated=True, documents=[document])
        return replace(test, attachments=())

    assert described(1.0) == described(9.0)
    assert ("hardware", "h100x4") in described(1.0).parameters


def test_each_run_is_one_attachment_that_is_its_document() -> None:
    documents = [judged(run_of(answered(20), run_id="a1")), judged(run_of(answered(20), run_id="b2"))]
    test = allure_test("test_twice", cell(), workload(), sla_name="chat", simulated=True, documents=documents)
    assert [attachment.name for attachment in test.attachments] == ["run a1", "run b2"]
    assert [from_json(attachment.content) for attachment in test.attachments] == documents
    assert {(attachment.mime, attachment.extension) for attachment in test.attachments} == {("application/json", "json")}


def test_the_environment_lists_what_the_session_ran_on() -> None:
    runs = [judged(run_of(answered(20))), judged(run_of(answered(20), of=cell("l40s")))]
    session = session_document(runs, created=0.0, arguments=[], target="sim", simulated=True)
    properties = environment_properties(session)
    assert properties["Simulated"] == "yes"
    assert properties["Engine"] == "vLLM 0.32.0"
    assert properties["Cells"] == "gke_h100_standalone_llama-3.1-8b, gke_l40s_standalone_llama-3.1-8b"
    assert all("\n" not in value and value for value in properties.values())


def test_a_session_without_runs_has_an_environment_too() -> None:
    session = session_document([], created=0.0, arguments=[], target="sim", simulated=True)
    assert environment_properties(session)["Cells"] == "-"
