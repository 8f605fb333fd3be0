"""How a server's times, a price and a cost read."""

from __future__ import annotations

import pytest

from pytest_llmperf.report.html import html_report
from pytest_llmperf.report.markdown import markdown
from pytest_llmperf.report.part_text import cost_texts, price_text, price_texts, server_time_text
from pytest_llmperf.report.results_v2 import ServerTimesPart
from pytest_llmperf.report.stats import stats_text
from tests.unit.report.exported import measured, session


def times(p99_s: float | None, bucket: tuple[float, float] | None, count: int = 1000) -> ServerTimesPart:
    width = bucket[1] - bucket[0] if bucket is not None else None
    return ServerTimesPart(count=count, mean_s=1.0, p50_s=1.0, p99_s=p99_s, resolution_s=width, p99_bucket_s=bucket)


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (times(1.98, (1.5, 2.0)), "mean 1s, p99 1.5s..2s"),
        (times(0.297, (0.0, 0.3)), "mean 1s, p99 <= 300ms"),
        (times(1.98, (1.9, 2.0)), "mean 1s, p99 1.98s"),
        (times(1.0, (0.95, 1.05)), "mean 1s, p99 950ms..1.05s"),
        # The largest of so few: a client saw nothing above 1.6 s.
        (times(1.98, (1.5, 2.0), count=8), "mean 1s"),
        (times(1.98, (1.5, 2.0), count=99), "mean 1s"),
        (times(1.98, (1.5, 2.0), count=100), "mean 1s, p99 1.5s..2s"),
        (times(None, None), "mean 1s"),
        # Documents that do not name the bucket.
        (times(1.98, None), "mean 1s"),
        (times(1.98, (1.5, 2.0)).model_copy(update={"p99_bucket_s": None}), "mean 1s"),
        (times(1.98, (1.9, 2.0)).model_copy(update={"p99_bucket_s": None}), "mean 1s, p99 1.98s"),
    ],
)
def test_a_server_s_p99_is_told_as_well_as_its_histogram_knows_it(part: ServerTimesPart, said: str) -> None:
    assert server_time_text(part) == said


def test_a_price_reads_alike_wherever_it_is_told() -> None:
    run = measured()
    price = price_text(run)
    assert price == "h100 $11.06/h (GCP | a third party's list, 2026-11-20)"
    assert price_texts([run, run.model_copy(update={"cost": None}), run]) == [price]
    assert run.cost is not None
    assert cost_texts(run.cost)["output"] == "$103.01"
    assert price in " ".join(stats_text(run).split())
    assert price.replace("$", "\\$").replace("|", "\\|") in markdown(session([run]))
    assert price.replace("'", "&#39;") in html_report([run], {})


def test_a_price_of_several_names_that_of_one() -> None:
    run = measured()
    assert run.cost is not None
    several = run.model_copy(update={"cost": run.cost.model_copy(update={"price_per_hour": 44.24})})
    assert price_text(several) == "h100 $44.24/h ($11.06 a GPU; GCP | a third party's list, 2026-11-20)"
    assert price_text(run.model_copy(update={"cost": None})) == ""
