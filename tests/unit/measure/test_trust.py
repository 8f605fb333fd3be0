"""A client that fell behind is found out, and told what to do."""

from __future__ import annotations

import math
import textwrap
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmperf.errors import ConfigError, Where
from pytest_llmperf.load.records import Achieved, ClientHealth, WorkerHealth
from pytest_llmperf.measure.trust import DEFAULT_LIMITS, TrustLimits, distrust, loosened, named_limits, parse_trust_limits
from tests.unit.measure.logs import healthy, worker_health


def client(*workers: WorkerHealth, planned: int = 100, sent: int = 100) -> ClientHealth:
    return ClientHealth(workers, planned, sent)


def test_a_client_that_kept_up_is_trusted() -> None:
    assert distrust(healthy(1000), TrustLimits()) == ()


def test_limits_themselves_are_still_trusted() -> None:
    worker = worker_health(lateness_p99_s=0.050, loop_lag_p99_s=0.050, cpu_share=0.95)
    assert distrust(client(worker, planned=1000, sent=999), TrustLimits()) == ()


def test_a_late_worker_is_named_with_how_late_it_was_and_what_to_do() -> None:
    (reason,) = distrust(client(worker_health(0), worker_health(1, lateness_p99_s=0.0812)), TrustLimits(), cores=4)
    assert reason.startswith("worker 1 sent its requests late: p99 81.2ms (limit 50ms, worst 162ms); ")
    assert "--llmperf-workers" in reason
    assert "inside the cluster" in reason


@pytest.mark.parametrize(
    ("worker", "says"),
    [
        (worker_health(loop_lag_p99_s=0.5), "worker 0 read its answers late: p99 500ms (limit 50ms, worst 1s)"),
        (worker_health(cpu_share=0.99), "used 99% of a CPU core"),
        (worker_health(lateness_p99_s=math.nan), "sent its requests late: p99 - (limit"),
    ],
)
def test_each_sign_is_a_reason(worker: WorkerHealth, says: str) -> None:
    (reason,) = distrust(client(worker), TrustLimits())
    assert says in reason


def test_requests_that_were_planned_and_never_sent_are_a_reason() -> None:
    (reason,) = distrust(client(worker_health(), planned=1000, sent=900), TrustLimits())
    assert "sent 900 of 1,000 planned requests (90%, at least 99.9% is needed)" in reason


def test_a_worker_that_had_nothing_to_do_proves_nothing() -> None:
    assert distrust(client(worker_health(), worker_health(1, requests=0, lateness_p99_s=math.nan)), TrustLimits()) == ()


def test_one_in_a_hundred_that_the_client_could_not_send_is_too_many_for_an_error_rate() -> None:
    (reason,) = distrust(client(worker_health(), planned=1000, sent=990), TrustLimits())
    assert "sent 990 of 1,000 planned requests" in reason


def test_requests_that_the_server_refused_are_not_the_clients() -> None:
    assert distrust(ClientHealth((worker_health(),), 1000, 100, unreachable_requests=900), TrustLimits()) == ()
    (reason,) = distrust(ClientHealth((worker_health(),), 1000, 100, unreachable_requests=800), TrustLimits())
    assert "sent 100 of 200 planned requests" in reason


def test_a_lost_worker_is_a_reason() -> None:
    (reason,) = distrust(ClientHealth((worker_health(),), 100, 100, lost_workers=1), TrustLimits())
    assert reason.startswith("1 load workers died")


def test_no_worker_at_all_is_a_reason() -> None:
    assert any("no worker reported" in reason for reason in distrust(client(), TrustLimits()))


def test_limits_can_be_set() -> None:
    worker = worker_health(lateness_p99_s=0.03)
    assert distrust(client(worker), TrustLimits(lateness_p99_s=0.05)) == ()


def closed_loop(busy_share: float, *workers: WorkerHealth) -> ClientHealth:
    return ClientHealth(workers, 100, 100, achieved=Achieved(planned_in_flight=8.0, busy_share=busy_share))


def test_users_that_the_client_kept_waiting_are_a_reason_that_names_the_worker() -> None:
    late = replace(worker_health(1), lateness_p50_s=0.004)
    (reason,) = distrust(closed_loop(0.8, worker_health(0), late), TrustLimits(), cores=4)
    assert reason.startswith("worker 1 sent late (p50 4ms): users busy 80% of the time (limit 90%); use more workers")
    assert distrust(closed_loop(0.90, worker_health(0), late), TrustLimits()) == ()


def test_a_busy_share_that_is_not_known_proves_nothing() -> None:
    assert distrust(closed_loop(math.nan, worker_health()), TrustLimits())


