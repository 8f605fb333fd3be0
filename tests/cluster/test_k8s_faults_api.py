"""An API server that refuses, or does not answer (any more): caused on a real one, in the middle of a wait too."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from pytest_llmperf.deploy.kubernetes.api import transport
from pytest_llmperf.deploy.kubernetes.api.client import KubeApi
from pytest_llmperf.deploy.kubernetes.api.refusals import ForbiddenError, LoginError, UnreachableError
from pytest_llmperf.deploy.kubernetes.rendering.render import Rendered
from tests.cluster.cluster import Cluster
from tests.cluster.components import PAUSE_IMAGE
from tests.cluster.faults import NEVER_READY, rendered, shell
from tests.cluster.trials import PROMISE_S, Outcome, Trial, assert_golden

ACCOUNT = "tester"
PREPARING = rendered(
    NEVER_READY.name, {}, {"initContainers": [{"name": "prepare", "image": PAUSE_IMAGE, "command": shell("sleep 600")}]}
)
"""As one whose weights are downloaded: no log is asked for meanwhile."""
AWAY_S = 4.0
"""How long the API server may be away here: a minute tells nothing more."""


@contextmanager
def account_with(cluster: Cluster, namespace: str, role: str, folder: Path) -> Iterator[KubeApi]:
    """The client of a service account that has a role in its namespace."""
    place = f"--namespace={namespace}"
    cluster.kubectl("create", "serviceaccount", ACCOUNT, place)
    cluster.kubectl("create", "rolebinding", ACCOUNT, f"--clusterrole={role}", f"--serviceaccount={namespace}:{ACCOUNT}", place)
    token = cluster.kubectl("create", "token", ACCOUNT, place, "--duration=10m").strip()
    content = yaml.safe_load(cluster.kubeconfig.read_text())
    content["users"][0]["user"] = {"token": token}
    (folder / "config").write_text(yaml.safe_dump(content))
    with KubeApi.connect(folder / "config") as api:
        yield api


def test_who_may_make_no_deployment_is_told_at_once(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    with account_with(cluster, namespace, "view", tmp_path) as api, pytest.raises(ForbiddenError) as caught:
        Trial(api, namespace, "permission", tmp_path).ready(rendered("permission", {}), [])
    assert_golden("permission", Outcome(caught.value, (), 0.0, tmp_path))


@pytest.mark.parametrize(("what", "waits"), [(NEVER_READY.rendered, "running, not ready"), (PREPARING, "init container prepare")])
def test_credentials_that_end_in_a_wait_are_told_soon(
    cluster: Cluster, namespace: str, tmp_path: Path, what: Rendered, waits: str
) -> None:
    with account_with(cluster, namespace, "admin", tmp_path) as api, api.new() as other, ThreadPoolExecutor(1) as pool:
        told: list[str] = []
        ready = pool.submit(Trial(api, namespace, NEVER_READY.name, tmp_path).ready, what, told)
        cluster.await_true("it waits", lambda: any(phrase.startswith(waits) for phrase in told))
        cluster.kubectl("delete", "serviceaccount", ACCOUNT, f"--namespace={namespace}")
        # The API server itself remembers for some seconds who somebody was.
        cluster.await_true("the token does not count any more", lambda: not counts(other))
        knew = time.monotonic()
        error = ready.exception(timeout=60.0)
        late_s = time.monotonic() - knew
    assert isinstance(error, LoginError)
    print(f"{late_s:.1f} s after the API server did not take them any more")
    assert late_s < PROMISE_S
    assert_golden("credentials", Outcome(error, tuple(told), late_s, tmp_path))


def counts(api: KubeApi) -> bool:
    """Whether the API server takes these credentials."""
    try:
        api.user()
    except LoginError:
        return False
    return True


def test_an_api_server_that_ends_in_a_wait_is_told_when_patience_is_over(
    cluster: Cluster, namespace: str, api: KubeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "RESTART_S", AWAY_S)
    with ThreadPoolExecutor(1) as pool:
        told: list[str] = []
        api.on_trouble = told.append
        ready = pool.submit(Trial(api, namespace, NEVER_READY.name, tmp_path).ready, NEVER_READY.rendered, told)
        cluster.await_true("it waits", lambda: any(phrase.startswith("running, not ready") for phrase in told))
        cluster.stop("kube-apiserver")
        stopped = time.monotonic()
        try:
            error = ready.exception(timeout=120.0)
            took_s = time.monotonic() - stopped
        finally:
            cluster.start("kube-apiserver")
            cluster.await_true("the API server is ready again", cluster.api.is_ready)
    assert isinstance(error, UnreachableError)
    assert any(phrase.endswith("; trying again") for phrase in told)
    assert took_s < AWAY_S + PROMISE_S
    assert_golden("api-unreachable", Outcome(error, tuple(told), took_s - AWAY_S, tmp_path))
