"""Which INVALID runs nothing has judged."""

from __future__ import annotations

from pytest_llmperf.plugin.asserted import invalid_and_unjudged
from pytest_llmperf.report.document import run_document
from tests.unit.report.runs import answered, judged, run_of

LATE = ("worker 0 sent its requests late", "it used 99% of its CPU")


def test_an_invalid_run_is_told_by_its_label_or_its_load() -> None:
    late = run_document(run_of(answered(5), run_id="a", invalid=LATE), None)
    stress = run_document(run_of(answered(5), run_id="b", invalid=LATE[:1]), None).model_copy(update={"label": "stress"})
    assert invalid_and_unjudged([late, stress], set()) == [
        "poisson 10/s: worker 0 sent its requests late; it used 99% of its CPU",
        "stress: worker 0 sent its requests late",
    ]


def test_what_an_sla_or_an_experiment_has_judged_is_judged() -> None:
    held = judged(run_of(answered(5), run_id="a", invalid=LATE))
    assert held.verdict == "INVALID"
    of_a_pair = run_document(run_of(answered(5), run_id="b", invalid=LATE), None)
    assert invalid_and_unjudged([held, of_a_pair], {"b"}) == []
    assert len(invalid_and_unjudged([held, of_a_pair], {"a"})) == 1


def test_a_run_that_can_be_trusted_needs_no_judge() -> None:
    assert invalid_and_unjudged([run_document(run_of(answered(5)), None)], set()) == []
