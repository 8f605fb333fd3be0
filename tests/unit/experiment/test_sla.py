"""SLAs: limits read in their metric's unit and direction, their grades, and what overrides them where."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from pytest_llmperf.experiment.catalog import builtin_directory, load_catalog
from pytest_llmperf.experiment.records import Cell
from pytest_llmperf.experiment.sla import Grades, Sla, SlaKeyError, Threshold, parse_sla
from pytest_llmperf.metrics import METRICS, metric_key

CATALOG = load_catalog([builtin_directory()])


def cell_on(hardware: str, model: str = "llama-3.1-8b") -> Cell:
    return Cell(
        CATALOG.platform_named("gke"),
        CATALOG.hardware_named(hardware),
        CATALOG.method_named("standalone"),
        CATALOG.model_named(model),
        CATALOG.variant_named("default"),
    )


def limits(sla: Sla) -> dict[str, float]:
    return {threshold.key.name: threshold.limit for threshold in sla.thresholds}


def test_limits_take_their_metrics_direction() -> None:
    sla = parse_sla("mine", {"ttft": {"p50": "200ms", "p99": "<= 1s"}, "output_tokens_per_s": "100/s", "error_rate": "0.1%"})
    assert str(sla) == "mine"
    assert [(t.key.name, t.comparator, t.limit, t.required) for t in sla.thresholds] == [
        ("ttft_p50", "<=", 0.2, "<= 200ms"),
        ("ttft_p99", "<=", 1.0, "<= 1s"),
        ("output_tokens_per_s", ">=", 100.0, ">= 100/s"),
        ("error_rate", "<=", 0.001, "<= 0.1%"),
    ]


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_of_the_registry_can_be_limited(name: str) -> None:
    metric = METRICS[name]
    limit = {"s": "1s", "fraction": "50%", "1/s": "5/s", "1/h": "5/h", "USD": "$1", "1/USD": "5/$", "J": "5J", "count": "5"}[
        metric.unit
    ]
    documents: list[dict[str, object]] = (
        [{name: {"p95": limit}}, {f"{name}_p95": limit}] if metric.is_distribution else [{name: limit}]
    )
    for document in documents:
        (threshold, *_) = parse_sla("mine", {**document, "ttft": {"max": "9s"}} if name == "goodput" else document).thresholds
        assert threshold.key == metric_key(name, "p95" if metric.is_distribution else None)
        assert threshold.comparator == (">=" if metric.higher_is_better else "<=")


@pytest.mark.parametrize(
    ("metric", "limit", "kept", "missed"),
    [("ttft_p99", 1.0, 1.0, 1.01), ("request_rate", 4.0, 4.0, 3.99), ("error_rate", 0.0, 0.0, 1e-6)],
)
def test_a_limit_is_kept_at_the_limit(metric: str, limit: float, kept: float, missed: float) -> None:
    threshold = Threshold(metric_key(metric), ">=" if metric == "request_rate" else "<=", limit)
    assert threshold.met_by(kept)
    assert not threshold.met_by(missed)
    assert not threshold.met_by(math.nan)


FULL = {"target": "1s", "acceptable": "3s", "poor": "5s"}
RATES = {"target": "30/s", "acceptable": "20/s", "poor": "10/s"}


@pytest.mark.parametrize(
    ("document", "value", "grade"),
    [
        ({"ttft_p99": FULL}, 0.5, "target"),
        ({"ttft_p99": FULL}, 1.0, "target"),
        ({"ttft_p99": FULL}, 1.001, "acceptable"),
        ({"ttft_p99": FULL}, 3.0, "acceptable"),
        ({"ttft_p99": FULL}, 3.001, "poor"),
        ({"ttft_p99": FULL}, 5.0, "poor"),
        ({"ttft_p99": FULL}, 5.001, "unacceptable"),
        ({"ttft_p99": FULL}, math.inf, "unacceptable"),
        ({"ttft_p99": FULL}, math.nan, None),
        ({"request_rate": RATES}, 31.0, "target"),
        ({"request_rate": RATES}, 30.0, "target"),
        ({"request_rate": RATES}, 29.9, "acceptable"),
        ({"request_rate": RATES}, 20.0, "acceptable"),
        ({"request_rate": RATES}, 19.9, "poor"),
        ({"request_rate": RATES}, 10.0, "poor"),
        ({"request_rate": RATES}, 9.9, "unacceptable"),
        ({"ttft_p99": {"target": "1s", "acceptable": "3s"}}, 3.1, "unacceptable"),
        ({"ttft_p99": {"target": "1s", "poor": "5s"}}, 3.1, "poor"),
        ({"ttft_p99": {"target": "1s"}}, 1.1, "unacceptable"),
        # 0.7 / 100 is less than 7 / 1000 in binary.
        ({"error_rate": {"target": "0.7%"}}, 7 / 1000, "target"),
        ({"ttft_p99": "1s"}, 0.5, None),
    ],
)
def test_a_value_has_the_best_grade_whose_limit_it_keeps(document: dict[str, object], value: float, grade: str | None) -> None:
    (threshold,) = parse_sla("mine", document).thresholds
    assert threshold.grade(value) == grade


def test_the_gate_chooses_the_limit() -> None:
    sla = parse_sla(
        "mine",
        {
            "ttft": {"p50": "200ms", "p99": FULL},
            "error_rate": {"target": "0.1%", "poor": "5%"},
            "goodput": {"min": {"target": "99%", "acceptable": "90%"}, "within": {"ttft": "1s"}},
            "hardware": {"t4": {"ttft": {"p99": {"target": "2s", "acceptable": "6s"}}}},
        },
    )
    at_target = {"ttft_p50": 0.2, "ttft_p99": 1.0, "error_rate": 0.001, "goodput": 0.99}
    assert (sla.gate, limits(sla)) == ("target", at_target)
    lenient = sla.at("acceptable")
    assert (lenient.gate, limits(lenient)) == ("acceptable", {**at_target, "ttft_p99": 3.0, "goodput": 0.9})
    assert lenient.at("target") == sla
    assert lenient.on(cell_on("t4")) == sla.on(cell_on("t4")).at("acceptable")
    assert limits(lenient.on(cell_on("t4")))["ttft_p99"] == 6.0
    assert repr(lenient).startswith("Sla(mine at acceptable: TTFT p50 <= 200ms, TTFT p99 <= 3s")
    assert lenient.thresholds[1].grades == Grades(1.0, 3.0, 5.0)


def test_goodput_may_have_limits_of_its_own() -> None:
    sla = parse_sla("mine", {"goodput": {"min": ">= 95%", "within": {"ttft": "1s", "tpot": "50ms", "e2e": "<= 20s"}}})
    (threshold,) = sla.thresholds
    assert (threshold.limit, threshold.within) == (0.95, (("ttft", 1.0), ("tpot", 0.05), ("e2e", 20.0)))
    assert hash(sla) == hash(replace(sla))
    (bare, _) = parse_sla("mine", {"goodput": {"min": "95%"}, "ttft": {"p99": "1s"}}).thresholds
    assert (bare.limit, bare.within) == (0.95, ())


OVERRIDDEN: dict[str, object] = {
    "ttft": {"p50": "200ms", "p99": "1s"},
    "error_rate": "1%",
    "hardware": {
        "h100": {"ttft": {"p99": "500ms"}, "tpot": {"p95": "20ms"}},
        "h100x4": {"ttft": {"p99": "300ms"}},
        "h100x1": {"tpot": {"p95": "30ms"}},
    },
    "cells": {"gke_h100x4_standalone_llama-3.3-70b": {"ttft": {"p99": "800ms"}, "error_rate": "2%"}},
}


@pytest.mark.parametrize(
    ("hardware", "model", "changed"),
    [
        ("t4", "llama-3.1-8b", {}),
        ("h100", "llama-3.1-8b", {"ttft_p99": 0.5, "tpot_p95": 0.03}),
        ("h100x2", "llama-3.1-8b", {"ttft_p99": 0.5, "tpot_p95": 0.02}),
        ("h100x4", "llama-3.1-8b", {"ttft_p99": 0.3, "tpot_p95": 0.02}),
        ("h100x4", "llama-3.3-70b", {"ttft_p99": 0.8, "tpot_p95": 0.02, "error_rate": 0.02}),
    ],
)
@pytest.mark.parametrize("order", [1, -1], ids=["general first", "specific first"])
def test_the_more_specific_override_wins(hardware: str, model: str, changed: dict[str, float], order: int) -> None:
    names = OVERRIDDEN["hardware"]
    assert isinstance(names, dict)
    sla = parse_sla("mine", {**OVERRIDDEN, "hardware": dict(list(names.items())[::order])})
    there = sla.on(cell_on(hardware, model))
    assert limits(there) == {"ttft_p50": 0.2, "ttft_p99": 1.0, "error_rate": 0.01, **changed}
    assert there.overrides == ()
    assert there.on(cell_on("h100")) == there


@pytest.mark.parametrize(
    ("document", "path", "message"),
    [
        ({"ttft": {"p99": "1"}}, "ttft.p99", "'1' has no unit"),
        ({"tfft": {"p99": "1s"}}, "tfft.p99", "unknown metric 'tfft'; did you mean 'ttft'?"),
        ({"error_rate": "1.5"}, "error_rate", "write '1.5%' or 0.015"),
        ({"error_rate": 1}, "error_rate", "'1' may be a percentage or a fraction: write '1%' or 0.01"),
        ({"ttft": {"p99": "1s"}, "goodput": 95}, "goodput", "write '95%' or 0.95"),
        ({"error_rate": "101%"}, "error_rate", "not a fraction between 0 and 1"),
        ({"error_rate": None}, "error_rate", "must be a limit, not nothing"),
        ({"ttft": {"p99": ["1s"]}}, "ttft.p99", "must be a limit, not a list"),
        ({"ttft": {"p99": "1s"}, "ttft_p99": "2s"}, "ttft_p99", "TTFT p99 has a limit already"),
        ({"ttft": {}, "error_rate": "1%"}, "ttft", "needs a limit"),
        ({}, "", "an SLA needs at least one limit"),
        # Grades.
        ({"ttft": {"target": "1s"}}, "ttft.target", "needs a statistic before its grades"),
        ({"ttft": {"p99": {"acceptable": "1s"}}}, "ttft.p99", "a graded limit needs 'target'"),
        ({"ttft": {"p99": {"taget": "1s"}}}, "ttft.p99.taget", "unknown key 'taget'; did you mean 'target'?"),
        ({"ttft_p99": {"target": "1s", "poor": "2"}}, "ttft_p99.poor", "'2' has no unit"),
        ({"error_rate": {"targte": "1%"}}, "error_rate.targte", "did you mean 'target'?"),
        ({"error_rate": {"p99": "1%"}}, "error_rate.p99", "error_rate has one value a run, so no statistic 'p99'"),
        (
            {"ttft": {"p99": {"target": "1s", "acceptable": "500ms"}}},
            "ttft.p99.acceptable",
            "'acceptable' (500ms) must be laxer than 'target' (1s), which is higher for TTFT p99",
        ),
        (
            {"ttft": {"p99": {"poor": "3s", "acceptable": "3s", "target": "1s"}}},
            "ttft.p99.poor",
            "must be laxer than 'acceptable'",
        ),
        ({"request_rate": {"target": "4/s", "poor": "5/s"}}, "request_rate.poor", "which is lower for requests/s"),
        # Goodput.
        ({"goodput": "95%"}, "goodput", "no limit says when a request is good"),
        ({"goodput": "95%", "ttft": {"mean": "1s"}}, "goodput", "no limit says when a request is good"),
        ({"goodput": {"within": {"ttft": "1s"}}}, "goodput", "needs 'min'"),
        ({"goodput": {"mim": "9%", "within": {"ttft": "1s"}}}, "goodput.mim", "did you mean 'min'?"),
        ({"goodput": {"targe": "9%"}}, "goodput.targe", "did you mean 'target'?"),
        (
            {"goodput": {"target": "99%", "acceptable": "95%", "within": {"ttft": "1s"}}},
            "goodput.target",
            "the grades of goodput stand below 'min': write min: {target: 99%, acceptable: 95%}",
        ),
        ({"goodput": {"min": "95%", "poor": "9%"}}, "goodput.poor", "write min: {poor: 9%}"),
        ({"goodput": {"min": "95%", "within": {}}}, "goodput.within", "not an empty mapping"),
        ({"goodput": {"min": "95%", "within": "1s"}}, "goodput.within", "not '1s'"),
        ({"goodput": {"min": "95%", "within": {"itl": "1s"}}}, "goodput.within.itl", "known: ttft, tpot, e2e, service_ttft"),
        ({"goodput": {"min": "95%", "within": {"tftt": "1s"}}}, "goodput.within.tftt", "did you mean 'ttft'?"),
        ({"goodput": {"min": "95%", "within": {"ttft_p99": "1s"}}}, "goodput.within.ttft_p99", "no statistic: write 'ttft'"),
        ({"goodput": {"min": "95%", "within": {"ttft": {"p99": "1s"}}}}, "goodput.within.ttft", "one TTFT: give one limit"),
        ({"goodput": {"min": "95%", "within": {"ttft": "200m"}}}, "goodput.within.ttft", "did you mean '200ms'?"),
        (
            {"goodput": {"min": {"target": "9%", "acceptable": "10%"}, "within": {"ttft": "1s"}}},
            "goodput.min.acceptable",
            "which is lower for goodput",
        ),
        # Slips of the pen.
        ({"ttft": {"p9": "1s"}}, "ttft.p9", "did you mean 'p90' or 'p99'?"),
        ({"ttft_p5": "1s"}, "ttft_p5", "did you mean 'p50' or 'p95'?"),
        ({"ttft": {"p0.99": "1s"}}, "ttft.p0.99", "did you mean an upper quantile"),
        ({"ttft": {"p99": "200m"}}, "ttft.p99", "'200m' is 200 minutes; did you mean '200ms'?"),
        ({"e2e": {"p99": "2h"}}, "e2e.p99", "'2h' is more than an hour"),
        ({"ttft": {"p99": ">= 1s"}}, "ttft.p99", "TTFT p99 is better when lower: write '<= 1s'"),
        ({"ttft": "1s"}, "ttft", "ttft needs a statistic: write ttft: {p99: 1s}"),
        ({"itl": None}, "itl", "itl needs a statistic: write itl: {p99: 1s}"),
        ({"TTFT_P99": "1s"}, "TTFT_P99", "unknown metric 'TTFT_P99'; did you mean 'ttft_p99'?"),
        ({"TTFT_P99": {"target": "1s"}}, "TTFT_P99.target", "did you mean 'ttft_p99'?"),
        ({"tfft_p95": "1s"}, "tfft_p95", "did you mean 'ttft_p95'?"),
        ({"tfft": "1s"}, "tfft", "did you mean 'ttft'?"),
        ({"p99": "1s"}, "p99", "unknown metric 'p99' (known: "),
        ({"error_rate_p99": "1%"}, "error_rate_p99", "error_rate has one value a run"),
        ({"ttft": {"p99": "1s"}, "goodput": 1}, "goodput", "write '100%' or '1%'"),
        # Limits that could never decide.
        (
            {"ttft": {"p99": "1s", "p95": "2s"}},
            "ttft.p95",
            "TTFT p95 <= 2s says nothing beside TTFT p99 <= 1s: p95 is never more than p99; are the two swapped?",
        ),
        ({"itl": {"max": "1s"}, "itl_p99.9": "1.1s"}, "itl_p99.9", "ITL p99.9 <= 1.1s says nothing beside ITL max <= 1s"),
        ({"e2e": {"min": "2s", "p50": "1s"}}, "e2e.min", "E2E min <= 2s says nothing beside E2E p50 <= 1s"),
        (
            {"ttft": {"p50": {"target": "1s", "acceptable": "4s"}, "p99": {"target": "2s", "acceptable": "3s"}}},
            "ttft.p50",
            "TTFT p50 <= 4s says nothing beside TTFT p99 <= 3s (acceptable)",
        ),
        (
            {"error_rate": "1%", "hardware": {"h100": {"ttft": {"p50": "2s", "p99": "1s"}}}},
            "hardware.h100.ttft.p50",
            "TTFT p50 <= 2s says nothing",
        ),
        # Overrides.
        ({"hardware": {"h100": {"error_rate": "1%"}}}, "", "at least one limit that holds in every cell"),
        ({"error_rate": "1%", "hardware": "h100"}, "hardware", "must be a mapping of hardware names to limits"),
        ({"error_rate": "1%", "cells": {}}, "cells", "must be a mapping of cell ids to limits"),
        ({"error_rate": "1%", "hardware": {"h100": {}}}, "hardware.h100", "with at least one"),
        ({"error_rate": "1%", "hardware": {"h100": "2%"}}, "hardware.h100", "must be a mapping of metrics to limits"),
        ({"error_rate": "1%", "hardware": {"h100": {"ttft": {"p99": 1}}}}, "hardware.h100.ttft.p99", "'1' has no unit"),
        ({"error_rate": "1%", "cells": {"c": {"eror_rate": 0}}}, "cells.c.eror_rate", "did you mean 'error_rate'?"),
        ({"error_rate": "1%", "hardwrae": {"h100": {"ttft": "1s"}}}, "hardwrae.h100", "did you mean 'hardware'?"),
        ({"error_rate": "1%", "hardware": {"h100": {"cells": {"c": {}}}}}, "hardware.h100.cells", "overrides do not nest"),
        ({"error_rate": "1%", "hardware": {"h100": {"goodput": "9%"}}}, "hardware.h100.goodput", "no limit says when"),
    ],
)
def test_a_bad_entry_leads_to_itself_and_says_what_was_meant(document: dict[str, object], path: str, message: str) -> None:
    with pytest.raises(SlaKeyError) as caught:
        parse_sla("mine", document)
    assert ".".join(caught.value.path) == path
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "document",
    [
        {"ttft": {"p95": "1s", "p99": "1s", "max": "1s"}},
        {"ttft": {"mean": "2s", "p99": "1s"}},
        {"ttft": {"p99": "1s"}, "service_ttft": {"p95": "2s"}},
        # Only p95 says what is acceptable.
        {"ttft": {"p95": {"target": "500ms", "acceptable": "2s"}, "p99": "1s"}},
        # At the gate acceptable p99 may be 3 s, and p95 binds.
        {"ttft": {"p95": "2s", "p99": {"target": "1s", "acceptable": "3s"}}},
        # Where the server is fast, p99 alone is tightened.
        {"ttft": {"p95": "500ms", "p99": "1s"}, "hardware": {"h100": {"ttft": {"p99": "400ms"}}}},
    ],
)
def test_limits_that_may_stand_side_by_side(document: dict[str, object]) -> None:
    sla = parse_sla("mine", document)
    assert {threshold.key.metric.name for threshold in sla.thresholds} <= {"ttft", "service_ttft"}
    assert len(sla.thresholds) >= 2


def test_the_limits_of_a_line_are_the_same_at_every_gate() -> None:
    (graded,) = parse_sla("mine", {"ttft_p99": FULL}).thresholds
    assert graded.limits == graded.at("acceptable").limits == {"target": 1.0, "acceptable": 3.0, "poor": 5.0}
    assert list(graded.limits) == ["target", "acceptable", "poor"]
    (bare,) = parse_sla("mine", {"ttft_p99": "1s"}).thresholds
    assert bare.limits == {"target": 1.0}


@pytest.mark.parametrize("limit", ["60m", "1h", "59m"])
def test_an_hour_is_a_limit(limit: str) -> None:
    assert limits(parse_sla("mine", {"e2e": {"max": limit}}))["e2e_max"] <= 3600


def test_what_is_no_mapping_is_refused() -> None:
    with pytest.raises(SlaKeyError, match="an SLA is a mapping of metrics to limits, not 'fast'"):
        parse_sla("mine", "fast")  # type: ignore[arg-type]
