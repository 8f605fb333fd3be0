"""A run as a benchmark report of the llm-d project, version 0.2.1: one document a run, YAML as that project writes it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from pytest_llmperf.report.exports.llm_d_series import request_series
from pytest_llmperf.report.exports.llm_d_server import observability
from pytest_llmperf.report.storage import file_name_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pytest_llmperf.report.exports.values import Values
    from pytest_llmperf.report.results_v2 import LengthsPart, MetricPart, RunDocument

VERSION = "0.2.1"
ENGINE = "engine"
"""The label of the component that served."""
_QUANTILES = ("p50", "p90", "p95", "p99")
_PERCENT = (0.1, 1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9)
"""What a report may have of values; the last is ``p99p9`` there."""
_LATENCIES = {
    "time_to_first_token": ("ttft", "s"),
    "time_per_output_token": ("tpot", "s/token"),
    "inter_token_latency": ("itl", "s/token"),
    "request_latency": ("e2e", "s"),
}
_PARALLEL = {
    option: short
    for short, whole in (("tp", "tensor"), ("pp", "pipeline"), ("dp", "data"))
    for option in (f"--{whole}-parallel-size", f"--{short}-size", f"--{short}", f"-{short}")
}
"""How vLLM and SGLang take it, long and short."""


def report_name(run: RunDocument) -> str:
    """The file's name within the directory. Raises ``ConfigError`` for an id that cannot be part of one."""
    return f"benchmark_report_v{VERSION}_{file_name_of(run.run_id)}.yaml"


def llm_d(run: RunDocument, values: Values | None) -> dict[str, Any]:
    """The report of a run; what is not known is left out. ``values`` give the lengths of requests, which no document has.

    A simulated run says so in its description, its keywords and the name of its engine.
    """
    return {
        "version": VERSION,
        "run": _run(run),
        "scenario": {"stack": [_engine(run)], "load": _load(run)},
        "results": _known(
            request_performance={
                "aggregate": {
                    "requests": _requests(run, values),
                    "latency": _latency(run, values),
                    "throughput": _throughput(run),
                },
                **_known(time_series=request_series(run)),
            },
            observability=observability(run, ENGINE),
        ),
    }


