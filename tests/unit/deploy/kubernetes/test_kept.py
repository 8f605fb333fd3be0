"""What a session is to keep says so from its first moment: one that is killed says nothing. The rest is in tests/cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from time import time
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_llmperf.deploy.kubernetes.names import ENDED, KEPT, WHEN_ENDED, Identity
from pytest_llmperf.deploy.kubernetes.ownership.lease import (
    DURATION_S,
    Here,
    LeaseSeen,
    lease_manifest,
    lease_seen,
    micro_time,
    this_process,
)
from pytest_llmperf.deploy.kubernetes.ownership.session import KubeSession, end_session, kept_text
from pytest_llmperf.deploy.kubernetes.ownership.sweep import State, survey, to_remove
from pytest_llmperf.deploy.kubernetes.settings import KubernetesSettings, RenderSettings
from pytest_llmperf.errors import DeployError
from pytest_llmperf.plugin import cluster, targets
from tests.unit.deploy.kubernetes.forwarding import kubeconfig
from tests.unit.deploy.kubernetes.scripted_api import Reply, ScriptedApi, api_at, scripted_api, status

SETTINGS = KubernetesSettings(RenderSettings(), "abcd1234", "gw0", namespace="ns", keep=True)
CONTROLLER = replace(SETTINGS, worker="")
NOTHING = Reply(body={"items": [], "metadata": {}})
GIVEN = Reply(body={"metadata": {"name": "ns"}})
TOLD = "kept in the namespace ns; `pytest-llmperf gc --namespace=ns --session=abcd1234` removes it"


def stored(worker: str, kept: str | None) -> dict[str, Any]:
    """The Lease of one of the session's workers, as the API server has it."""
    made = lease_manifest(Identity(SETTINGS.session, worker), "ns", this_process(), 0.0)
    metadata: dict[str, Any] = made["metadata"]
    metadata["uid"] = f"uid-of-{worker}"
    if kept is not None:
        metadata["labels"][KEPT] = kept
    return made


def listed(*leases: Mapping[str, Any]) -> Reply:
    return Reply(body={"items": list(leases), "metadata": {}})


def opened(server: ScriptedApi, settings: KubernetesSettings) -> KubeSession:
    session = KubeSession(api_at(server.url), settings)
    session.opened()
    return session


def marks(server: ScriptedApi) -> list[tuple[str, object]]:
    """Which Leases were marked as what."""
    patched = [one for one in server.heard if one.method == "PATCH"]
    return [(one.path.partition("?")[0].rpartition("/")[2], one.body["metadata"]["labels"][KEPT]) for one in patched]


@pytest.mark.parametrize("keep", [True, False])
def test_the_lease_says_from_the_first_moment_that_all_is_to_stay(keep: bool) -> None:
    made = Reply(body=stored("gw0", WHEN_ENDED))
    with scripted_api(GIVEN, NOTHING, NOTHING, made) as server:
        session = opened(server, replace(SETTINGS, keep=keep))
        (lease,) = [one.body for one in server.heard if one.method == "POST"]
        assert lease["metadata"]["labels"].get(KEPT) == (WHEN_ENDED if keep else None)
        assert session.keep() == TOLD
        assert marks(server) == [("llmperf-abcd1234-gw0", ENDED)]


def test_what_could_not_be_marked_at_its_end_stays_all_the_same() -> None:
    made, refused = Reply(body=stored("gw0", WHEN_ENDED)), status(403, "Forbidden", "leases are forbidden")
    with scripted_api(GIVEN, NOTHING, NOTHING, made) as server:
        session = opened(server, SETTINGS)
        server.replies = [refused]
        with pytest.raises(DeployError, match="could not be marked as kept") as raised:
            session.keep()
    assert str(raised.value.hint).startswith("What stands stays; `pytest-llmperf gc")


