"""Runs, verdicts and documents to report on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pytest_llmperf.deploy.base import DeploymentInfo, Phase
from pytest_llmperf.experiment.records import Cell, Hardware, Lengths, Method, Model, Platform, Variant, Workload
from pytest_llmperf.experiment.sla import parse_sla
from pytest_llmperf.judge.verdict import Verdict, judge
from pytest_llmperf.measure.compute import measure
from pytest_llmperf.measure.run import Run, RunIdentity
from pytest_llmperf.report.document import RunDocument, run_document
from tests.unit.measure.logs import Asked, failed, result_of, streamed

SLA: Mapping[str, object] = {
    "ttft": {"p50": "250ms", "p95": "400ms"},
    "tpot": {"p95": "50ms"},
    "error_rate": "0.1%",
    "output_tokens_per_s": "10",
}


def cell(hardware: str = "h100", count: int = 1, variant: str = "default", model: str = "llama-3.1-8b") -> Cell:
    return Cell(
        platform=Platform("gke", "Google Kubernetes Engine", "cloud.google.com/gke-accelerator"),
        hardware=Hardware(
            name=hardware,
            title=hardware.upper(),
            memory=80 * 2**30,
            bandwidth=3.35e12,
            bf16_flops=9.9e14,
            fp8_flops=2e15,
            interconnect="none",
            power_watts=700,
            count=count,
        ),
        method=Method("standalone", "Deployment and Service", "standalone"),
        model=Model(
            name=model,
            title="Llama 3.1 8B Instruct",
            repository="meta-llama/Llama-3.1-8B-Instruct",
            params_total=8e9,
            params_active=8e9,
            layers=32,
            hidden_size=4096,
            heads=32,
            kv_heads=8,
            head_dim=128,
            vocab_size=128256,
            max_model_len=131072,
        ),
        variant=Variant(variant),
    )


def workload(name: str = "interactive-chat") -> Workload:
    return Workload(name, name.replace("-", " ").capitalize(), Lengths(512), Lengths(128, "lognormal", 0.5, 1, 1024))


def answered(requests: int, *, scale: float = 1.0, tokens: int = 3, failures: int = 0) -> list[Asked]:
    """Requests every 0.1 s whose TTFT spreads from 0.1 to 0.3 s times ``scale``, and some that fail."""
    good = [streamed(i / 10, scale * (0.1 + 0.2 * (i % 20) / 19), gap_s=0.02 * scale, tokens=tokens) for i in range(requests)]
    return good + [failed(i / 10, error="http 503") for i in range(failures)]


def run_of(
    asked: Sequence[Asked],
    *,
    run_id: str = "0123abcd",
    test: str = "test_meets_sla",
    of: Cell | None = None,
    doing: Workload | None = None,
    profile: str = "poisson 10/s",
    simulated: bool = True,
    invalid: tuple[str, ...] = (),
    command: tuple[str, ...] = ("vllm", "serve", "--api-key", "hunter2"),
) -> Run:
    measured_cell, result = of or cell(), result_of(asked, window=(0.0, max(10.0, len(asked) / 10)))
    node_id = f"suites/test_chat.py::{test}[{measured_cell.id}]"
    return Run(
        identity=RunIdentity(run_id, measured_cell, doing or workload(), profile, 42, node_id, simulated, 60.0),
        deployment=DeploymentInfo("sim", simulated, "vLLM 0.32.0", command, (Phase("start", 1.5),), ready_at=1_750_000_000.0),
        result=result,
        metrics=measure(result, price_per_hour=2.1),
        invalid=invalid,
    )


def verdict_on(run: Run, sla: Mapping[str, object] = SLA) -> Verdict:
    return judge(run.metrics, parse_sla("interactive-chat", sla), run.invalid)


def judged(run: Run, sla: Mapping[str, object] = SLA) -> RunDocument:
    return run_document(run, verdict_on(run, sla))
