"""A test's way as steps, each at its own time."""

from __future__ import annotations

from dataclasses import replace

from pytest_llmperf.deploy.base import Phase
from pytest_llmperf.report.allure_attachments import Attachment
from pytest_llmperf.report.allure_steps import Step, failed_deployment, steps_of
from pytest_llmperf.report.document import RunDocument, judged_between, run_document
from pytest_llmperf.report.results_v2 import SteadinessPart
from tests.unit.report.runs import answered, run_of, verdict_on

PHASES = (Phase("image", 10.0), Phase("process", 2.0), Phase("cold start", 30.0), Phase("first completion", 1.0))
BEGAN = 1_000_000.0


def document(**changes: object) -> RunDocument:
    """A judged run whose deployment was ready at ``BEGAN``, whose load began 5 s and whose judging 100 s later."""
    run = run_of(answered(300, scale=9.0))
    deployment = replace(run.deployment, phases=PHASES, ready_at=BEGAN)
    run = replace(run, deployment=deployment, result=replace(run.result, started_at=BEGAN + 5, window_start_s=10.0))
    made = judged_between(run_document(run, verdict_on(run)), BEGAN + 100, BEGAN + 100.5)
    return made.model_copy(update=changes)


def times(step: Step) -> tuple[str, float, float]:
    return step.name, round(step.started - BEGAN, 3), round(step.ended - BEGAN, 3)


def test_one_run_is_deploy_ready_warm_up_load_judge() -> None:
    steps = steps_of([document()], [()], test_started=BEGAN - 50)
    assert [times(step) for step in steps] == [
        ("Deploy", -43.0, -31.0),
        ("Ready", -31.0, 0.0),
        ("Warm-up", 5.0, 15.0),
        ("Load: poisson 10/s", 15.0, 35.0),
        ("Judge by the SLA interactive-chat: FAIL", 100.0, 100.5),
    ]
    deploy, ready, _, load, judge = steps
    assert [times(step) for step in deploy.steps] == [("image", -43.0, -33.0), ("process", -33.0, -31.0)]
    assert [times(step) for step in ready.steps] == [("cold start", -31.0, -1.0), ("first completion", -1.0, 0.0)]
    assert ("seed", "42") in load.parameters
    assert ("requests", "300 ok, 0 failed") in load.parameters
    assert judge.status == "failed"
    assert "TTFT" in judge.message
    assert {step.status for step in (deploy, ready, load)} == {"passed"}


def test_a_deployment_that_an_earlier_test_waited_for_says_so() -> None:
    steps = steps_of([document()], [()], test_started=BEGAN + 1)
    shared = " (before this test: the cell's tests share the deployment)"
    assert [step.name for step in steps[:2]] == [f"Deploy{shared}", f"Ready{shared}"]


def test_a_warm_up_that_was_lengthened_is_told_as_it_was() -> None:
    longer = SteadinessPart(extra_warmup_s=2.0, unstable="")
    _, _, warm_up, load, _ = steps_of([document(steadiness=longer)], [()], test_started=0.0)
    assert (times(warm_up)[2], times(load)[1]) == (17.0, 17.0)


def test_each_of_several_runs_is_a_step_that_holds_its_files() -> None:
    runs = [document(ordinal=1, label="4/s"), document(ordinal=2, label="", sla=None)]
    files: list[tuple[Attachment, ...]] = [(Attachment("a", b"", "text/plain", "txt"),), ()]
    _, _, first, second = steps_of(runs, files, test_started=0.0)
    assert [step.name for step in (first, second)] == ["Run 1 of 2: 4/s", "Run 2 of 2: poisson 10/s"]
    assert [step.attachments for step in (first, second)] == files
    assert (first.status, second.status) == ("failed", "passed")
    assert [step.name.partition(" ")[0] for step in second.steps] == ["Warm-up", "Load:"]
    assert (first.started, first.ended) == (first.steps[0].started, first.steps[-1].ended)


def test_a_run_that_nobody_judged_and_that_cannot_be_trusted_is_broken() -> None:
    late = run_document(run_of(answered(30), invalid=("worker 0 was late",)), None)
    (load,) = steps_of([late.model_copy(update={"deployment": late.deployment.model_copy(update={"ready_at": None})})], [()], 0.0)
    assert (load.status, load.message) == ("broken", "worker 0 was late")


def test_an_older_document_has_no_steps_of_its_deployment() -> None:
    old = document()
    old = old.model_copy(update={"deployment": old.deployment.model_copy(update={"ready_at": None})})
    assert [step.name for step in steps_of([old], [()], 0.0)][:1] == ["Warm-up"]


def test_without_a_run_there_are_none() -> None:
    assert steps_of([], [], 0.0) == ()
    assert failed_deployment(1.0, 2.0, "no image").status == "broken"