def _known(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _run(run: RunDocument) -> dict[str, Any]:
    started = datetime.fromisoformat(run.timing.started_at)
    mark = ["SIMULATED"] if run.simulated else []
    said = " (SIMULATED: no real server was measured)" if run.simulated else ""
    return {
        "uid": run.run_id,
        "time": {
            "start": run.timing.started_at,
            "end": (started + timedelta(seconds=run.timing.window_end_s)).isoformat(timespec="milliseconds"),
            "duration": f"PT{run.timing.window_end_s:.3f}S",
        },
        "description": f"{run.node_id}: {run.workload.title}, {run.profile}{said}",
        "keywords": [*mark, "pytest-llmperf", run.cell.id, run.workload.name, f"verdict {run.verdict or 'none'}"],
    }


def _engine(run: RunDocument) -> dict[str, Any]:
    tool, _, version = run.deployment.engine.rpartition(" ")
    name = tool or version or "unknown"
    arguments = run.configuration.engine_arguments
    standardized = {
        "kind": "inference_engine",
        "tool": f"{name} (SIMULATED)" if run.simulated else name,
        "tool_version": run.configuration.engine_version or (version if tool else "unknown"),
        "role": "replica",
        "replicas": 1,
        "model": {"name": run.cell.model},
        "accelerator": {"model": run.cell.hardware, "count": run.cell.count, "parallelism": _parallelism(run)},
    }
    native = _known(
        args={"argv": list(arguments or run.deployment.command)} if arguments or run.deployment.command else None,
        config=_known(
            image=run.configuration.image,
            image_digest=run.configuration.image_digest,
            gpu=run.configuration.gpu,
            driver=run.configuration.driver,
            manifests=list(run.configuration.manifests) or None,
            method=run.cell.method,
            variant=run.cell.variant,
            platform=run.cell.platform,
        ),
    )
    return {
        "metadata": {"label": ENGINE, "cfg_id": _digest(standardized, native), "description": run.cell.id},
        "standardized": standardized,
        "native": native,
    }


def _parallelism(run: RunDocument) -> dict[str, int]:
    """As the engine's arguments say; where they do not, the model lies across all of the cell's accelerators."""
    words = " ".join(run.configuration.engine_arguments or run.deployment.command).replace("=", " ").split()
    given = {
        short: int(value)
        for word, value in pairwise(words)
        if (short := _PARALLEL.get(word.replace("_", "-"))) is not None and value.isdecimal() and int(value) > 0
    }
    others = math.prod(size for name, size in given.items() if name != "tp")
    return {"tp": max(1, run.cell.count // others), **given}


def _load(run: RunDocument) -> dict[str, Any]:
    achieved = run.client.achieved
    standardized = {
        "tool": "pytest-llmperf",
        "tool_version": run.configuration.packages.get("pytest-llmperf", "unknown"),
        "parallelism": run.client.started_workers or max(1, len(run.client.workers)),
        "source": "sampled" if run.profile.startswith("trace") else "random",
        "input_seq_len": _lengths(run.workload.input),
        # As the schema has it only where the length is enforced.
        **({"output_seq_len": _lengths(run.workload.output)} if run.workload.ignore_eos else {}),
        **_known(
            rate_qps=achieved.planned_rate_per_s if achieved is not None else None,
            concurrency=achieved.planned_in_flight if achieved is not None else None,
        ),
    }
    native = {
        "config": {
            "workload": run.workload.model_dump(mode="json"),
            "profile": run.profile,
            "profile_name": run.profile_name,
            "seed": run.seed,
            "settings": dict(run.configuration.settings),
        }
    }
    metadata = {"cfg_id": _digest(standardized, native), "description": f"{run.workload.title}: {run.profile}"}
    return {"metadata": metadata, "standardized": standardized, "native": native}


def _digest(*parts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _lengths(lengths: LengthsPart) -> dict[str, Any]:
    """``other`` for a log-normal distribution, which the schema does not know."""
    known = lengths.distribution if lengths.distribution in ("fixed", "uniform") else "other"
    std_dev = lengths.mean * lengths.cv if lengths.cv else None
    return _known(distribution=known, value=lengths.mean, std_dev=std_dev, min=lengths.min, max=lengths.max)


def _requests(run: RunDocument, values: Values | None) -> dict[str, Any]:
    lengths = (values.prompt_tokens, values.output_tokens) if values is not None else (None, None)
    prompt, output = (_statistics(tokens, "count") if tokens is not None else None for tokens in lengths)
    return {
        "total": run.counts.total,
        "failures": run.counts.failed,
        "incomplete": run.counts.cancelled,
        **_known(input_length=prompt, output_length=output),
    }


def _latency(run: RunDocument, values: Values | None) -> dict[str, Any]:
    found = {field: _from_metrics(run.metrics, name, unit) for field, (name, unit) in _LATENCIES.items()}
    normalized = None
    if values is not None:
        counted = values.output_tokens > 0
        normalized = _statistics(values.e2e_s[counted] / values.output_tokens[counted], "s/token")
    return _known(normalized_time_per_output_token=normalized, **found)


def _from_metrics(metrics: Mapping[str, MetricPart], name: str, unit: str) -> dict[str, Any] | None:
    """A latency as the run's document has it: failed requests count as infinitely late, and what is infinite is left out."""
    parts = {statistic: metrics.get(f"{name}_{statistic}") for statistic in ("mean", *_QUANTILES, "max")}
    found = {statistic: part.value for statistic, part in parts.items() if part is not None}
    return _known(units=unit, **found) if found.get("mean") is not None else None


def _statistics(values: NDArray[Any], unit: str) -> dict[str, Any] | None:
    import numpy as np

    if len(values) == 0:
        return None
    quantiles = np.percentile(values, _PERCENT, method="inverted_cdf").tolist()
    return {
        "units": unit,
        "mean": float(np.mean(values)),
        **({"stddev": float(np.std(values, ddof=1))} if len(values) > 1 else {}),
        "min": float(np.min(values)),
        **{f"p{percent:g}".replace(".", "p"): float(value) for percent, value in zip(_PERCENT, quantiles, strict=True)},
        "max": float(np.max(values)),
    }


def _throughput(run: RunDocument) -> dict[str, Any]:
    output, total = (_rate(run, name) for name in ("output_tokens_per_s", "total_tokens_per_s"))
    prompt = total - output if total is not None and output is not None else None
    rates = {
        "input_token_rate": (prompt, "tokens/s"),
        "output_token_rate": (output, "tokens/s"),
        "total_token_rate": (total, "tokens/s"),
        "request_rate": (_rate(run, "request_rate"), "queries/s"),
    }
    return {field: {"units": unit, "mean": mean} for field, (mean, unit) in rates.items() if mean is not None}


def _rate(run: RunDocument, name: str) -> float | None:
    part = run.metrics.get(name)
    return part.value if part is not None else None