@pytest.mark.parametrize(
    ("label", "lives", "state"),
    [
        (None, True, "alive"),
        (None, False, "dead"),
        (WHEN_ENDED, True, "alive"),
        (WHEN_ENDED, False, "kept"),
        (WHEN_ENDED, None, "kept"),
        (ENDED, True, "kept"),
        (ENDED, None, "kept"),
    ],
)
def test_what_is_to_be_kept_is_alive_until_its_process_has_ended(label: str | None, lives: bool | None, state: State) -> None:
    def at(lease: LeaseSeen) -> Here:
        assert lease.holder is not None
        return Here(lease.holder.host, lease.holder.place, lambda _pid, _start: lives)

    found = stored("gw0", label)
    with scripted_api(NOTHING, listed(found)) as server:
        seen = survey(api_at(server.url), None, with_orphans=False, at=at(lease_seen(found)))
    (process,) = seen.processes
    assert process.state == state
    # Nobody removes it unasked, and nobody at all while it may live.
    assert bool(to_remove(seen).processes) is (state == "dead")
    assert bool(to_remove(seen, session=SETTINGS.session).processes) is (state != "alive")


@pytest.mark.parametrize(("label", "may_return"), [(WHEN_ENDED, True), (ENDED, False)])
def test_who_only_was_silent_is_waited_for_also_where_it_is_to_be_kept(label: str, may_return: bool) -> None:
    lease = stored("gw0", label)
    lease["spec"]["renewTime"] = micro_time(time() - DURATION_S - 1)
    with scripted_api(NOTHING, listed(lease)) as server:
        elsewhere = Here("elsewhere", "another-boot.1", lambda _pid, _start: None)
        (process,) = survey(api_at(server.url), None, with_orphans=False, at=elsewhere).processes
    assert (process.state, process.may_return) == ("kept", may_return)


@pytest.mark.parametrize("worker", ["gw0", None])
def test_a_crashed_workers_part_stays_and_how_it_is_removed_is_told(worker: str | None) -> None:
    leases = listed(stored("gw0", WHEN_ENDED), stored("gw1", ENDED))
    with scripted_api(leases, Reply()) as server:
        assert end_session(api_at(server.url), CONTROLLER, worker) == TOLD
        assert marks(server) == [("llmperf-abcd1234-gw0", ENDED)]
        assert not any(asked.startswith("DELETE") for asked in server.asked)


def test_of_a_worker_that_had_deployed_nothing_nothing_is_told() -> None:
    with scripted_api(listed(stored("gw1", WHEN_ENDED))) as server:
        assert end_session(api_at(server.url), CONTROLLER, "gw0") == ""
        assert marks(server) == []


def test_without_keep_it_goes() -> None:
    with scripted_api(listed(stored("gw0", None)), NOTHING) as server:
        assert end_session(api_at(server.url), CONTROLLER, "gw0") == ""
        assert server.asked[-1] == "DELETE /apis/coordination.k8s.io/v1/namespaces/ns/leases/llmperf-abcd1234-gw0"


def test_the_controller_says_once_what_crashed_and_ended_workers_have_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config: Any = SimpleNamespace(stash=pytest.Stash())
    monkeypatch.setattr(cluster, "settings_of", lambda _config: SimpleNamespace(target="kubernetes"))

    def node(worker: str, **output: object) -> Any:
        made = SimpleNamespace(config=config, workerinput={"workerid": worker}, workeroutput=output)
        cluster.tell_worker(made)
        return made

    with scripted_api(Reply(), listed(stored("gw0", WHEN_ENDED)), Reply()) as server:
        known = replace(CONTROLLER, kubeconfig=kubeconfig(tmp_path, server.url, {}))
        monkeypatch.setattr(targets, "kubernetes_settings", lambda *_: known)
        crashed, ended = node("gw0"), node("gw1", **{cluster.BEGUN: True, cluster.KEPT: kept_text(known)})
        cluster.hear_worker(crashed, "it crashed")
        cluster.hear_worker(ended, None)
        assert marks(server) == [("llmperf-abcd1234-gw0", ENDED)]
    assert not cluster.told(config, cluster.LEFT)
    assert cluster.told(config, cluster.KEPT) == [kept_text(known)]