def test_a_slow_server_that_leaves_few_requests_to_send_is_no_reason() -> None:
    slow = Achieved(planned_rate_per_s=100.0, rate_per_s=20.0, mean_in_flight=400.0, peak_in_flight=800)
    assert distrust(replace(healthy(1000), achieved=slow), TrustLimits()) == ()


@pytest.mark.parametrize(
    ("started", "cores", "advice"),
    [
        (2, 4, "use more workers (--llmperf-workers), idle cores, or load from inside the cluster"),
        (4, 4, "keep other work off its cores (each has a worker), or load from inside the cluster"),
        (16, 4, "use fewer workers (--llmperf-workers=4): 16 are too many for the cores there are"),
    ],
)
def test_the_advice_is_for_the_cores_there_are(started: int, cores: int, advice: str) -> None:
    health = replace(client(worker_health(lateness_p99_s=0.1)), started_workers=started)
    (reason,) = distrust(health, TrustLimits(), cores)
    assert reason.endswith(f"; {advice}")


@pytest.mark.parametrize("cores", [1, 4, 128])
def test_every_reason_fits_into_two_lines(cores: int) -> None:
    bad = replace(worker_health(11, lateness_p99_s=12.34, loop_lag_p99_s=12.34, cpu_share=0.987), requests=100_000)
    busy = replace(closed_loop(0.123, bad), planned_requests=1_000_000, sent_requests=876_543)
    health = replace(busy, started_workers=32)
    reasons = distrust(health, TrustLimits(), cores)
    assert len(reasons) == 5
    for reason in reasons:
        assert len(textwrap.wrap(reason, 80, initial_indent="- ", subsequent_indent="  ")) <= 2, reason


HERE = Where(option="--llmperf-trust")


def test_limits_are_read() -> None:
    read = parse_trust_limits(
        ("lateness_p99:20ms", " loop_lag_p99 : 1s", "cpu_share:90%", "sent_share:99%", "busy_share:0.5"), HERE
    )
    assert read == TrustLimits(0.020, 1.0, 0.9, 0.99, 0.5)
    assert parse_trust_limits(("cpu_share:50%",), HERE) == TrustLimits(cpu_share=0.5)
    assert parse_trust_limits((), HERE) == TrustLimits()


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (
            ("latness_p99:20ms",),
            "unknown limit of trust 'latness_p99'\n  Did you mean 'lateness_p99'? Known: busy_share, cpu_share,",
        ),
        (("lateness_p99",), "'lateness_p99' is no limit\n  Write NAME:LIMIT, such as 'lateness_p99:20ms'"),
        (("lateness_p99:",), "'lateness_p99:' is no limit"),
        (("lateness_p99:20",), "lateness_p99: '20' has no unit"),
        (("cpu_share:20ms",), "cpu_share: '20ms' has the unknown unit 'ms'"),
        (("cpu_share:120%",), "cpu_share: '120%' is not a fraction between 0 and 1"),
        (("lateness_p99:0ms",), "lateness_p99:0ms trusts no client at all"),
        (("cpu_share:50%", "cpu_share:60%"), "cpu_share has two limits, 50% and 60%"),
    ],
)
def test_limits_that_cannot_be(texts: tuple[str, ...], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_trust_limits(texts, HERE)
    assert str(caught.value).startswith(f"--llmperf-trust: {says}")


def test_what_trusts_more_than_the_defaults_is_named_and_what_trusts_less_is_not() -> None:
    assert loosened(TrustLimits()) == ()
    assert loosened(TrustLimits(0.020, 0.020, 0.5, 1.0, 0.95)) == ()
    assert loosened(TrustLimits(lateness_p99_s=0.2, sent_share=0.5)) == (
        "lateness_p99:200ms (default 50ms)",
        "sent_share:50% (default 99.9%)",
    )


@given(st.sampled_from(sorted(named_limits(DEFAULT_LIMITS))), st.floats(0.001, 1.0))
def test_a_limit_is_loosened_where_it_lets_more_clients_pass(name: str, value: float) -> None:
    names = dict(zip(named_limits(DEFAULT_LIMITS), [field.name for field in fields(TrustLimits)], strict=True))
    limits = replace(DEFAULT_LIMITS, **{names[name]: value})
    default = named_limits(DEFAULT_LIMITS)[name]
    between = (value + default) / 2
    shown = {
        "lateness_p99": closed_loop(1.0, worker_health(lateness_p99_s=between)),
        "loop_lag_p99": closed_loop(1.0, worker_health(loop_lag_p99_s=between)),
        "cpu_share": closed_loop(1.0, worker_health(cpu_share=between)),
        "sent_share": ClientHealth((worker_health(),), 10**9, round(between * 10**9)),
        "busy_share": closed_loop(between, worker_health()),
    }[name]
    passes = not distrust(shown, limits) and bool(distrust(shown, DEFAULT_LIMITS))
    assert abs(value - default) < 1e-6 or passes == bool(loosened(limits))
