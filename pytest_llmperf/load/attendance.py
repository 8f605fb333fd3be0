"""Who is there when in a closed loop: planned beforehand, so that it is the same whatever the number of workers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from pytest_llmperf.experiment.profile import Concurrency
from pytest_llmperf.experiment.stages import Stage, UserStages


@dataclass(frozen=True, slots=True)
class Span:
    """A time in which a user is there, in seconds."""

    from_s: float
    until_s: float


@dataclass(frozen=True)
class Attendance:
    """When each user is there. ``spans`` are by user and count from the window's start, again from every ``period_s`` on.

    During the warm-up those are there who come first.
    """

    window_start_s: float
    spans: tuple[tuple[Span, ...], ...]
    period_s: float | None = None

    def __len__(self) -> int:
        return len(self.spans)

    @cached_property
    def first_s(self) -> float:
        """When the first user comes, in seconds since the window's start."""
        return min(spans[0].from_s for spans in self.spans)

    def next_span(self, user: int, at_s: float) -> Span | None:
        """When that user is there at ``at_s`` or, if that is not now, next; in seconds since the run's start. None for never."""
        opened_s, period_s = self.window_start_s, self.period_s
        if at_s < opened_s and self.spans[user][0].from_s == self.first_s:
            return Span(0.0, opened_s)
        # Rounding may put an instant at the border of two rounds into either.
        rounds = (0,) if period_s is None else range(max(0, int((at_s - opened_s) / period_s) - 1), 2**62)
        for number in rounds:
            zero_s = opened_s + (number * period_s if period_s is not None else 0.0)
            for span in self.spans[user]:
                if zero_s + span.until_s > at_s:
                    return Span(zero_s + span.from_s, zero_s + span.until_s)
        return None

    def users_at(self, at_s: float) -> int:
        """How many users are there at an instant."""
        nexts = (self.next_span(user, at_s) for user in range(len(self)))
        return sum(1 for span in nexts if span is not None and span.from_s <= at_s)


def attendance(profile: Concurrency | UserStages, window_start_s: float) -> Attendance:
    """When the users of a profile are there."""
    if isinstance(profile, Concurrency):
        joins_s = (profile.ramp_s * user / profile.users for user in range(profile.users))
        return Attendance(window_start_s, tuple((Span(join_s, math.inf),) for join_s in joins_s))
    most = int(max(max(stage.start, stage.end) for stage in profile.stages))
    spans = tuple(_spans(user, profile.stages) for user in range(most))
    return Attendance(window_start_s, spans, profile.length_s if profile.repeat else None)


def _spans(user: int, stages: Sequence[Stage]) -> tuple[Span, ...]:
    """When the line of the stages is above ``user`` (from 0): a ramp from 4 to 6 brings user 4 at once and user 5 half-way."""
    spans: list[Span] = []
    began_s = 0.0
    for stage in stages:
        above = _above(user, stage)
        if above is not None:
            from_s, until_s = began_s + above.from_s, began_s + above.until_s
            if spans and spans[-1].until_s == from_s:
                from_s = spans.pop().from_s
            spans.append(Span(from_s, until_s))
        began_s += stage.duration_s
    return tuple(spans)


def _above(user: int, stage: Stage) -> Span | None:
    if max(stage.start, stage.end) <= user:
        return None
    if min(stage.start, stage.end) > user or stage.start == stage.end:
        return Span(0.0, stage.duration_s)
    crossing_s = stage.duration_s * (user - stage.start) / (stage.end - stage.start)
    return Span(crossing_s, stage.duration_s) if stage.end > stage.start else Span(0.0, crossing_s)
