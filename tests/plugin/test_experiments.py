"""Experiments of several runs on real simulators: capacity, sweep, two variants, drift; and what they leave behind."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_llmperf.deploy.base import Deployment
from pytest_llmperf.deploy.endpoint import EndpointTarget
from pytest_llmperf.deploy.kubernetes.settings import KubernetesSettings, RenderSettings
from pytest_llmperf.deploy.kubernetes.target import KubernetesTarget
from pytest_llmperf.errors import ConfigError
from pytest_llmperf.experiment.catalog import Catalog, builtin_directory, load_catalog
from pytest_llmperf.experiment.matrix import expand
from pytest_llmperf.experiment.records import NamedProfile
from pytest_llmperf.plugin.load import Load
from pytest_llmperf.plugin.progress import ProgressLine
from pytest_llmperf.plugin.session import Deployments
from pytest_llmperf.plugin.variants import CompareVariants

Sessions = Callable[..., pytest.RunResult]

VARIANTS = """
default: {}
slowed:
  env: {LLMPERF_SIM_SLOWDOWN: "1.3"}
crawling:
  env: {LLMPERF_SIM_SLOWDOWN: "10"}
cramped:
  engine_args: {gpu-memory-utilization: 10%}
"""
MATRIX = """
default:
  platforms: [gke]
  hardware: [h100]
  models: [llama-3.2-3b]
slow:
  platforms: [gke]
  hardware: [h100]
  models: [llama-3.2-3b]
  variants: [crawling]
"""
# A warm-up short enough for tests; four answers of 16 tokens at a time.
WORKLOADS = """
labels:
  title: Labels
  input: {mean: 128}
  output: {mean: 16}
  warmup: 200ms
"""
HEAD = """
import os
import pytest
from pathlib import Path
from pytest_llmperf import concurrency, poisson

pytestmark = pytest.mark.llmperf(workload="labels", sla={"ttft": {"p50": "500ms"}, "e2e": {"p50": "1s"}, "error_rate": "0%"})

def alive(pid):
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    return True
"""


@pytest.fixture
def suite(pytester: pytest.Pytester) -> Callable[[str], None]:
    """Writes a suite, and the catalog it needs."""

    def write(tests: str) -> None:
        pytester.makepyfile(test_suite=HEAD + tests)
        folder = pytester.path / "fixtures"
        folder.mkdir()
        for name, text in (("variants", VARIANTS), ("matrix", MATRIX), ("workloads", WORKLOADS)):
            (folder / f"{name}.yaml").write_text(text)

    return write


def stored(pytester: pytest.Pytester) -> list[dict[str, Any]]:
    """The runs on disk."""
    return [json.loads(path.read_text()) for path in (pytester.path / ".llmperf" / "runs").glob("*/run.json")]


def test_a_capacity_beyond_the_highest_rate(pytester: pytest.Pytester, llmperf: Sessions, suite: Callable[[str], None]) -> None:
    suite("""
def test_it(find_capacity, sla):
    capacity = find_capacity(sla, "20/s", "30/s", probe="1s")
    assert capacity.rate_per_s == 30
    assert [probe.rate_per_s for probe in capacity.probes] == [20, 30]
    assert all(probe.verdict and probe.run["error_rate"] == 0 for probe in capacity.probes)
    assert capacity.reaches("30/s") and capacity.reaches(12.5)
    capacity.reaches("31/s")
""")
    result = llmperf()
    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    assert "INCONCLUSIVE: the capacity does not reach 31/s: at least 30/s, the highest rate asked for" in text
    assert re.search(r"E\s+Capacity for SLA inline on gke_h100_standalone_llama-3.2-3b: 30/s", text)
    assert re.search(r"E\s+20/s .* PASS .* of limit", text)
    assert "SIMULATED" in text
    assert sorted(run["label"] for run in stored(pytester)) == ["20/s", "30/s"]


def test_a_capacity_is_bracketed(llmperf: Sessions, suite: Callable[[str], None]) -> None:
    """A server ten times as slow: one request takes half a second, and soon they are in each other's way."""
    suite("""
def test_it(find_capacity):
    from pytest_llmperf.experiment.sla import parse_sla

    alone = {"e2e": {"p50": "20s"}, "tpot": {"p50": "60ms"}}
    capacity = find_capacity(parse_sla("slow", alone), "8/s", "512/s", probe="1s", precision="90%")
    assert 8 <= capacity.rate_per_s < 512
    assert capacity.capacity.high_per_s <= 1.9 * capacity.rate_per_s
    print(capacity)
    outcomes = {probe.verdict.outcome.value for probe in capacity.probes}
    assert outcomes == {"PASS", "FAIL"}
""")
    llmperf("--llmperf-matrix=slow").assert_outcomes(passed=1)


