"""What is told of a load generator that is not to be trusted, and of limits that were loosened."""

from __future__ import annotations

from dataclasses import replace

from pytest_llmperf.measure.trust import TrustLimits
from pytest_llmperf.report.allure import TestFacts, allure_test
from pytest_llmperf.report.client_health import client_lines, client_paragraphs
from pytest_llmperf.report.results_v2 import RunDocument
from tests.unit.report.runs import answered, cell, judged, run_of, workload

LATE = "worker 0 sent its requests late: p99 81.2ms (limit 50ms, worst 162ms); use more workers (--llmperf-workers)"


def document(*, invalid: tuple[str, ...] = (), loosened: tuple[str, ...] = (), notes: tuple[str, ...] = ()) -> RunDocument:
    run = judged(run_of(answered(20), invalid=invalid))
    return run.model_copy(update={"client": run.client.model_copy(update={"loosened": loosened, "notes": notes})})


def test_of_a_client_that_did_its_work_nothing_is_said() -> None:
    assert list(client_lines([document(notes=("a note",))], 80)) == []
    assert list(client_paragraphs([document()])) == []


def test_the_reasons_stand_below_the_run_and_fit_the_terminal() -> None:
    lines = list(client_lines([document(), document(invalid=(LATE,), notes=("1 of 4 load workers that the plan asks for",))], 80))
    assert lines == [
        "suites/test_chat.py::test_meets_sla[gke_h100_standalone_llama-3.1-8b]: the",
        "  client is not trusted",
        "  worker 0 sent its requests late: p99 81.2ms (limit 50ms, worst 162ms); use",
        "  more workers (--llmperf-workers)",
        "  1 of 4 load workers that the plan asks for",
    ]


def test_of_many_runs_the_first_are_told_in_full() -> None:
    lines = list(client_lines([document(invalid=(LATE,))] * 8, 200))
    assert sum(line.endswith("the client is not trusted") for line in lines) == 5
    assert lines[-1] == "the client is not trusted in 3 more runs; their results say why"


def test_loosened_limits_are_told_once() -> None:
    loose = document(loosened=("lateness_p99:1s (default 50ms)",))
    assert list(client_lines([document(), loose, loose], 120)) == [
        "trust limits loosened, so that INVALID says less: lateness_p99:1s (default 50ms)"
    ]


def test_allure_is_told_the_same() -> None:
    loose = document(invalid=(LATE,), loosened=("lateness_p99:1s (default 50ms)",))
    test = allure_test(TestFacts("test_meets_sla", cell(), workload(), None, simulated=False), [loose])
    paragraphs = test.description.split("\n\n")
    assert paragraphs[-2] == f"**The load generator is not trusted** in poisson 10/s: {LATE}."
    assert paragraphs[-1] == "**Trust limits loosened, so that INVALID says less: lateness_p99:1s (default 50ms).**"


def test_the_documents_limits_are_the_runs() -> None:
    run = replace(run_of(answered(20)), trust=TrustLimits(lateness_p99_s=1.0, cpu_share=0.5))
    client = judged(run).client
    assert client.limits["lateness_p99"] == 1.0
    assert client.limits["cpu_share"] == 0.5
    assert client.loosened == ("lateness_p99:1s (default 50ms)",)
