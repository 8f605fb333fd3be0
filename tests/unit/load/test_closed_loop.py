"""Users who come and go, against a real server: how many are there, and that who leaves finishes what is in flight."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_llmperf.experiment.profile import LoadProfile, bursts, concurrency
from pytest_llmperf.experiment.records import Lengths, Turns
from pytest_llmperf.experiment.stages import hold, ramp, spikes, stages
from pytest_llmperf.load.engine import LoadOptions
from pytest_llmperf.load.plan import plan_load
from pytest_llmperf.load.records import LoadResult, Outcome
from tests.unit.load.conftest import PacedServer
from tests.unit.load.loads import WORKLOAD, outcomes, run, workload


def busy_s(result: LoadResult, from_s: float, until_s: float) -> float:
    """How many requests were in flight at the mean."""
    log = result.log
    inside = np.minimum(log.end_s, until_s) - np.maximum(log.scheduled_s, from_s)
    return float(inside[inside > 0].sum()) / (until_s - from_s)


def check_no_request_without_its_user(result: LoadResult, profile: LoadProfile, duration_s: float | None = None) -> None:
    """Since anybody left last, no more requests in flight have begun than there are users."""
    there = plan_load(profile, WORKLOAD, duration_s, seed=1, warmup_s=result.window_start_s).attendance
    assert there is not None
    log, period_s = result.log, there.period_s or 0.0
    ends = {span.until_s + number * period_s for spans in there.spans for span in spans for number in range(5)}
    departures_s = np.array(sorted({0.0, *(result.window_start_s + end_s for end_s in ends)}))
    for at_s in (log.scheduled_s + 1e-6).tolist():
        since_s = departures_s[departures_s <= at_s].max()
        begun = np.count_nonzero((log.scheduled_s >= since_s) & (log.scheduled_s <= at_s) & (log.end_s > at_s))
        assert begun <= there.users_at(at_s)


@pytest.mark.parametrize("workers", [1, 3])
def test_users_come_evenly_over_the_ramp(server: PacedServer, workers: int) -> None:
    profile = concurrency(6, ramp="1.2s")
    options = LoadOptions(workers=workers)
    result = run(server.endpoint(f"ok/19/2/{workers}"), profile, 1.8, warmup_s=0.3, options=options)
    log = result.log
    assert set(outcomes(result)) == {Outcome.OK}
    check_no_request_without_its_user(result, profile, 1.8)
    # Nobody comes before their time, and each comes at it: 0.3 s, then one every 0.2 s.
    joins = 0.3 + 0.2 * np.arange(6)
    for join_s in joins[1:].tolist():
        assert np.abs(log.scheduled_s - join_s).min() < 1e-6
    # A user's next request begins with the end of the last: so many users, so many requests in flight.
    assert busy_s(result, 0.0, 0.3) == pytest.approx(1.0, abs=0.01)
    assert busy_s(result, 0.3, 1.5) == pytest.approx(3.5, abs=0.01)
    assert busy_s(result, 1.5, 2.1) == pytest.approx(6.0, abs=0.01)
    assert np.array_equal(log.warmup, log.scheduled_s < 0.3)
    assert sorted(log.session[~log.warmup].tolist())[0] == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_stages_of_users(server: PacedServer, workers: int) -> None:
    profile = stages(hold(2, "500ms"), hold(6, "500ms"), ramp(6, 0, "600ms"))
    result = run(server.endpoint(f"ok/19/2/{workers}5"), profile, None, options=LoadOptions(workers=workers))
    assert set(outcomes(result)) == {Outcome.OK}
    assert result.window_end_s == pytest.approx(1.6)
    check_no_request_without_its_user(result, profile)
    assert busy_s(result, 0.0, 0.5) == pytest.approx(2.0, abs=0.01)
    assert busy_s(result, 0.5, 1.0) == pytest.approx(6.0, abs=0.01)
    # One goes home every 0.1 s, and finishes what is in flight.
    assert busy_s(result, 1.0, 1.6) > 3.49


def test_who_leaves_finishes_what_is_in_flight_and_begins_nothing_more(server: PacedServer) -> None:
    result = run(server.endpoint("ok/400/0"), stages(hold(4, "200ms"), hold(1, "600ms")))
    log = result.log
    # Four begin at once and are all answered, although three of them have left by then; the one who stays asks again.
    assert set(outcomes(result)) == {Outcome.OK}
    assert np.count_nonzero(log.scheduled_s < 0.2) == 4
    assert len(log) >= 5
    assert np.all(log.scheduled_s[4:] >= log.end_s[:4].min())
    assert np.all(log.scheduled_s[5:] >= log.end_s[4:-1])


def test_a_session_ends_with_the_request_in_which_its_user_leaves(server: PacedServer) -> None:
    asked = workload(turns=Turns(count=Lengths(3), input=Lengths(5), pause=0.2, pause_distribution="fixed"))
    result = run(server.endpoint("ok/5/0"), stages(hold(3, "150ms"), hold(1, "1s")), asked=asked)
    log = result.log
    assert set(outcomes(result)) == {Outcome.OK}
    turns = sorted(np.bincount(log.session).tolist(), reverse=True)
    # Two left after their first turn; the one who stayed went through a session of three and began the next.
    assert turns.count(1) >= 2
    assert turns[0] == 3
    assert np.all(log.scheduled_s[log.turn > 0] > 0.15)


def test_users_who_come_again_go_on_with_new_sessions(server: PacedServer) -> None:
    profile: LoadProfile = spikes(1, 3, every="500ms", lasting="200ms")
    result = run(server.endpoint("ok/19/2/7"), profile, 1.5)
    log = result.log
    assert result.window_end_s == 1.5
    for spike_s in (0.3, 0.8, 1.3):
        assert np.count_nonzero(np.abs(log.scheduled_s - spike_s) < 1e-6) == 2
        assert busy_s(result, spike_s, spike_s + 0.2) > 2.99
    assert busy_s(result, 0.0, 0.3) == pytest.approx(1.0, abs=0.01)
    check_no_request_without_its_user(result, profile, 1.5)
    assert sorted(log.session.tolist()) == list(range(len(log)))


def test_exponential_think_times_are_kept_to(server: PacedServer) -> None:
    profile = concurrency(1, "50ms", think_distribution="exponential")
    log = run(server.endpoint("ok"), profile, max_requests=12).log
    plan = plan_load(profile, WORKLOAD, None, seed=1, warmup_s=0, max_requests=12)
    thought = [session.think_s for session in plan.sessions()]
    assert np.allclose(log.scheduled_s[1:] - log.end_s[:-1], thought[:-1])
    assert len(set(thought)) == 12


def test_a_count_ends_a_load_whose_users_are_still_coming(server: PacedServer) -> None:
    result = run(server.endpoint("ok"), concurrency(50, ramp="1h"), max_requests=3)
    assert outcomes(result) == {Outcome.OK: 3}


@pytest.mark.parametrize(
    ("profile", "mean"),
    [
        # Of 30 requests the first 0.5 s belong to one user, and what is left then to two.
        (stages(hold(1, "500ms"), hold(2, "30s")), None),
        (concurrency(2, ramp="500ms"), None),
        # Two users of one worker and one of another are given twice as many requests.
        (concurrency(3), 3.0),
    ],
    ids=str,
)
def test_a_count_is_the_same_load_whatever_the_number_of_workers(
    server: PacedServer, profile: LoadProfile, mean: float | None
) -> None:
    endpoint = server.endpoint("ok/19/2/8")
    one, two = (run(endpoint, profile, max_requests=30, options=LoadOptions(workers=workers)) for workers in (1, 2))
    assert outcomes(one) == outcomes(two) == {Outcome.OK: 30}
    assert sorted(two.log.session.tolist()) == list(range(30))
    concurrent = [busy_s(result, 0.0, result.window_end_s) for result in (one, two)]
    assert concurrent[1] == pytest.approx(concurrent[0], rel=0.1)
    assert mean is None or concurrent[1] == pytest.approx(mean, rel=0.1)
    noted = [note for note in two.health.notes if "cannot be shared out" in note]
    assert (len(two.health.workers), len(noted)) == ((1, 1) if mean is None else (2, 0))


def test_stages_of_users_that_are_over_before_the_count_say_so(server: PacedServer) -> None:
    result = run(server.endpoint("ok/19/2/9"), stages(hold(2, "300ms")), max_requests=1000)
    assert f"{len(result.log)} of 1,000 requests were made: the load was over before" in result.health.notes
    whole = run(server.endpoint("ok/19/2/9"), concurrency(2), 60.0, max_requests=5)
    assert not any("were made" in note for note in whole.health.notes)


def test_a_count_that_ends_within_a_burst_is_sent(server: PacedServer) -> None:
    result = run(server.endpoint("ok"), bursts(20, every="300ms"), 2.0, max_requests=30)
    assert outcomes(result) == {Outcome.OK: 30}
