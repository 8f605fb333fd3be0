"""What JUnit's XML says of a test's runs: one property each, for whoever reads nothing but that."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pytest_llmperf.metrics import Unit, metric_key
from pytest_llmperf.report.columns import value_of

if TYPE_CHECKING:
    from pytest_llmperf.report.results_v2 import RunDocument

_KEYS = tuple(map(metric_key, ("ttft_p99", "tpot_p99", "e2e_p99", "error_rate", "output_tokens_per_s")))
SIMULATED = "SIMULATED"


def junit_properties(run: RunDocument, number: int) -> tuple[tuple[str, str], ...]:
    """(name, value): ``llmperf_verdict``, ``llmperf_ttft_p99_s``, …; of a test's second run ``llmperf_verdict_2``.

    Values are in the unit that the name ends with, as exact as in the run's document. What is unknown is left out.
    """
    told = {
        "verdict": run.verdict or "not judged",
        "run_id": run.run_id,
        "simulated": SIMULATED if run.simulated else "no",
        "target": run.deployment.target,
    }
    if run.configuration.image is not None:
        told["image"] = run.configuration.image
        told |= {"gpu": run.configuration.gpu} if run.configuration.gpu is not None else {}
    for key in _KEYS:
        value = value_of(run, key)
        if not math.isnan(value):
            told[f"{key.name}_s" if key.metric.unit is Unit.SECONDS else key.name] = repr(value)
    suffix = f"_{number}" if number > 1 else ""
    return tuple((f"llmperf_{name}{suffix}", value) for name, value in told.items())
