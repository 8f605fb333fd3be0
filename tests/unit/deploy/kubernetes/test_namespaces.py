"""A namespace that was made goes only where it is seen that nobody else uses it. The rest is in tests/cluster."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_llmperf.deploy.kubernetes.api.kinds import CRON_JOB, DAEMONSET, JOB, POD, PVC, SERVICE, Kind
from pytest_llmperf.deploy.kubernetes.api.refusals import ForbiddenError
from pytest_llmperf.deploy.kubernetes.names import MANAGED_BY, MANAGER, SESSION
from pytest_llmperf.deploy.kubernetes.ownership.namespaces import USED_BY_OTHERS, delete_namespace
from pytest_llmperf.errors import DeployError
from tests.unit.deploy.kubernetes.scripted_api import Reply, api_at, scripted_api, status

MADE = Reply(body={"metadata": {"name": "llmperf-s", "uid": "u", "labels": {MANAGED_BY: MANAGER, SESSION: "s"}}})
NOTHING = Reply(body={"items": [], "metadata": {}})
OWNED = {"ownerReferences": [{"kind": "RayCluster", "name": "somebodys", "controller": True}]}
PLACE = "/namespaces/llmperf-s"


def replies(kind: Kind, of_it: Reply) -> list[Reply]:
    """The namespace, and what is in it: nothing but ``of_it``, of one kind."""
    return [MADE, *(of_it if one == kind else NOTHING for one in USED_BY_OTHERS), Reply()]


def one(name: str, **metadata: Any) -> Reply:
    return Reply(body={"items": [{"metadata": {"name": name, **metadata}}], "metadata": {}})


@pytest.mark.parametrize(
    ("kind", "there", "named"),
    [
        (DAEMONSET, one("agents"), "DaemonSet agents"),
        (CRON_JOB, one("nightly"), "CronJob nightly"),
        pytest.param(POD, one("head-0", **OWNED), "Pod head-0", id="a pod of a kind that only its own cluster knows"),
        (PVC, one("data"), "PersistentVolumeClaim data"),
    ],
)
def test_a_namespace_that_others_use_stays(kind: Kind, there: Reply, named: str) -> None:
    with scripted_api(*replies(kind, there)) as server, api_at(server.url) as api:
        with pytest.raises(DeployError, match=f"what is not of a session is in it: {named}\\n") as raised:
            delete_namespace(api, "llmperf-s")
        assert not any(asked.startswith("DELETE") for asked in server.asked)
    assert raised.value.hint == "`kubectl delete namespace llmperf-s` removes it with all that."


@pytest.mark.parametrize(
    ("kind", "there"),
    [
        pytest.param(SERVICE, one("made", **OWNED), id="what follows what made it"),
        pytest.param(CRON_JOB, status(404, "NotFound", "the server could not find the requested resource"), id="no such kind"),
    ],
)
def test_one_that_nobody_uses_goes(kind: Kind, there: Reply) -> None:
    with scripted_api(*replies(kind, there)) as server, api_at(server.url) as api:
        assert delete_namespace(api, "llmperf-s")
        assert server.asked[-1].startswith("DELETE")
        assert server.asked[-1].endswith(PLACE)


def test_one_stays_of_which_nobody_can_say_who_uses_it() -> None:
    refused = status(403, "Forbidden", "jobs.batch is forbidden", group="batch", kind="jobs")
    with scripted_api(*replies(JOB, refused)) as server, api_at(server.url) as api:
        with pytest.raises(ForbiddenError, match=r"'llmperf-s' stays: nobody can say whether others use it: .*jobs") as raised:
            delete_namespace(api, "llmperf-s")
        assert not any(asked.startswith("DELETE") for asked in server.asked)
    assert "`pytest-llmperf doctor` says which of them are missing" in str(raised.value.hint)
    assert "`kubectl delete namespace llmperf-s`" in str(raised.value.hint)
