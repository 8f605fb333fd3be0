"""A client that fell behind is found out, and told what to do."""

from __future__ import annotations

import math

import pytest

from pytest_llmperf.load.records import ClientHealth, WorkerHealth
from pytest_llmperf.measure.trust import TrustLimits, distrust
from tests.unit.measure.logs import healthy, worker_health


def client(*workers: WorkerHealth, planned: int = 100, sent: int = 100) -> ClientHealth:
    return ClientHealth(workers, planned, sent)


def test_a_client_that_kept_up_is_trusted() -> None:
    assert distrust(healthy(1000), TrustLimits()) == ()


def test_limits_themselves_are_still_trusted() -> None:
    worker = worker_health(lateness_p99_s=0.050, loop_lag_p99_s=0.050, cpu_share=0.95)
    assert distrust(client(worker, planned=1000, sent=999), TrustLimits()) == ()


def test_a_late_worker_is_named_with_how_late_it_was_and_what_to_do() -> None:
    (reason,) = distrust(client(worker_health(0), worker_health(1, lateness_p99_s=0.0812)), TrustLimits())
    assert reason.startswith("worker 1 sent its requests late: p99 81.2ms after schedule (limit 50ms, worst 162ms)")
    assert "--llmperf-workers" in reason
    assert "inside the cluster" in reason


@pytest.mark.parametrize(
    ("worker", "says"),
    [
        (worker_health(loop_lag_p99_s=0.5), "event loop lagged p99 500ms"),
        (worker_health(cpu_share=0.99), "used 99% of a CPU core"),
        (worker_health(lateness_p99_s=math.nan), "p99 - after schedule"),
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
