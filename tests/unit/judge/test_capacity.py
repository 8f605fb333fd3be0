"""The search for a capacity: servers with a sharp limit, rates that cannot be told, and a client that gives up first."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from pytest_llmperf.judge.capacity import Capacity, Ending, Probe, ProbeAt, probe_duration_s, search
from pytest_llmperf.judge.policy import Policy
from pytest_llmperf.judge.ruling import judge_run
from pytest_llmperf.judge.verdict import Outcome
from tests.unit.judge.loads import loaded, run, sla
from tests.unit.measure.logs import streamed


def server(limit_per_s: float) -> ProbeAt:
    """Passes up to its limit."""

    def probe(rate_per_s: float) -> Probe:
        if rate_per_s <= limit_per_s:
            return Probe(rate_per_s, Outcome.PASS)
        return Probe(rate_per_s, Outcome.FAIL, "TTFT p95 is 2s, required <= 500ms")

    return probe


def scripted(*outcomes: Outcome) -> ProbeAt:
    """Answers with these outcomes in turn, whatever the rate."""
    rest = iter(outcomes)
    return lambda rate_per_s: Probe(rate_per_s, outcome := next(rest), "" if outcome is Outcome.PASS else "so it is")


def rates(capacity: Capacity) -> list[float]:
    return [round(probe.rate_per_s, 3) for probe in capacity.probes]


@pytest.mark.parametrize("seed", range(50))
def test_a_sharp_limit_is_found_within_the_precision(seed: int) -> None:
    rng = random.Random(seed)
    limit, precision = math.exp(rng.uniform(0, math.log(64))), rng.choice([0.02, 0.05, 0.1, 0.5])
    capacity = search(1.0, 64.0, server(limit), precision=precision, max_probes=20)
    assert capacity.rate_per_s is not None
    assert capacity.rate_per_s <= limit < capacity.high_per_s <= capacity.rate_per_s * (1 + precision)
    assert capacity.ending is Ending.FOUND
    assert capacity.low_per_s == capacity.rate_per_s
    assert len(rates(capacity)) == len(set(rates(capacity))), "no rate is paid for twice"


@pytest.mark.parametrize("limit", [1.0, 1.01, 5.3, 31.9, 32.0, 63.9])
def test_twelve_probes_are_enough_from_1_to_64_at_5_percent(limit: float) -> None:
    assert search(1.0, 64.0, server(limit)).ending is Ending.FOUND


def test_it_doubles_and_then_halves_the_bracket_on_a_logarithmic_scale() -> None:
    capacity = search(1.0, 100.0, server(5.0), precision=0.1)
    assert rates(capacity) == [1, 2, 4, 8, 5.657, 4.757, 5.187]
    assert capacity.rate_per_s == pytest.approx(4.757, rel=1e-3)
    assert capacity.reason == "4.76/s passes and 5.19/s fails"


def test_the_highest_rate_is_not_exceeded_and_its_pass_is_a_lower_bound() -> None:
    capacity = search(3.0, 10.0, server(math.inf))
    assert rates(capacity) == [3, 6, 10]
    assert (capacity.rate_per_s, capacity.high_per_s, capacity.ending) == (10.0, math.inf, Ending.BEYOND)
    assert capacity.reason == "at least 10/s, the highest rate asked for"


def test_one_rate_is_one_probe() -> None:
    assert search(4.0, 4.0, server(9.0)).ending is Ending.BEYOND
    assert search(4.0, 4.0, server(3.0)).ending is Ending.BELOW


def test_a_lowest_rate_that_fails_leaves_no_capacity() -> None:
    capacity = search(2.0, 64.0, server(1.0))
    assert rates(capacity) == [2]
    assert (capacity.rate_per_s, capacity.low_per_s, capacity.high_per_s) == (None, 0.0, 2.0)
    assert capacity.ending is Ending.BELOW
    assert capacity.reason == "below 2/s, the lowest rate asked for: TTFT p95 is 2s, required <= 500ms"


def test_a_lowest_rate_that_cannot_be_told_is_not_called_a_failure() -> None:
    capacity = search(2.0, 64.0, scripted(Outcome.INCONCLUSIVE))
    assert capacity.rate_per_s is None
    assert capacity.reason.startswith("not shown for 2/s")


def test_a_rate_that_cannot_be_told_is_an_upper_end_and_named_as_such() -> None:
    capacity = search(1.0, 64.0, scripted(Outcome.PASS, Outcome.INCONCLUSIVE, Outcome.PASS), precision=0.5)
    assert rates(capacity) == [1, 2, 1.414]
    assert [probe.outcome for probe in capacity.probes] == [Outcome.PASS, Outcome.INCONCLUSIVE, Outcome.PASS]
    assert capacity.rate_per_s == pytest.approx(math.sqrt(2))
    assert capacity.reason == "1.41/s passes and 2/s was not shown to pass"


def test_a_client_that_is_the_limit_ends_the_search_and_is_not_the_servers_limit() -> None:
    capacity = search(1.0, 64.0, scripted(Outcome.PASS, Outcome.PASS, Outcome.INVALID))
    assert (capacity.rate_per_s, capacity.high_per_s, capacity.ending) == (2.0, math.inf, Ending.INVALID)
    assert capacity.reason == "not known: 2/s passes, and 4/s could not be measured: so it is"


def test_an_invalid_first_probe_shows_nothing() -> None:
    capacity = search(1.0, 64.0, scripted(Outcome.INVALID))
    assert (capacity.rate_per_s, capacity.ending) == (None, Ending.INVALID)
    assert "no lower rate was tried" in capacity.reason


@pytest.mark.parametrize("most", range(1, 9))
def test_never_more_probes_than_allowed(most: int) -> None:
    capacity = search(1.0, 64.0, server(20.0), precision=0.001, max_probes=most)
    assert len(capacity.probes) == most
    assert capacity.ending is Ending.SPENT
    assert capacity.rate_per_s is not None
    assert capacity.rate_per_s <= 20.0 < capacity.high_per_s
    assert f"the {most} probes were used up" in capacity.reason


@pytest.mark.parametrize(
    ("lo", "hi", "precision", "most"),
    [(0.0, 1.0, 0.05, 12), (2.0, 1.0, 0.05, 12), (1.0, math.inf, 0.05, 12), (1.0, 2.0, 0.0, 12), (1.0, 2.0, 0.05, 0)],
)
def test_a_search_that_makes_no_sense_is_refused(lo: float, hi: float, precision: float, most: int) -> None:
    with pytest.raises(ValueError, match="cannot search"):
        search(lo, hi, server(1.5), precision=precision, max_probes=most)


CERTAIN_LINES: list[dict[str, object]] = [
    {"ttft": {"p95": "1s"}},
    {"ttft": {"p99": "1s"}, "error_rate": "2%"},
    {"tpot": {"mean": "50ms"}},
    {"output_tokens_per_s": 10},
]


@pytest.mark.parametrize("document", CERTAIN_LINES, ids=str)
@pytest.mark.parametrize("rate", [10.0, 40.0])
def test_a_probe_is_long_enough_for_the_policy(document: dict[str, object], rate: float) -> None:
    duration_s = probe_duration_s(sla(document), rate, 5.0, Policy.CERTAIN)
    passed = 0
    for seed in range(5):
        ttfts = np.random.default_rng(seed).uniform(0.10, 0.11, int(duration_s * rate) + 1).tolist()
        result = loaded([streamed(i / rate, ttft, 0.02, 4) for i, ttft in enumerate(ttfts)])
        passed += judge_run(run(result), sla(document), Policy.CERTAIN).outcome is Outcome.PASS
    # Now and then independent requests look as if they were not.
    assert passed >= 4
    assert probe_duration_s(sla(document), rate, 5.0) < duration_s


def test_no_probe_is_shorter_than_asked() -> None:
    for policy in Policy:
        assert probe_duration_s(sla({"ttft": {"p50": "1s"}}), 1000.0, 30.0, policy) == 30.0
