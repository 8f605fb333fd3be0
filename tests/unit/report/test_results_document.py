"""The results JSON: complete, strict, without secrets, and as its schema says."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pytest_llmperf.deploy.base import DeploymentInfo
from pytest_llmperf.experiment.sla import Gate, parse_sla
from pytest_llmperf.judge.verdict import judge
from pytest_llmperf.load.records import Achieved, ClientHealth
from pytest_llmperf.measure.compute import standard_keys
from pytest_llmperf.metrics import metric_key
from pytest_llmperf.report.commit import Commit
from pytest_llmperf.report.document import (
    DeploymentErrorPart,
    RunDocument,
    SessionDocument,
    from_json,
    run_document,
    schema,
    session_document,
    to_json,
)
from pytest_llmperf.report.results_v2 import BottleneckPart, ServerPart, ServerSeriesPart, ServerTimesPart
from pytest_llmperf.report.run_context import RunContext
from pytest_llmperf.report.schema import schema_text
from tests.unit.measure.logs import failed, streamed, worker_health
from tests.unit.report.runs import answered, judged, run_of, verdict_on

CHECKED_IN = Path(__file__).parents[3] / "docs/schema/results-2.json"


def strict(text: str) -> Any:
    """Parse JSON as a strict parser would: NaN and Infinity are errors."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def documents() -> list[RunDocument]:
    return [
        judged(run_of(answered(300))),
        judged(run_of(answered(10, failures=5))),
        judged(run_of(answered(0))),
        judged(run_of(answered(0, failures=3), invalid=("worker 0 was late",))),
        run_document(run_of(answered(300), simulated=False), None),
        complete(),
    ]


def complete() -> RunDocument:
    """A document that has every part there is."""
    info = DeploymentInfo(
        "process",
        False,
        "vLLM 0.32.0",
        ("vllm", "serve", "m", "--api-key", "hunter2"),
        engine_version="0.32.0",
        engine_arguments=("--api-key", "hunter2", "--max-num-seqs=8"),
        image="vllm/vllm-openai:v0.32.0",
        image_digest="sha256:0123",
        gpu="NVIDIA H100 80GB HBM3",
        driver="550.54.15",
        manifests=("kind: Service\n",),
    )
    session = RunContext({"policy": "measured"}, {"GITHUB_SHA": "abc"}, Commit("a" * 40, dirty=True))
    run = replace(run_of(answered(300), simulated=False), deployment=info)
    times = ServerTimesPart(count=3, mean_s=0.1, p50_s=0.1, p99_s=None)
    sampled = ServerSeriesPart(at_s=(0.0, 1.0), values={"running": (1.0, None)})
    return run_document(run, verdict_on(run), session=session).model_copy(
        update={
            "server": ServerPart(source="metrics", samples=2, running_mean=1.0, times={"ttft": times}, series=sampled),
            "bottleneck": BottleneckPart(kind="none", evidence="nothing was short"),
            "artifacts": {"requests": "requests.parquet"},
        }
    )


def session(runs: list[RunDocument]) -> SessionDocument:
    return session_document(
        runs,
        created=1_750_000_000.0,
        arguments=["suites/", "-k", "h100", "--llmperf-api-key=hunter2"],
        target="sim",
        simulated=True,
        deployment_errors=[DeploymentErrorPart(cell_id="gke_t4_standalone_llama-3.1-8b", target="sim", error="out of memory")],
    )


def test_the_checked_in_schema_is_the_one_the_code_writes() -> None:
    assert CHECKED_IN.read_text() == schema_text(), "python -m pytest_llmperf.report.schema > docs/schema/results-2.json"


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())


@pytest.mark.parametrize("document", documents(), ids=["passed", "failures", "empty", "invalid", "not judged", "complete"])
def test_a_run_is_strict_json_that_the_schema_takes_and_that_reads_back_the_same(document: RunDocument) -> None:
    text = to_json(document)
    jsonschema.validate(strict(text), schema())
    assert from_json(text) == document
    # As it travels between processes: plain JSON values.
    assert RunDocument.model_validate(json.loads(json.dumps(document.model_dump(mode="json")))) == document