def test_a_lowest_rate_that_misses_the_sla(llmperf: Sessions, suite: Callable[[str], None]) -> None:
    suite("""
def test_it(find_capacity, sla):
    capacity = find_capacity(sla, "10/s", "80/s", probe="1s")
    assert capacity.rate_per_s >= 10
""")
    result = llmperf("--llmperf-sla=e2e: {p50: 1ms}")
    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    assert re.search(r"assert 0(\.0)? >= 10", text)
    assert "below 10/s, the lowest rate asked for: E2E p50 is" in text
    assert "Captured llmperf call" in text, "the walk is on the report"


def test_a_sweep(pytester: pytest.Pytester, llmperf: Sessions, suite: Callable[[str], None]) -> None:
    suite("""
def test_it(sweep):
    curve = sweep(["10/s", concurrency(4)], "1s")
    assert [run["error_rate"] for run in curve] == [0, 0]
    assert curve[1]["request_rate"] > curve[0]["request_rate"]
    print(curve)
""")
    result = llmperf("-s")
    result.assert_outcomes(passed=1)
    result.stdout.re_match_lines([r"Sweep on gke_h100.*", r"load +reqs +req/s", r"poisson 10/s +\d+", r"concurrency 4 +\d+"])
    assert sorted(run["label"] for run in stored(pytester)) == ["concurrency 4", "poisson 10/s"]


def test_calls_that_make_no_sense_load_nothing(
    pytester: pytest.Pytester, llmperf: Sessions, suite: Callable[[str], None]
) -> None:
    calls = {
        'find_capacity(sla, "10", "20/s")': "'10' is not a rate",
        'find_capacity(sla, "30/s", "20/s")': "the lowest rate '30/s' is more than the highest '20/s'",
        'find_capacity(sla, "0/s", "20/s")': "the rate '0/s' makes no request",
        'find_capacity(sla, "1/s", "2/s", probe="5")': "'5' has no unit",
        'find_capacity(sla, "1/s", "2/s", precision="0%")': "'probe', 'precision' and 'max_probes' must be more than 0",
        'sweep([], "1s")': "needs a list of points",
        'sweep("4/s", "1s")': "needs a list of points",
        'find_capacity(sla, "1/s", "2/s", arrivals="poison")': "unknown arrivals 'poison'",
        'find_capacity(sla, "1/s", "2/s", max_probes=2.5)': "'max_probes' must be a whole number, not 2.5",
        'find_capacity({"tfft": {"p50": "1s"}}, "1/s", "2/s")': "unknown metric 'tfft'",
        'find_capacity(None, "1/s", "2/s")': "find_capacity(): takes an SLA, not NoneType",
        'sweep(["4/s", "8"], "1s")': "'8' is not a rate",
        'sweep(5, "1s")': "needs a list of points",
        'sweep(["4/s", 10], "1s")': "sweep(): 10 is no load profile",
        'sweep(["5/s", concurrency(2)])': "sweep(): poisson 5/s never ends",
        'load("4/s", "1s")': "load profile: '4/s' is no load profile",
    }
    suite("\n".join(f"def test_{i}(find_capacity, sweep, load, sla):\n    {call}\n" for i, call in enumerate(calls)))
    result = llmperf()
    result.assert_outcomes(failed=len(calls))
    errors = [line for line in result.outlines if line.startswith("ConfigError")]
    for error, problem in zip(errors, calls.values(), strict=True):
        assert problem in error
    assert not stored(pytester)
    assert '  Write poisson("10/s") or concurrency(10).' in result.outlines


