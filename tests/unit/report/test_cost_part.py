"""What a run cost, in its document: the metrics' values, null where there is none."""

from __future__ import annotations

from pytest_llmperf.metrics import metric_key
from pytest_llmperf.report.columns import value_of
from pytest_llmperf.report.document import from_json, to_json
from tests.unit.report.exported import PRICE, measured
from tests.unit.report.runs import answered, judged, run_of


def test_the_document_says_what_it_cost_and_by_which_price() -> None:
    run = measured()
    assert run.cost is not None
    assert (run.cost.price_per_hour, run.cost.source, run.cost.date) == (PRICE.per_gpu, PRICE.source, PRICE.date)
    assert run.cost.per_million_output_tokens == value_of(run, metric_key("cost_per_mtok"))
    assert run.cost.joules_per_output_token == value_of(run, metric_key("joules_per_token"))
    assert from_json(to_json(run)) == run


def test_a_run_in_which_nothing_was_done_has_a_price_and_no_cost() -> None:
    cost = measured(requests=0, failures=20).cost
    assert cost is not None
    assert (cost.price_per_gpu_hour, cost.per_million_output_tokens) == (PRICE.per_gpu, None)
    assert cost.output_tokens_per_dollar == 0.0


def test_without_a_price_there_is_no_cost() -> None:
    assert judged(run_of(answered(10))).cost is None