def test_a_session_is_strict_json_that_the_schema_takes_and_that_reads_back_the_same() -> None:
    document = session(documents())
    jsonschema.validate(strict(to_json(document)), schema())
    assert from_json(to_json(document)) == document
    assert document.created == "2025-06-15T15:06:40.000+00:00"


def test_how_everything_was_set_up_is_told_without_secrets() -> None:
    part = complete().configuration
    assert part.model_dump(exclude={"packages", "client_platform"}) == {
        "settings": {"policy": "measured"},
        "environment": {"GITHUB_SHA": "abc"},
        "commit": "a" * 40,
        "dirty": True,
        "engine_version": "0.32.0",
        "engine_arguments": ("--api-key", "***", "--max-num-seqs=8"),
        "image": "vllm/vllm-openai:v0.32.0",
        "image_digest": "sha256:0123",
        "gpu": "NVIDIA H100 80GB HBM3",
        "driver": "550.54.15",
        "manifests": ("kind: Service\n",),
    }
    assert {"python", "numpy", "pyarrow"} <= set(part.packages)
    alone = run_document(run_of(answered(1)), None).configuration
    assert (alone.settings, alone.environment, alone.commit, alone.dirty) == ({}, {}, None, False)


def test_a_run_over_time_has_its_rates_and_what_was_not_seen_is_null() -> None:
    part = run_document(run_of([streamed(0.5, 0.25, gap_s=0.5, tokens=3), failed(2.5)]), None).series
    assert part is not None
    assert part.model_dump() == {
        "start_s": 0.0,
        "step_s": 1.0,
        "last_step_s": 0.5,
        "sent_per_s": (1.0, 0.0, 1.0, 0.0),
        "ok_per_s": (0.0, 1.0, 0.0, 0.0),
        "failed_per_s": (0.0, 0.0, 0.0, 2.0),
        "output_tokens_per_s": (1.0, 2.0, 0.0, 0.0),
        "in_flight": (0.5, 0.75, 0.5, 1.0),
        "ttft_p50_s": (0.25, None, None, None),
        "ttft_p99_s": (0.25, None, None, None),
        "tpot_p50_s": (None, 0.5, None, None),
        "tpot_p99_s": (None, 0.5, None, None),
        "e2e_p50_s": (None, 1.25, None, None),
        "e2e_p99_s": (None, 1.25, None, None),
    }
    assert run_document(run_of([]), None).series is None


@pytest.mark.parametrize("length_s", [1.7, 2.3])
def test_a_steady_load_is_steady_to_its_end(length_s: float) -> None:
    asked = [streamed(i / 400, 0.001, gap_s=0.001) for i in range(int(400 * length_s))]
    part = run_document(run_of(asked), None).series
    assert part is not None
    assert part.sent_per_s == pytest.approx([400.0] * 2, rel=0.01)
    assert part.output_tokens_per_s == pytest.approx([800.0] * 2, rel=0.01)
    assert part.in_flight == pytest.approx([0.8] * 2, rel=0.01)


def test_wider_bins_have_rates_per_second() -> None:
    part = run_document(run_of([streamed(0.0, 0.25), streamed(1.0, 0.25), streamed(1199.0, 0.25)]), None).series
    assert part is not None
    assert (part.step_s, part.sent_per_s[0], len(part.sent_per_s)) == (2.0, 1.0, 600)