def test_limits_may_stand_for_an_sla(pytester: pytest.Pytester, llmperf: Sessions, suite: Callable[[str], None]) -> None:
    suite("""
def test_it(find_capacity, sweep):
    assert find_capacity({"e2e": {"p50": "5s"}}, "20/s", "20/s", probe="1s").reaches("20/s")
    assert len(sweep(["20/s"], "1s", until={"e2e": {"p50": "5s"}})) == 1
""")
    llmperf().assert_outcomes(passed=1)
    assert sorted(run["label"] for run in stored(pytester)) == ["20/s", "poisson 20/s"]


def test_a_slowed_variant_is_worse_and_its_deployment_goes(
    pytester: pytest.Pytester, llmperf: Sessions, suite: Callable[[str], None]
) -> None:
    suite("""
PIDS = Path("pids")

def test_ab(compare_variants):
    metrics = ("tpot_p50", "output_tokens_per_s")
    result = compare_variants("default", "slowed", concurrency(4), "1500ms", metric=metrics, margin="8%", pairs=5)
    PIDS.write_text(" ".join(str(d.process.pid) for d in compare_variants.deployments.standing.values()))
    assert not result
    assert 1.1 < result["tpot_p50"].verdict.ratio < 1.6
    assert result["output_tokens_per_s"].verdict.outcome == "FAIL"
    first, second = result.pairs[:2]
    assert first.a.run.identity.seed == first.b.run.identity.seed != second.a.run.identity.seed
    assert first.a.run.result.started_at < first.b.run.result.started_at
    assert second.b.run.result.started_at < second.a.run.result.started_at
    result.meets()

def test_next(deployment):
    default, slowed = PIDS.read_text().split()
    assert deployment.process.pid == int(default) and alive(default)
    assert not alive(slowed)
""")
    result = llmperf()
    result.assert_outcomes(passed=1, failed=1)
    text = result.stdout.str()
    assert re.search(r"ExperimentMissError: FAIL: TPOT p50 of slowed is [\d.]+% worse than that of default \(margin 8%\)", text)
    assert re.search(r"E\s+TPOT p50 .*\+\d+\.\d%.* 8% .* FAIL", text)
    assert "SIMULATED" in text
    labels = sorted(run["label"] for run in stored(pytester))
    assert labels[:3] == ["A 1 of 5", "A 2 of 5", "A 3 of 5"]
    assert len(labels) % 2 == 0
    assert not [pid for pid in (pytester.path / "pids").read_text().split() if _alive(int(pid))]


def test_a_variant_against_itself_is_not_worse(llmperf: Sessions, suite: Callable[[str], None]) -> None:
    suite("""
def test_aa(compare_variants):
    assert compare_variants("default", "default", concurrency(4), "1500ms", margin="20%")
""")
    llmperf().assert_outcomes(passed=1)


def test_a_failing_test_leaves_no_deployment(pytester: pytest.Pytester, llmperf: Sessions, suite: Callable[[str], None]) -> None:
    suite("""
def test_broken(compare_variants):
    result = compare_variants("default", "slowed", concurrency(2), "500ms", margin="90%", pairs=3)
    Path("pids").write_text(" ".join(str(d.process.pid) for d in compare_variants.deployments.standing.values()))
    assert 1 == 2
""")
    llmperf("-x").assert_outcomes(failed=1)
    pids = (pytester.path / "pids").read_text().split()
    assert len(pids) == 2
    assert not [pid for pid in pids if _alive(int(pid))]


