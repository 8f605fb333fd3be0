"""Verdicts beside a baseline: at, around and far from the tolerance, with one run a side and with several."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from pytest_llmperf.errors import Where
from pytest_llmperf.judge.change_interval import runs_needed
from pytest_llmperf.judge.regression import Change, ChangeVerdict, Sample, compare, worst
from pytest_llmperf.judge.tolerance import parse_tolerance
from pytest_llmperf.measure.interval import proportion_interval, quantile_interval_ranks

INF, NAN = math.inf, math.nan


def exactly(value: float) -> Sample:
    """A run that measured without an error of its own."""
    return Sample(value, value, value)


def about(value: float, share: float) -> Sample:
    """A run whose own 95 % interval reaches so far either way, as a factor."""
    return Sample(value, value / (1 + share), value * (1 + share))


def held(tolerance: str, now: Sequence[Sample], before: Sequence[Sample]) -> Change:
    parsed = parse_tolerance(tolerance, Where(key="test"))
    return compare(parsed.key, now, before, parsed)


def verdict(tolerance: str, now: Sequence[Sample], before: Sequence[Sample]) -> str:
    return held(tolerance, now, before).verdict.value


# With one run a side and no error of its own, 2 % between runs leave ±4.65 % in the logarithm: 1.645 x 0.02 x sqrt(2).
@pytest.mark.parametrize(
    ("tolerance", "now", "said"),
    [
        ("ttft_p99:10%", 0.100, "unchanged"),
        ("ttft_p99:10%", 0.104, "unchanged"),
        ("ttft_p99:10%", 0.106, "noise"),
        ("ttft_p99:10%", 0.115, "noise"),
        ("ttft_p99:10%", 0.116, "regressed"),
        ("ttft_p99:10%", 0.092, "unchanged"),
        ("ttft_p99:10%", 0.090, "improved"),
        ("ttft_p99:1%", 0.098, "noise"),
        ("ttft_p99:2%", 0.095, "improved"),
        ("output_tokens_per_s:10%", 0.1, "unchanged"),
        ("output_tokens_per_s:10%", 0.095, "unchanged"),
        ("output_tokens_per_s:10%", 0.094, "noise"),
        ("output_tokens_per_s:10%", 0.085, "regressed"),
        ("output_tokens_per_s:10%", 0.112, "improved"),
        ("ttft_p99:10ms", 0.104, "unchanged"),
        ("ttft_p99:10ms", 0.107, "noise"),
        ("ttft_p99:10ms", 0.116, "regressed"),
        ("ttft_p99:10ms", 0.089, "improved"),
    ],
)
def test_one_run_a_side_at_and_around_the_tolerance(tolerance: str, now: float, said: str) -> None:
    assert verdict(tolerance, [exactly(now)], [exactly(0.1)]) == said


@pytest.mark.parametrize("tolerance", ["ttft_max:10%", "ttft_min:10%", "e2e_mean:50ms", "output_tokens_per_s:5%", "goodput:1%"])
@pytest.mark.parametrize(
    ("now", "before"),
    [
        ([Sample(0.3)], [Sample(0.9)]),
        ([Sample(0.9)], [Sample(0.3)]),
        ([Sample(0.9)], [exactly(0.3)]),
        ([exactly(0.9)], [Sample(0.3)]),
        ([Sample(0.9), exactly(0.9)], [exactly(0.3)] * 2),
        ([Sample(0.9)], [Sample(v) for v in (0.3, 0.31, 0.29)]),
        ([Sample(v) for v in (0.3, 0.31, 0.29)], [Sample(0.9)]),
    ],
)
def test_a_value_of_unknown_error_is_not_taken_for_exact(tolerance: str, now: list[Sample], before: list[Sample]) -> None:
    change = held(tolerance, now, before)
    assert (change.verdict, math.isfinite(change.low) and change.low > 0, change.high) == (ChangeVerdict.NOISE, False, INF)
    assert change.note == ("one run does not tell how uncertain this value is: 3 runs on each side (--llmperf-repeat=3) would")


@pytest.mark.parametrize("tolerance", ["ttft_max:10%", "output_tokens_per_s:50/s", "goodput:1%"])
def test_three_runs_a_side_tell_what_no_interval_does(tolerance: str) -> None:
    low, high = [Sample(v) for v in (0.3, 0.31, 0.29)], [Sample(v) for v in (0.9, 0.91, 0.89)]
    slow = tolerance.startswith("ttft")
    if tolerance.startswith("output"):
        low, high = ([Sample(1000 * sample.value) for sample in side] for side in (low, high))
    worse, better = (high, low) if slow else (low, high)
    assert verdict(tolerance, worse, better) == "regressed"
    assert verdict(tolerance, better, worse) == "improved"


def test_the_longest_of_many_latencies_is_no_regression_of_the_same_server() -> None:
    rng = np.random.default_rng(20252)
    longest = np.exp(0.5 * rng.standard_normal((2, 200, REQUESTS))).max(axis=2)
    assert {verdict("ttft_max:10%", [Sample(a)], [Sample(b)]) for a, b in longest.T.tolist()} == {"noise"}
    several = Counter(
        verdict("ttft_max:10%", [Sample(v) for v in now], [Sample(v) for v in before])
        for now, before in longest.reshape(2, 40, 5).transpose(1, 0, 2).tolist()
    )
    assert several["regressed"] <= 4, several  # each of the 40 errs in less than 5 %


@pytest.mark.parametrize(
    ("now", "before", "said"),
    [
        (about(0.130, 0.05), about(0.1, 0.05), "regressed"),
        (about(0.130, 0.30), about(0.1, 0.05), "noise"),
        (about(0.130, 0.05), about(0.1, 0.30), "noise"),
        (about(0.070, 0.05), about(0.1, 0.05), "improved"),
        (about(0.095, 0.20), about(0.1, 0.05), "noise"),
        (Sample(0.13, 0.125, INF), about(0.1, 0.05), "regressed"),
        (Sample(0.13, 0.125, 0.14), Sample(0.1, 0.09, INF), "noise"),
        (Sample(0.05, 0.04, INF), about(0.1, 0.01), "noise"),
        (Sample(0.13, -0.1, 0.14), about(0.1, 0.01), "noise"),
    ],
)
def test_the_runs_own_intervals_count_and_only_on_the_side_that_matters(now: Sample, before: Sample, said: str) -> None:
    assert verdict("ttft_p50:10%", [now], [before]) == said


def test_own_intervals_and_the_assumed_spread_add_up_as_the_root_of_squares() -> None:
    change = held("ttft_p50:10%", [Sample(0.12, 0.11, 0.14)], [Sample(0.1, 0.09, 0.13)])
    # The runs' intervals are two-sided 95 %: 1.96 standard errors; the bounds are 1.645 away.
    shrink, between = 1.644854 / 1.959964, 1.644854 * 0.02
    d = math.log(1.2)
    below = math.hypot(shrink * math.log(0.12 / 0.11), shrink * math.log(1.3), between, between)
    above = math.hypot(shrink * math.log(0.14 / 0.12), shrink * math.log(0.1 / 0.09), between, between)
    assert (math.log(change.low), math.log(change.high)) == pytest.approx((d - below, d + above))
    assert (change.measured, change.baseline, change.ratio) == pytest.approx((0.12, 0.1, 1.2))


def test_three_runs_a_side_are_welch() -> None:
    from scipy.stats import ttest_ind

    now, before = [1.20, 1.26, 1.31, 1.24], [1.00, 1.05, 0.98]
    change = held("e2e_p50:10%", [about(v, 9.0) for v in now], [Sample(v) for v in before])
    oracle = ttest_ind(np.log(now), np.log(before), equal_var=False).confidence_interval(0.90)
    assert (math.log(change.low), math.log(change.high)) == pytest.approx((oracle.low, oracle.high))
    assert change.measured == pytest.approx(math.exp(np.log(now).mean()))
    assert change.verdict is ChangeVerdict.REGRESSED


def test_differences_of_several_runs_are_welch_too() -> None:
    from scipy.stats import ttest_ind

    now, before = [900.0, 905.0, 893.0], [1000.0, 1010.0, 995.0, 1003.0]
    change = held("output_tokens_per_s:50/s", [Sample(v) for v in now], [Sample(v) for v in before])
    oracle = ttest_ind(now, before, equal_var=False).confidence_interval(0.90)
    assert (change.low, change.high) == pytest.approx((oracle.low, oracle.high))
    assert (change.measured, change.baseline) == pytest.approx((899.333, 1002.0))
    assert change.verdict is ChangeVerdict.REGRESSED


def test_one_run_is_taken_to_spread_like_the_other_sides_several() -> None:
    before = [1.00, 1.03, 0.99, 1.02, 0.97]
    change = held("e2e_p50:10%", [about(1.2, 0.01)], [Sample(v) for v in before])
    # The prediction interval of one more run: t(4) = 2.1318.
    half = 2.131847 * float(np.std(np.log(before), ddof=1)) * math.sqrt(1 + 1 / 5)
    d = math.log(1.2) - float(np.log(before).mean())
    assert (math.log(change.low), math.log(change.high)) == pytest.approx((d - half, d + half))
    shorter = held("e2e_p50:10%", [about(1.2, 0.5)], [Sample(v) for v in before])
    assert shorter.verdict is ChangeVerdict.NOISE  # its own interval is wider than the others' spread


@pytest.mark.parametrize("runs", [1, 3])
def test_identical_numbers_are_unchanged(runs: int) -> None:
    assert verdict("tpot_p50:5%", [exactly(0.02)] * runs, [exactly(0.02)] * runs) == "unchanged"


def test_a_share_of_requests_is_compared_in_points() -> None:
    def run(failed: int, of: int) -> Sample:
        return Sample(failed / of, *proportion_interval(failed, of))

    tolerance = "error_rate:0.5%"
    assert verdict(tolerance, [run(0, 5000)], [run(0, 5000)]) == "unchanged"
    assert verdict(tolerance, [run(1, 5000)], [run(0, 5000)]) == "unchanged"
    assert verdict(tolerance, [run(0, 100)], [run(0, 100)]) == "noise"
    assert verdict(tolerance, [run(100, 5000)], [run(0, 5000)]) == "regressed"
    assert verdict(tolerance, [run(0, 5000)], [run(100, 5000)]) == "improved"
    # Runs without a failure have no spread to learn from: their own intervals remain.
    assert verdict(tolerance, [run(0, 20)] * 3, [run(0, 20)] * 3) == "noise"
    change = held(tolerance, [run(100, 5000)], [run(0, 5000)])
    assert (change.ratio, change.measured - change.baseline) == pytest.approx((INF, 0.02))
    assert 0.005 < change.low < 0.02 < change.high < 0.03
    assert held(tolerance, [run(2, 100), run(0, 100)], [run(0, 100)]).measured == pytest.approx(0.01)


def test_goodput_is_better_when_higher_and_near_all_of_it_hardly_varies() -> None:
    assert verdict("goodput:1%", [exactly(0.99)], [exactly(0.992)]) == "unchanged"
    assert verdict("goodput:1%", [exactly(0.97)], [exactly(0.992)]) == "regressed"
    assert verdict("goodput:1%", [exactly(0.50)], [exactly(0.502)]) == "noise"


@pytest.mark.parametrize(
    ("now", "before", "said"),
    [
        ([], [0.1], "missing"),
        ([NAN], [0.1], "missing"),
        ([0.1], [NAN], "new"),
        ([0.1], [], "new"),
        ([NAN], [NAN], "new"),
        ([], [], "new"),
        ([INF], [0.1], "regressed"),
        ([0.1], [INF], "improved"),
        ([INF], [INF], "noise"),
        ([INF, 0.1], [0.1], "noise"),
        ([INF, INF, 0.1], [0.1], "regressed"),
        ([0.1, 0.1, 0.1], [INF, 0.1, 0.1], "noise"),
        ([NAN, 0.1], [0.1, NAN], "unchanged"),
    ],
)
def test_values_that_are_unknown_or_have_no_bound(now: list[float], before: list[float], said: str) -> None:
    change = held("ttft_p99:10%", [exactly(v) for v in now], [exactly(v) for v in before])
    assert change.verdict.value == said
    assert bool(change.note) == (said != "unchanged")
    assert not change.low > change.high


@pytest.mark.parametrize(("now", "before", "said"), [(0.0, 100.0, "regressed"), (100.0, 0.0, "improved"), (0.0, 0.0, "noise")])
def test_a_server_that_produces_nothing(now: float, before: float, said: str) -> None:
    assert verdict("output_tokens_per_s:5%", [Sample(now)], [Sample(before)]) == said


@pytest.mark.parametrize(
    ("now", "before", "said", "note"),
    [
        (INF, 0.1, "regressed", "a request failed, and so there is no maximum"),
        (0.1, INF, "noise", "a request of the baseline failed, and so it has no maximum to compare with"),
        (INF, INF, "noise", "a request of the baseline failed, and so it has no maximum to compare with"),
    ],
)
def test_one_failed_request_is_no_maximum(now: float, before: float, said: str, note: str) -> None:
    change = held("ttft_max:10%", [exactly(now)], [exactly(before)])
    assert (change.verdict, change.note) == (said, note)


def test_most_runs_say_what_is_shown_where_some_have_no_bound() -> None:
    change = held("ttft_p99:10%", [exactly(INF), exactly(INF), exactly(0.1)], [exactly(0.1)])
    assert (change.measured, change.baseline, change.ratio) == pytest.approx((INF, 0.1, INF))
    change = held("ttft_p99:10%", [exactly(INF), exactly(0.2)], [exactly(0.1)])
    assert change.measured == pytest.approx(0.2)
    assert change.note == "1 of 2 of this session's runs have no finite value: requests failed"


@pytest.mark.parametrize(
    ("tolerance", "now", "before", "note"),
    [
        (
            "tpot_p50:5%",
            [about(0.02, 0.10)],
            [about(0.02, 0.10)],
            "the change is known to ±13% only: "
            "about 17 runs on each side (--llmperf-repeat=17), or fewer longer ones, would tell",
        ),
        (
            "ttft_p99:10%",
            [about(0.2, 0.6)],
            [about(0.2, 0.6)],
            "the change is known to ±75% only: much longer runs, and several on each side, would tell; "
            "TPOT tells sooner than a latency with queueing in it",
        ),
        (
            "ttft_p50:20%",
            [exactly(0.24)],
            [exactly(0.2)],
            "the change is too close to the 20% that are allowed: only many more runs would tell",
        ),
        ("ttft_p50:20%", [Sample(0.2, 0.1, INF)], [exactly(0.2)], "the samples set no bound; longer runs do"),
        (
            "error_rate:0.5%",
            [Sample(0.0, 0.0, 0.02)],
            [Sample(0.0, 0.0, 0.02)],
            "the change is known to ±1.68pp only: "
            "about 28 runs on each side (--llmperf-repeat=28), or fewer longer ones, would tell",
        ),
        (
            "ttft_p50:0%",
            [exactly(0.2)],
            [exactly(0.2)],
            "the change is known to ±4.76% only: much longer runs, and several on each side, would tell",
        ),
    ],
)
def test_noise_says_how_well_the_change_is_known_and_what_helps(
    tolerance: str, now: Sequence[Sample], before: Sequence[Sample], note: str
) -> None:
    change = held(tolerance, now, before)
    assert (change.verdict, change.note) == (ChangeVerdict.NOISE, note)


def test_the_worst_decides() -> None:
    order = ["regressed", "incomparable", "missing", "noise", "new", "unchanged", "improved"]
    for place, word in enumerate(order):
        assert worst(map(ChangeVerdict, reversed(order[place:]))).value == word
    with pytest.raises(ValueError, match="empty"):
        worst(())


@pytest.mark.parametrize(
    ("between", "own", "change", "runs"),
    [(0.01, 0.020, 0.05, 5), (0.02, 0.020, 0.05, 7), (0.02, 0.033, 0.05, 10), (0.02, 0.059, 0.05, 23), (0.02, 0.059, 0.10, 8)],
)
def test_the_runs_that_a_change_needs(between: float, own: float, change: float, runs: int) -> None:
    assert runs_needed(math.hypot(between, own), change) == runs


REQUESTS = 1000
SIGMA, BETWEEN = 0.5, 0.02
TRIALS = 600
LOW_RANK, HIGH_RANK = quantile_interval_ranks(REQUESTS, 0.5)


def measured_tpot(rng: np.random.Generator, slower: float) -> Sample:
    """TPOT p50 of one run of a lognormal server, which the moment of the run makes 2 % faster or slower."""
    median_s = 0.02 * slower * math.exp(BETWEEN * rng.standard_normal())
    values = np.sort(median_s * np.exp(SIGMA * rng.standard_normal(REQUESTS)))
    return Sample(float(values[REQUESTS // 2 - 1]), float(values[LOW_RANK - 1]), float(values[HIGH_RANK - 1]))


@pytest.mark.parametrize("runs", [(1, 1), (5, 5)], ids=str)
@pytest.mark.parametrize(
    ("slower", "shares"),
    [
        (1.00, {"regressed": (0.0, 0.01)}),
        # Of as many trials with a true rate of 5 %, 99 % find less than 7.1 %.
        (1.05, {"regressed": (0.0, 0.071), "unchanged": (0.0, 0.071)}),
        (1.30, {"regressed": (0.95, 1.0)}),
        (0.70, {"improved": (0.95, 1.0)}),
    ],
)
def test_errors_of_a_simulated_server(runs: tuple[int, int], slower: float, shares: dict[str, tuple[float, float]]) -> None:
    rng = np.random.default_rng(20251)
    found = Counter(
        verdict(
            "tpot_p50:5%",
            [measured_tpot(rng, slower) for _ in range(runs[0])],
            [measured_tpot(rng, 1.0) for _ in range(runs[1])],
        )
        for _ in range(TRIALS)
    )
    for word, (least, most) in shares.items():
        assert least <= found[word] / TRIALS <= most, found
