"""Who holds a Lease, and when it is a dead one's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from threading import Event
from time import monotonic
from typing import Any

import pytest

from pytest_llmperf.deploy.kubernetes.names import KEPT, Identity
from pytest_llmperf.deploy.kubernetes.ownership.lease import (
    DURATION_S,
    Heartbeat,
    Here,
    Holder,
    LeaseSeen,
    here,
    is_alive,
    lease_manifest,
    lease_seen,
    micro_time,
    this_process,
)
from tests.unit.deploy.kubernetes.scripted_api import Reply, api_at, scripted_api

NOW_S = 1_700_000_000.25
HOLDER = Holder("host", 12, 345, "boot.1")
LEASE = LeaseSeen("llmperf-s-gw0", "ns", "u1", "s", "llmperf-s-gw0", HOLDER, NOW_S, 90.0, kept=False)


def knowing(lives: bool | None, host: str = "host", place: str = "boot.1") -> Here:
    return Here(host, place, lambda _pid, _start: lives)


@pytest.mark.parametrize("lives", [True, False])
@pytest.mark.parametrize("silent_s", [0.0, 1000.0])
def test_on_the_same_machine_the_process_itself_tells(lives: bool, silent_s: float) -> None:
    assert is_alive(LEASE, NOW_S + silent_s, knowing(lives)) is lives


@pytest.mark.parametrize(
    "elsewhere",
    [
        pytest.param(knowing(False, host="another"), id="another machine"),
        pytest.param(knowing(False, place="boot.2"), id="another container or boot"),
        pytest.param(knowing(None), id="another user's process"),
    ],
)
def test_elsewhere_the_last_heartbeat_tells(elsewhere: Here) -> None:
    assert is_alive(LEASE, NOW_S + 89.0, elsewhere)
    assert not is_alive(LEASE, NOW_S + 90.0, elsewhere)


def test_two_that_do_not_know_where_they_are_do_not_take_each_other_for_neighbours() -> None:
    lease = replace(LEASE, holder=replace(HOLDER, place=""))
    assert is_alive(lease, NOW_S, knowing(False, place=""))


def test_one_without_a_heartbeat_is_dead() -> None:
    assert not is_alive(replace(LEASE, holder=None, renewed_s=None), NOW_S, knowing(True))


def test_the_process_asked_for_is_found_and_its_successor_is_not() -> None:
    this, at = this_process(), here()
    assert at.knows(this) is True
    assert at.knows(replace(this, start=this.start - 1)) is False
    assert at.knows(None) is None


def test_a_process_that_ended_is_known_to_be_dead_even_before_anybody_waited_for_it() -> None:
    program = "from pytest_llmperf.deploy.kubernetes.ownership.lease import this_process as p; print(p(), flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        holder = Holder.parsed(process.stdout.readline().strip())
        assert here().knows(holder) is True
        process.stdin.write("\n")
        process.stdin.flush()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert here().knows(holder) is False  # a zombie
    assert here().knows(holder) is False


@pytest.mark.parametrize("text", ["", "somebody-else_0f3a", "host/pid/1/boot", "host/1/start/boot", "a/1/2/b/c"])
def test_what_holds_another_kind_of_lease_is_nobody_we_know(text: str) -> None:
    assert Holder.parsed(text) is None


def test_a_holder_reads_as_it_was_written() -> None:
    assert Holder.parsed(str(HOLDER)) == HOLDER
    assert str(HOLDER) == "host/12/345/boot.1"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_heartbeat_that_breaks_off_is_told_as_the_end_of_its_lease() -> None:
    version, refused, nonsense = Reply(body={}), Reply(500), Reply(body={"metadata": {}})
    with scripted_api(version, refused, nonsense) as server:
        heartbeat = Heartbeat(api_at(server.url), LEASE, beat_s=0.01)
        give_up = monotonic() + 20.0
        while heartbeat.lost is None and monotonic() < give_up:
            Event().wait(0.01)
        heartbeat.stop()
    assert heartbeat.lost == "the heartbeat of its Lease broke off: KeyError: 'uid'"


def test_times_are_written_as_the_api_takes_them() -> None:
    assert micro_time(NOW_S) == "2023-11-14T22:13:20.250000Z"


def as_stored(manifest: Mapping[str, Any], **labels: str) -> dict[str, Any]:
    metadata = manifest["metadata"]
    return {**manifest, "metadata": {**metadata, "uid": "u1", "labels": {**metadata["labels"], **labels}}}


def test_a_lease_reads_as_it_was_made() -> None:
    made = lease_manifest(Identity("s", "gw0"), "ns", HOLDER, NOW_S)
    assert lease_seen(as_stored(made)) == replace(LEASE, duration_s=DURATION_S)
    assert lease_seen(as_stored(made, **{KEPT: "true"})).kept


def test_what_it_owns_goes_with_it_and_does_not_hold_it_back() -> None:
    assert LEASE.reference == {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "name": "llmperf-s-gw0",
        "uid": "u1",
        "blockOwnerDeletion": False,
    }


@pytest.mark.parametrize("change", [lambda m: m.pop("spec"), lambda m: m["metadata"].pop("labels")])
def test_a_lease_that_says_little_is_still_read(change: Callable[[dict[str, Any]], object]) -> None:
    made = as_stored(lease_manifest(Identity("s"), "ns", HOLDER, NOW_S))
    change(made)
    assert lease_seen(made).name == "llmperf-s"
