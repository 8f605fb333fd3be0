"""What a run's work cost: money, accelerators' hours and energy, each a flow of the run in other terms.

The money and the energy of an hour are spent whatever is done in it, so a cost per token is an amount a second over the tokens a
second; the more flow the less of it, and the interval's ends change places.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pytest_llmperf.measure.run import UNKNOWN, Estimate

if TYPE_CHECKING:
    from pytest_llmperf.experiment.records import Price
    from pytest_llmperf.measure.compute import Metrics

FlowName = Literal["requests", "input_tokens", "output_tokens", "total_tokens"]
_MILLION = 1e6
_HOUR_S = 3600.0


@dataclass(frozen=True)
class OfFlow:
    """How a metric follows from a flow of ``Throughput``: a constant over it where it ``falls``, else a constant times it."""

    flow: FlowName
    falls: bool


OF_FLOW: Mapping[str, OfFlow] = {
    "cost_per_mtok": OfFlow("output_tokens", falls=True),
    "cost_per_mtok_input": OfFlow("input_tokens", falls=True),
    "cost_per_mtok_total": OfFlow("total_tokens", falls=True),
    "tokens_per_dollar": OfFlow("output_tokens", falls=False),
    "requests_per_gpu_hour": OfFlow("requests", falls=False),
    "joules_per_token": OfFlow("output_tokens", falls=True),
}
"""The metrics of cost, by name."""


@dataclass(frozen=True)
class Spending:
    """What a run's accelerators take, all of a cell's together; None where it is not known."""

    price_per_hour: float | None = None
    """US dollars."""
    accelerators: int | None = None
    power_w: float | None = None
    """Mean power over the measured window."""


def cost_metrics(spending: Spending, flows: Mapping[FlowName, Estimate]) -> dict[str, Estimate]:
    """The metrics of ``OF_FLOW``, each with its flow's interval; unknown without what is spent, or without the flow."""
    constants = _constants(spending)
    return {name: _priced(of.falls, constants[name], flows[of.flow]) for name, of in OF_FLOW.items()}


@dataclass(frozen=True)
class Cost:
    """What a run's work cost, at a price of the price book. Each value is the metric's; nan: unknown, inf: nothing was done."""

    price_per_gpu_hour: float
    price_per_hour: float
    """Of all the cell's accelerators."""
    source: str
    date: str
    """When the price was read."""
    per_million_input_tokens: float
    per_million_output_tokens: float
    per_million_total_tokens: float
    output_tokens_per_dollar: float
    requests_per_gpu_hour: float
    joules_per_output_token: float


def price_of_all(price: Price | None, accelerators: int) -> float | None:
    """Dollars an hour for so many accelerators; None without a price."""
    return price.per_gpu * accelerators if price is not None else None


def cost_of(price: Price | None, accelerators: int, metrics: Metrics) -> Cost | None:
    """The cost of a run that was measured with this price; None where the price book has none."""
    if price is None:
        return None
    value = {name: metrics.scalars[name].value for name in OF_FLOW}
    return Cost(
        price_per_gpu_hour=price.per_gpu,
        price_per_hour=price.per_gpu * accelerators,
        source=price.source,
        date=price.date,
        per_million_input_tokens=value["cost_per_mtok_input"],
        per_million_output_tokens=value["cost_per_mtok"],
        per_million_total_tokens=value["cost_per_mtok_total"],
        output_tokens_per_dollar=value["tokens_per_dollar"],
        requests_per_gpu_hour=value["requests_per_gpu_hour"],
        joules_per_output_token=value["joules_per_token"],
    )


def _constants(spending: Spending) -> dict[str, float]:
    """By metric: what is spent a second, over what a flow a second of 1 is; nan where it is not known."""
    per_hour, power_w = spending.price_per_hour, spending.power_w
    a_million = per_hour / _HOUR_S * _MILLION if per_hour is not None else math.nan
    return {
        "cost_per_mtok": a_million,
        "cost_per_mtok_input": a_million,
        "cost_per_mtok_total": a_million,
        # What costs nothing has no dollar to divide by.
        "tokens_per_dollar": _HOUR_S / per_hour if per_hour else math.nan,
        "requests_per_gpu_hour": _HOUR_S / spending.accelerators if spending.accelerators else math.nan,
        "joules_per_token": power_w if power_w is not None else math.nan,
    }


def _priced(falls: bool, constant: float, flow: Estimate) -> Estimate:
    if math.isnan(constant) or not flow.is_known:
        return UNKNOWN
    if not falls:
        return Estimate(constant * flow.value, constant * flow.low, constant * flow.high, flow.samples)
    value, low, high = (_over(constant, per_s) for per_s in (flow.value, flow.high, flow.low))
    return Estimate(value, low, high, flow.samples)


def _over(constant: float, per_s: float) -> float:
    if math.isnan(per_s):
        return math.nan
    # Money that buys no token buys them at an infinite price.
    return constant / per_s if per_s > 0 else math.inf