def test_the_schema_refuses_a_document_that_lacks_something() -> None:
    value = strict(to_json(documents()[0]))
    del value["metrics"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(value, schema())


def test_a_field_of_a_later_writer_is_passed_over() -> None:
    document = documents()[0]
    assert from_json(json.dumps({**strict(to_json(document)), "weather": "fine"})) == document


def test_everything_that_identifies_a_run_is_there() -> None:
    document = judged(run_of(answered(300)))
    assert (document.run_id, document.test, document.seed, document.profile) == ("0123abcd", "test_meets_sla", 42, "poisson 10/s")
    assert document.cell.model_dump() == {
        "id": "gke_h100_standalone_llama-3.1-8b",
        "platform": "gke",
        "hardware": "h100",
        "count": 1,
        "method": "standalone",
        "model": "llama-3.1-8b",
        "variant": "default",
    }
    assert document.simulated
    assert document.deployment.simulated
    assert document.timing.started_at == "2025-06-15T15:06:40.250+00:00"
    assert document.timing.window_s == 30.0
    assert document.configuration.packages["python"]
    assert document.counts.ok == 300


def test_it_holds_the_standard_metrics_those_of_the_sla_and_those_asked_for() -> None:
    run = run_of(answered(300))
    verdict = verdict_on(run, {"itl": {"p99.9": "1s"}})
    document = run_document(run, verdict, keys=[metric_key("e2e_p75")])
    assert set(document.metrics) == {key.name for key in standard_keys()} | {"itl_p99.9", "e2e_p75"}
    part = document.metrics["ttft_p50"]
    assert (part.unit, part.title, part.samples, part.higher_is_better) == ("s", "TTFT p50", 300, False)
    assert part.low is not None
    assert part.value is not None
    assert part.high is not None
    assert part.low < part.value < part.high


def test_what_is_infinite_is_null_and_named() -> None:
    part = judged(run_of(answered(20, failures=2))).metrics["ttft_p95"]
    assert (part.value, part.high) == (None, None)
    assert part.unbounded == ("value", "high")
    unknown = judged(run_of(answered(0))).metrics["ttft_p95"]
    assert (unknown.value, unknown.unbounded) == (None, ())


def test_goodput_is_known_where_the_sla_limits_requests() -> None:
    run = run_of(answered(300))
    assert judged(run, {"ttft": {"p50": "200ms"}}).metrics["goodput"].value == pytest.approx(0.5)
    assert run_document(run, None).metrics["goodput"].value is None


def test_checks_tell_required_measured_and_outcome() -> None:
    document = judged(run_of(answered(300, scale=2)))
    assert document.sla is not None
    check = document.sla.checks[0]
    assert (check.metric, check.required, check.limit, check.outcome) == ("ttft_p50", "<= 250ms", 0.25, "FAIL")
    assert check.margin == pytest.approx(check.measured / 0.25 if check.measured else None)
    assert document.verdict == document.sla.outcome == "FAIL"


def test_grades_and_the_gate_are_told() -> None:
    run = run_of(answered(300))  # TTFT p50 is near 0.2 s
    graded = {"ttft": {"p50": {"target": "100ms", "acceptable": "300ms"}, "p95": "1s"}}
    gates: tuple[tuple[Gate, str], ...] = (("target", "FAIL"), ("acceptable", "PASS"))
    for gate, outcome in gates:
        part = run_document(run, judge(run.metrics, parse_sla("chat", graded).at(gate))).sla
        assert part is not None
        assert (part.policy, part.gate, part.outcome) == ("measured", gate, outcome)
        assert [(check.grade, check.outcome) for check in part.checks] == [("acceptable", outcome), (None, "PASS")]
        assert part.checks[0].limit == (0.1 if gate == "target" else 0.3)


def test_goodput_says_within_which_limits() -> None:
    document = judged(run_of(answered(300)), {"goodput": {"min": "40%", "within": {"ttft": "200ms", "e2e": "20s"}}})
    assert document.sla is not None
    (check,) = document.sla.checks
    assert check.required == ">= 40% of requests with TTFT <= 200ms, E2E <= 20s"
    assert check.measured == document.metrics["goodput"].value == pytest.approx(0.5)


def test_a_run_that_is_not_trusted_is_invalid_even_without_an_sla() -> None:
    untrusted = run_of(answered(300), invalid=("worker 0 was late",))
    assert run_document(untrusted, None).verdict == "INVALID"
    assert run_document(untrusted, None).client.distrust == ("worker 0 was late",)
    assert run_document(run_of(answered(300)), None).verdict is None


def test_client_health_without_a_number_is_null() -> None:
    run = run_of(answered(1))
    health = ClientHealth((worker_health(0), worker_health(1, requests=0, lateness_p99_s=math.nan)), 1, 1)
    document = run_document(replace(run, result=replace(run.result, health=health)), None)
    assert document.client.workers[1].lateness_p99_s is None


def test_what_a_load_made_of_its_plan_is_told() -> None:
    run = run_of(answered(1))
    reached = Achieved(planned_in_flight=8.0, rate_per_s=3.5, mean_in_flight=7.5, peak_in_flight=8, busy_share=math.nan)
    health = ClientHealth((worker_health(0),), 1, 1, started_workers=2, achieved=reached)
    client = run_document(replace(run, result=replace(run.result, health=health)), None).client
    assert client.started_workers == 2
    assert client.achieved is not None
    assert client.achieved.model_dump() == {
        "planned_rate_per_s": None,
        "rate_per_s": 3.5,
        "planned_in_flight": 8.0,
        "mean_in_flight": 7.5,
        "peak_in_flight": 8,
        "busy_share": None,
    }


def test_what_the_kernel_timed_is_told_and_what_it_did_not_is_null() -> None:
    timed = replace(worker_health(0), kernel_stamped_share=0.75, read_lag_p99_s=0.0002)
    run = run_of(answered(1))
    health = ClientHealth((timed, worker_health(1)), 1, 1)
    first, second = run_document(replace(run, result=replace(run.result, health=health)), None).client.workers
    assert (first.kernel_stamped_share, first.read_lag_p99_s) == (0.75, 0.0002)
    assert (second.kernel_stamped_share, second.read_lag_p99_s) == (0.0, None)


def test_a_document_of_before_there_was_more_to_tell_of_the_client_is_still_read() -> None:
    value = strict(to_json(documents()[0]))
    for name in ("started_workers", "achieved", "limits", "loosened"):
        del value["client"][name]
    for worker in value["client"]["workers"]:
        del worker["kernel_stamped_share"], worker["read_lag_p99_s"]
    read = from_json(json.dumps(value))
    assert isinstance(read, RunDocument)
    assert (read.client.started_workers, read.client.achieved, read.client.loosened) == (None, None, ())


def test_no_secret_reaches_a_document() -> None:
    document = judged(run_of(answered(1), command=("vllm", "serve", "--api-key", "hunter2", "--port", "8000")))
    assert document.deployment.command == ("vllm", "serve", "--api-key", "***", "--port", "8000")
    assert "hunter2" not in to_json(session([document]))


def of_version_1(raw: dict[str, Any]) -> dict[str, Any]:
    """A run's document as version 1 had it."""
    configuration = raw["configuration"]
    new = {"configuration", "series", "server", "bottleneck", "cost"}
    kept = {name: value for name, value in raw.items() if name not in new}
    moved = {name: configuration[name] for name in ("packages", "client_platform")}
    return {**kept, "schema_version": "1", **moved}


def test_documents_of_version_1_are_read() -> None:
    document = run_document(run_of(answered(300)), None)
    raw = json.loads(to_json(document))
    read = from_json(json.dumps(of_version_1(raw)))
    assert isinstance(read, RunDocument)
    assert read.configuration.packages == document.configuration.packages
    assert (read.metrics, read.counts, read.cost) == (document.metrics, document.counts, None)
    session = json.loads(to_json(session_document([document], created=0.0, arguments=(), target="sim", simulated=True)))
    old = {**session, "schema_version": "1", "runs": [of_version_1(run) for run in session["runs"]]}
    assert from_json(json.dumps(old)) == session_document([read], created=0.0, arguments=(), target="sim", simulated=True)
    # What the older version asks for is still asked for.
    del old["runs"][0]["packages"]
    with pytest.raises(ValueError, match="packages"):
        from_json(json.dumps(old))


def test_a_document_of_a_newer_version_is_refused_by_its_number() -> None:
    with pytest.raises(ValueError, match="version '3', which this pytest-llmperf does not know"):
        from_json('{"kind": "run", "schema_version": "3"}')
