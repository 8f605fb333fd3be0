"""What a run cost -> the document's part."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_llmperf.report.results_parts import finite
from pytest_llmperf.report.results_v2 import CostPart

if TYPE_CHECKING:
    from pytest_llmperf.measure.run import Run


def cost_part(run: Run) -> CostPart | None:
    """What the run cost; None where the price book has no price for the cell's accelerators."""
    cost = run.cost
    if cost is None:
        return None
    return CostPart(
        price_per_gpu_hour=cost.price_per_gpu_hour,
        price_per_hour=cost.price_per_hour,
        source=cost.source,
        date=cost.date,
        per_million_input_tokens=finite(cost.per_million_input_tokens),
        per_million_output_tokens=finite(cost.per_million_output_tokens),
        per_million_total_tokens=finite(cost.per_million_total_tokens),
        output_tokens_per_dollar=finite(cost.output_tokens_per_dollar),
        requests_per_gpu_hour=finite(cost.requests_per_gpu_hour),
        joules_per_output_token=finite(cost.joules_per_output_token),
    )
