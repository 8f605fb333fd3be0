"""Pairs of runs: the sequential t test against its formula, the levels, noise, and pairs that failed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from pytest_llmperf.judge.paired import LEVELS, PairedVerdict, judge_pairs, level_of
from pytest_llmperf.judge.verdict import Outcome

MARGIN = 0.05


def draws(shift: float, sd: float, pairs: int, seed: int = 0) -> list[float]:
    """Log ratios of servers that differ by ``shift``, one normal draw a pair."""
    return [float(value) for value in np.random.default_rng(seed).normal(math.log1p(shift), sd, pairs)]


def sequential(log_ratios: list[float], pairs_max: int) -> PairedVerdict:
    """The verdict at the first look that has one."""
    verdicts = (judge_pairs(log_ratios[:pairs], MARGIN, pairs_max) for pairs in range(1, pairs_max + 1))
    return next(verdict for verdict in verdicts if verdict.outcome is not None)


@pytest.mark.parametrize("seed", range(200))
@pytest.mark.parametrize("pairs_max", [8, 20])
def test_outcome_ratio_and_interval_are_those_of_a_t_test(seed: int, pairs_max: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = int(rng.integers(3, pairs_max + 1))
    log_ratios = draws(rng.choice([-0.02, 0.0, 0.05, 0.1, 0.2]), rng.uniform(0.005, 0.06), pairs, seed)
    verdict = judge_pairs(log_ratios, MARGIN, pairs_max)
    bound = math.log1p(MARGIN)
    worse = stats.ttest_1samp(log_ratios, bound, alternative="greater").pvalue <= LEVELS[pairs_max]
    fine = stats.ttest_1samp(log_ratios, bound, alternative="less").pvalue <= LEVELS[pairs_max]
    assert (verdict.outcome is Outcome.FAIL) == worse
    assert (verdict.outcome is Outcome.PASS) == fine
    low, high = stats.t.interval(0.9, pairs - 1, np.mean(log_ratios), stats.sem(log_ratios))
    assert (verdict.ratio, verdict.low, verdict.high) == pytest.approx(tuple(np.exp([np.mean(log_ratios), low, high])))


@pytest.mark.parametrize(("pairs_max", "level"), [(3, 0.0243), (5, 0.0243), (6, 0.0158), (8, 0.0158), (21, 0.0073), (30, 0.0073)])
def test_between_two_tabulated_numbers_the_stricter_level_holds(pairs_max: int, level: float) -> None:
    assert level_of(pairs_max) == level


@pytest.mark.parametrize("pairs_max", [0, 2, 31])
def test_numbers_of_pairs_without_a_level_are_refused(pairs_max: int) -> None:
    with pytest.raises(ValueError, match="from 3 to 30"):
        level_of(pairs_max)


@pytest.mark.parametrize(
    ("pairs_max", "shift", "wrong"), [(8, MARGIN, Outcome.PASS), (8, MARGIN, Outcome.FAIL), (20, 0.0, Outcome.FAIL)]
)
def test_each_error_stays_within_5_percent_over_all_looks(pairs_max: int, shift: float, wrong: Outcome) -> None:
    rounds = 1500
    errors = sum(sequential(draws(shift, 0.03, pairs_max, seed), pairs_max).outcome is wrong for seed in range(rounds))
    # 4 standard errors above 5 %.
    assert errors / rounds <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / rounds)


def test_a_tenth_more_is_found_in_eight_pairs() -> None:
    found = sum(sequential(draws(0.1, 0.03, 8, seed), 8).outcome is Outcome.FAIL for seed in range(300))
    assert found >= 0.8 * 300


@pytest.mark.parametrize("pairs", [0, 1, 2])
def test_no_verdict_before_the_third_pair(pairs: int) -> None:
    verdict = judge_pairs([0.5] * pairs, MARGIN, 8)
    assert verdict.outcome is None
    assert verdict.pairs == pairs
    assert math.isnan(verdict.ratio) == (pairs == 0)


@pytest.mark.parametrize(("shift", "outcome"), [(0.0, Outcome.PASS), (-0.5, Outcome.PASS), (0.2, Outcome.FAIL), (MARGIN, None)])
def test_pairs_without_any_spread(shift: float, outcome: Outcome | None) -> None:
    verdict = judge_pairs([math.log1p(shift)] * 3, MARGIN, 8)
    assert verdict.outcome is outcome
    assert (verdict.ratio, verdict.low, verdict.high) == pytest.approx((1 + shift,) * 3)


def test_after_the_last_pair_it_is_inconclusive() -> None:
    log_ratios = [0.02, 0.08, 0.03, 0.07, 0.05]
    assert judge_pairs(log_ratios, MARGIN, 8).outcome is None
    last = judge_pairs(log_ratios, MARGIN, 5)
    assert last.outcome is Outcome.INCONCLUSIVE
    assert last.note == "5 pairs are not enough to tell"


def test_too_noisy_pairs_are_given_up_after_three_and_say_what_to_do() -> None:
    verdict = judge_pairs([-0.2, 0.05, 0.25], MARGIN, 8)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.pairs == 3
    assert "lower the load or make the runs longer" in verdict.note
    assert "22.5%" in verdict.note


def test_a_difference_that_stands_out_of_the_noise_is_followed_up() -> None:
    noisy = [0.5, 0.8, 1.3]
    assert judge_pairs(noisy, MARGIN, 8).outcome is None
    assert judge_pairs([*noisy, 0.7, 0.9], MARGIN, 8).outcome is Outcome.FAIL


def test_noise_after_the_first_look_does_not_end_it_but_is_named_at_the_end() -> None:
    calm_first = [0.04, 0.05, 0.06, -0.4, 0.4]
    assert judge_pairs(calm_first, MARGIN, 8).outcome is None
    assert "lower the load" in judge_pairs(calm_first, MARGIN, 5).note


def test_a_candidate_that_always_fails_is_worse_and_one_that_sometimes_does_cannot_be_told() -> None:
    assert judge_pairs([math.inf] * 2, MARGIN, 8).outcome is None
    assert judge_pairs([math.inf] * 3, MARGIN, 8).outcome is Outcome.FAIL
    assert judge_pairs([math.inf, 0.0, 0.0], MARGIN, 8).outcome is None
    mixed = judge_pairs([math.inf, 0.0, 0.0, 0.0, 0.0], MARGIN, 5)
    assert mixed.outcome is Outcome.INCONCLUSIVE
    assert mixed.note.startswith("in 1 of 5 pairs")


def test_a_base_that_always_fails_is_no_better_and_one_that_sometimes_does_cannot_be_told() -> None:
    assert judge_pairs([-math.inf] * 2, MARGIN, 8).outcome is None
    better = judge_pairs([-math.inf] * 3, MARGIN, 8)
    assert (better.outcome, better.ratio) == (Outcome.PASS, 0.0)
    assert better.note == "in 3 of 3 pairs the base is infinitely worse: its requests failed"
    mixed = judge_pairs([-math.inf, -math.inf, 0.0, math.inf, 0.0], MARGIN, 5)
    assert mixed.outcome is Outcome.INCONCLUSIVE
    assert mixed.note.startswith("in 1 of 5 pairs so many requests failed that it is inf; in 2 of 5 pairs the base is")


def test_nan_and_margins_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="without a ratio"):
        judge_pairs([0.0, math.nan], MARGIN, 8)
    with pytest.raises(ValueError, match="margin"):
        judge_pairs([0.0], 0.0, 8)
