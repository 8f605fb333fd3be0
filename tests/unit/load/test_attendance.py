"""Who is there when: the total is the line of the stages, whoever drives whom."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_llmperf.experiment.profile import Concurrency
from pytest_llmperf.experiment.stages import Stage, UserStages
from pytest_llmperf.load.attendance import Span, attendance

levels = st.integers(0, 12).map(float)
parts = st.lists(
    st.builds(Stage, st.sampled_from([0.5, 3.0, 10.0]), levels, levels, st.just("users")), min_size=1, max_size=5
).filter(lambda stages: not all(stage.is_empty for stage in stages))


def line_at(stages: list[Stage], at_s: float) -> float:
    for stage in stages:
        if at_s < stage.duration_s:
            return stage.start + at_s / stage.duration_s * (stage.end - stage.start)
        at_s -= stage.duration_s
    return 0.0


@settings(deadline=None)
@given(parts, st.floats(0.001, 0.999), st.floats(0, 5), st.booleans())
def test_as_many_are_there_as_the_line_rounded_up(stages: list[Stage], share: float, warmup_s: float, repeat: bool) -> None:
    profile = UserStages(tuple(stages), repeat=repeat)
    there = attendance(profile, warmup_s)
    at_s = share * profile.length_s
    around = {math.ceil(line_at(stages, at_s + off_s)) for off_s in (-1e-6, 0.0, 1e-6)}
    for number in range(3 if repeat else 1):
        assert there.users_at(warmup_s + number * profile.length_s + at_s) in around
    if not repeat:
        assert there.users_at(warmup_s + profile.length_s + 0.1) == 0


@settings(deadline=None)
@given(parts, st.integers(0, 11), st.floats(0, 60))
def test_the_next_span_has_not_ended_and_no_earlier_one_is_left_out(stages: list[Stage], user: int, at_s: float) -> None:
    there = attendance(UserStages(tuple(stages)), 0.0)
    if user >= len(there):
        return
    left = [span for span in there.spans[user] if span.until_s > at_s]
    assert there.next_span(user, at_s) == (left[0] if left else None)
    assert all(one.until_s < other.from_s for one, other in zip(there.spans[user], there.spans[user][1:], strict=False))


def test_a_ramp_of_users() -> None:
    there = attendance(Concurrency(8, ramp_s=30.0), 2.0)
    assert [spans[0].from_s for spans in there.spans] == [3.75 * user for user in range(8)]
    assert [there.users_at(2.0 + at_s) for at_s in (0.0, 3.7, 3.8, 29.0, 1000.0)] == [1, 1, 2, 8, 8]
    # The warm-up is by whoever comes first.
    assert there.users_at(0.0) == there.users_at(1.9) == 1


def test_without_a_ramp_all_are_there_from_the_warm_up_on() -> None:
    there = attendance(Concurrency(5), 2.0)
    assert [there.users_at(at_s) for at_s in (0.0, 1.0, 2.0, 1e6)] == [5] * 4


def test_who_came_last_leaves_first_and_may_come_again() -> None:
    up_down_up = UserStages((Stage(10.0, 2, 2, "users"), Stage(4.0, 2, 0, "users"), Stage(6.0, 2, 2, "users")))
    there = attendance(up_down_up, 0.0)
    assert there.spans == ((Span(0.0, 20.0),), (Span(0.0, 12.0), Span(14.0, 20.0)))


def test_the_first_to_come_do_the_warm_up_although_nobody_is_there_at_first() -> None:
    there = attendance(UserStages((Stage(10.0, 0, 0, "users"), Stage(5.0, 3, 3, "users"))), 4.0)
    assert [there.users_at(at_s) for at_s in (0.0, 3.9, 4.1, 13.9, 14.1)] == [3, 3, 0, 0, 3]
    assert there.next_span(2, 4.0) == Span(14.0, 19.0)


@pytest.mark.parametrize("workers", range(1, 9))
def test_every_user_belongs_to_one_worker(workers: int) -> None:
    there = attendance(UserStages((Stage(20.0, 1, 30, "users"),)), 0.0)
    for at_s in np.linspace(0.01, 19.9, 17).tolist():
        shares = []
        for worker in range(workers):
            spans = [there.next_span(user, at_s) for user in range(worker, len(there), workers)]
            shares.append(sum(span is not None and span.from_s <= at_s for span in spans))
        assert sum(shares) == there.users_at(at_s)
        assert max(shares) - min(shares) <= 1