def test_comparisons_that_cannot_be_deploy_nothing(llmperf: Sessions, suite: Callable[[str], None]) -> None:
    calls = {
        '"default", "slow"': "unknown variant 'slow'",
        '"default", "slowed", metric="tpot_p5O"': "tpot needs a statistic",
        '"default", "slowed", metric="error_rate"': "error rate is no metric of ratios",
        '"default", "slowed", metric=()': "needs a metric to judge",
        '"default", "slowed", margin={"ttft_p50": "5%"}': "'margin' names 'ttft_p50', which is not judged",
        '"default", "slowed", metric=("tpot_p50", "e2e_p50"), margin={"e2e_p50": "5%"}': "'margin' has none for tpot_p50",
        '"default", "slowed", margin="0%"': "the margin must be more than 0",
        '"default", "slowed", pairs=2': "'pairs' must be a whole number from 3 to 30, not 2",
        '"default", "slowed", pairs=3.5': "'pairs' must be a whole number from 3 to 30, not 3.5",
        '"default", "slowed", margin={"tpot_p50": "5%", "tpot_p5": "5%"}': "'margin' names 'tpot_p5', which is not judged",
        '"default", "slowed", margin=0.05': "0.05 is no margin",
        '"default", "slowed", metric=5': "needs a metric to judge",
        '"default", "slowed", metric=[5]': "5 is no metric",
        '"default", "slowed", "4/s", "1s"': "compare_variants(): '4/s' is no load profile",
        '"default", "slowed"': "names no load profile",
        '"default", "slowed", concurrency(2)': "concurrency 2 never ends",
        '"default", "slowed", concurrency(2), "5"': "'duration': '5' has no unit",
        '"default", "cramped"': "gke_h100_standalone_llama-3.2-3b_cramped: llama-3.2-3b in bf16 needs",
    }
    suite("\n".join(f"def test_{i}(compare_variants):\n    compare_variants({call})\n" for i, call in enumerate(calls)))
    result = llmperf()
    result.assert_outcomes(failed=len(calls))
    errors = [line for line in result.outlines if line.startswith("ConfigError")]
    for error, problem in zip(errors, calls.values(), strict=True):
        assert problem in error
    for meant in ("'slowed'", "'tpot_p50'"):
        assert f"Did you mean {meant}?" in result.stdout.str()
    assert "ready after" not in result.stdout.str()


def test_drift(llmperf: Sessions, suite: Callable[[str], None]) -> None:
    suite("""
from pytest_llmperf import drift

def test_steady(load):
    run = load(concurrency(4), "4s")
    found = drift(run, "tpot_p50", margin="25%")
    assert found.comparison.verdict.pairs == 6
    assert found and found.meets()
    print(found)
""")
    result = llmperf("-s")
    result.assert_outcomes(passed=1)
    assert "A: the first third of the run, B: the last third, under concurrency 4" in result.stdout.str()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _comparing(catalog: Catalog, hardware: str, deployments: Deployments) -> CompareVariants:
    cell = next(cell for cell in expand(catalog.matrix_named("default"), catalog) if cell.hardware.name == hardware)
    return CompareVariants(cell, catalog, deployments, _no_load, _no_profile)


def _no_load(_: Deployment) -> Load:
    raise AssertionError("nothing is to be loaded")


def _no_profile() -> NamedProfile:
    raise AssertionError("nothing is to be loaded")


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog([builtin_directory()])


@pytest.fixture
def endpoint() -> Deployments:
    target = EndpointTarget(url="http://127.0.0.1:9", served_model=None, api_key=None, ready_timeout_s=1.0)
    return Deployments(target, ProgressLine(None, None, 0, False), has_url=True)


def test_an_endpoint_serves_one_variant(catalog: Catalog, endpoint: Deployments) -> None:
    with pytest.raises(ConfigError, match="a URL leads to one cell"):
        _comparing(catalog, "h100", endpoint)("default", "fp8")
    assert not endpoint.standing


def test_variants_at_one_host_are_refused_before_anything_is_applied(catalog: Catalog, tmp_path: Path) -> None:
    (tmp_path / "all.yaml").write_text("""
apiVersion: apps/v1
kind: Deployment
metadata: {name: vllm}
spec:
  selector: {matchLabels: {app: vllm}}
  template:
    metadata: {labels: {app: vllm}}
    spec: {containers: [{name: vllm, image: "vllm:1", command: [vllm, serve], ports: [{containerPort: 8000}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: vllm}
spec: {selector: {app: vllm}, ports: [{port: 8000}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: vllm}
spec: {rules: [{host: llm.example, http: {paths: [{path: /, backend: {service: {name: vllm, port: {number: 8000}}}}]}}]}
""")
    settings = KubernetesSettings(RenderSettings(manifests=tmp_path), "abcd1234", kubeconfig=tmp_path / "no", reach="ingress")
    deployments = Deployments(KubernetesTarget(settings), ProgressLine(None, None, 0, False))
    with pytest.raises(ConfigError, match=r"(?m)llm\.example leads to one cell, .*: \S+, \S+_fp8$") as raised:
        _comparing(catalog, "h100", deployments)("default", "fp8")
    assert "--llmperf-compare" in str(raised.value.hint)
    assert not deployments.standing
