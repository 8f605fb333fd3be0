"""What a run's work cost: the registry's definitions, by hand."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

import pytest

from pytest_llmperf.experiment.catalog import builtin_directory, load_catalog
from pytest_llmperf.experiment.records import Price
from pytest_llmperf.judge.verdict import judge
from pytest_llmperf.measure.compute import Metrics, measure
from pytest_llmperf.measure.cost import OF_FLOW, cost_of, price_of_all
from pytest_llmperf.measure.throughput import throughput
from pytest_llmperf.metrics import METRICS, metric_key
from tests.unit.judge.loads import sla
from tests.unit.measure.logs import Asked, result_of

PRICE = Price("h100", "gke", 3.6, "a list", "2026-11-20")
ASKED = [Asked(float(i), ((i + 0.5, 2), (i + 0.6, 3)), prompt_tokens=20) for i in range(10)]
"""A request a second, each with 20 tokens in and 5 out."""


def measured(
    asked: list[Asked] = ASKED, price: Price | None = PRICE, accelerators: int = 2, power_w: float | None = 800.0
) -> Metrics:
    price_per_hour = price_of_all(price, accelerators)
    return measure(result_of(asked), price_per_hour=price_per_hour, accelerators=accelerators, power_w=power_w)


def value(metrics: Metrics, name: str) -> float:
    return metrics.estimate(metric_key(name)).value


def test_each_by_its_definition() -> None:
    metrics = measured()
    # Two accelerators of $3.60 cost $7.20 an hour: $0.002 a second for 5 output tokens and 20 of the prompt.
    assert value(metrics, "cost_per_mtok") == pytest.approx(400.0)
    assert value(metrics, "cost_per_mtok_input") == pytest.approx(100.0)
    assert value(metrics, "cost_per_mtok_total") == pytest.approx(80.0)
    assert value(metrics, "tokens_per_dollar") == pytest.approx(2500.0)
    assert value(metrics, "requests_per_gpu_hour") == pytest.approx(1800.0)
    assert value(metrics, "joules_per_token") == pytest.approx(160.0)


def test_only_the_window_counts() -> None:
    primed = [Asked(-5.0 + i / 10, ((-4.9 + i / 10, 50),), prompt_tokens=500, warmup=True) for i in range(40)]
    assert [value(measured([*primed, *ASKED]), name) for name in OF_FLOW] == [value(measured(), name) for name in OF_FLOW]


def test_the_document_has_the_metrics_values() -> None:
    metrics = measured()
    cost = cost_of(PRICE, 2, metrics)
    assert cost is not None
    assert asdict(cost) == {
        "price_per_gpu_hour": 3.6,
        "price_per_hour": 7.2,
        "source": "a list",
        "date": "2026-11-20",
        "per_million_input_tokens": value(metrics, "cost_per_mtok_input"),
        "per_million_output_tokens": value(metrics, "cost_per_mtok"),
        "per_million_total_tokens": value(metrics, "cost_per_mtok_total"),
        "output_tokens_per_dollar": value(metrics, "tokens_per_dollar"),
        "requests_per_gpu_hour": value(metrics, "requests_per_gpu_hour"),
        "joules_per_output_token": value(metrics, "joules_per_token"),
    }


def test_the_ends_of_an_interval_change_places_where_more_flow_is_less_cost() -> None:
    many = [Asked(i / 20, ((i / 20 + 0.1, 1 + i % 7),), prompt_tokens=20) for i in range(199)]
    metrics = measured(many)
    flow, cost, bought = (metrics.scalars[name] for name in ("output_tokens_per_s", "cost_per_mtok", "tokens_per_dollar"))
    assert flow.low < flow.value < flow.high
    assert (cost.low, cost.high) == pytest.approx((2000 / flow.high, 2000 / flow.low))
    assert (bought.low, bought.high) == pytest.approx((500 * flow.low, 500 * flow.high))


def test_without_a_price_only_what_needs_none_is_known() -> None:
    metrics = measured(price=None)
    assert {name for name in OF_FLOW if metrics.scalars[name].is_known} == {"requests_per_gpu_hour", "joules_per_token"}
    assert cost_of(None, 2, metrics) is None


@pytest.mark.parametrize(
    ("name", "metrics", "why"),
    [
        ("cost_per_mtok_input", measured(price=None), "the cell has no price"),
        ("cost_per_mtok_total", measured(price=None), "the cell has no price"),
        ("tokens_per_dollar", measured(price=None), "the cell has no price"),
        (
            "tokens_per_dollar",
            measured(price=replace(PRICE, per_gpu=0.0)),
            "the cell's price is $0, and no number of tokens comes to a dollar",
        ),
        ("joules_per_token", measured(power_w=None), "the accelerators' power is not known"),
        (
            "requests_per_gpu_hour",
            measure(result_of(ASKED), price_per_hour=None),
            "it is not known how many accelerators the cell has",
        ),
        (
            "cost_per_mtok_input",
            measured([Asked(1.0, ((1.5, 2),), prompt_tokens=0)]),
            "the answers do not say how many tokens their prompts have",
        ),
        ("joules_per_token", measured([Asked(1.0, ((1.5, 0),))]), "the answers do not say how many tokens they have"),
    ],
)
def test_what_is_unknown_says_why(name: str, metrics: Metrics, why: str) -> None:
    limit = {True: "1", False: "9"}[METRICS[name].higher_is_better]
    (check,) = judge(metrics, sla({name: limit})).checks
    assert (check.outcome, check.note) == ("INCONCLUSIVE", why)


def test_money_that_buys_nothing_buys_it_at_an_infinite_price() -> None:
    nothing = measured([])
    assert [value(nothing, name) for name in ("cost_per_mtok", "cost_per_mtok_input", "joules_per_token")] == [math.inf] * 3
    assert [value(nothing, name) for name in ("tokens_per_dollar", "requests_per_gpu_hour")] == [0.0, 0.0]


def test_what_is_free_has_no_dollar_to_divide_by() -> None:
    free = measured(price=Price("h100", "gke", 0.0, "ours", "2026-11-20"))
    assert value(free, "cost_per_mtok_input") == 0.0
    assert math.isnan(value(free, "tokens_per_dollar"))


def test_prompt_tokens_flow_when_their_first_output_token_arrives() -> None:
    late = [Asked(1.0, ((12.0, 1),), prompt_tokens=70), Asked(2.0, ((3.0, 1),), prompt_tokens=30)]
    assert throughput(result_of(late)).input_tokens.events == 30


def test_the_price_of_a_cell_is_that_of_its_accelerators_and_a_slice_has_one_of_its_own() -> None:
    catalog = load_catalog([builtin_directory()])
    gke = catalog.platforms["gke"]
    whole = catalog.price_of(catalog.hardware_named("h100x4"), gke)
    assert whole is not None
    assert price_of_all(whole, 4) == 4 * whole.per_gpu
    # The price book has no price of a slice, and the whole accelerator's is not taken for one.
    assert catalog.price_of(catalog.hardware["h100-mig-3g.40gb"], gke) is None
