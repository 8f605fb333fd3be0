"""JUnit's properties: a verdict, whether it is simulated, and the numbers as exact as the run's document has them."""

from __future__ import annotations

from pytest_llmperf.report.junit import junit_properties
from tests.unit.report.exported import measured


def test_what_is_told_of_a_run() -> None:
    run = measured()
    told = dict(junit_properties(run, 1))
    assert told == {
        "llmperf_verdict": "PASS",
        "llmperf_run_id": "0123abcd",
        "llmperf_simulated": "SIMULATED",
        "llmperf_target": "sim",
        "llmperf_ttft_p99_s": repr(run.metrics["ttft_p99"].value),
        "llmperf_tpot_p99_s": repr(run.metrics["tpot_p99"].value),
        "llmperf_e2e_p99_s": repr(run.metrics["e2e_p99"].value),
        "llmperf_error_rate": "0.0",
        "llmperf_output_tokens_per_s": repr(run.metrics["output_tokens_per_s"].value),
    }


def test_what_was_deployed_by_a_manifest_is_named() -> None:
    run = measured(simulated=False)
    configuration = run.configuration.model_copy(update={"image": "registry.example/vllm:7", "gpu": "NVIDIA-H100"})
    told = dict(junit_properties(run.model_copy(update={"configuration": configuration}), 1))
    assert (told["llmperf_image"], told["llmperf_gpu"]) == ("registry.example/vllm:7", "NVIDIA-H100")


def test_further_runs_of_a_test_carry_their_number() -> None:
    first, second = (dict(junit_properties(measured(), number)) for number in (1, 2))
    assert {f"{name}_2" for name in first} == set(second)


def test_what_is_infinite_is_told_and_what_is_unknown_is_not() -> None:
    told = dict(junit_properties(measured(failures=400), 1))
    assert told["llmperf_ttft_p99_s"] == "inf"
    nothing = dict(junit_properties(measured(requests=0, simulated=False), 1))
    assert "llmperf_tpot_p99_s" not in nothing
    assert nothing["llmperf_simulated"] == "no"
