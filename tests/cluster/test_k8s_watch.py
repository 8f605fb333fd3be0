"""Watching a real API server: nothing is lost when it restarts, forgets, or ends the watch; nothing is left when it is over."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from threading import Thread
from threading import enumerate as threads
from typing import ClassVar

import pytest

from pytest_llmperf.deploy.kubernetes.api.client import KubeApi, Manifests
from pytest_llmperf.deploy.kubernetes.api.kinds import CONFIG_MAP, LEASE, POD, SECRET, Kind
from pytest_llmperf.deploy.kubernetes.api.refusals import ExpiredError, NotFoundError
from pytest_llmperf.deploy.kubernetes.api.watch import Watch, Watched, watching
from pytest_llmperf.errors import DeployError
from tests.cluster.cluster import Cluster
from tests.cluster.node import run
from tests.cluster.objects import Object, config_map

ENOUGH_S = 60.0
MARK = "llmperf-watch-test=yes"


class CountingApi(KubeApi):
    """Remembers how often it has listed, in all threads."""

    lists: ClassVar[list[str]] = []

    def listed(self, kind: Kind, namespace: str | None = None, labels: str = "", fields: str = "") -> tuple[Manifests, str]:
        """Count, and list."""
        self.lists.append(kind.plural)
        return super().listed(kind, namespace, labels, fields)


@pytest.fixture
def api(cluster: Cluster) -> Iterator[CountingApi]:
    CountingApi.lists.clear()
    with CountingApi.connect(cluster.kubeconfig) as api:
        yield api


def marked(namespace: str, name: str) -> dict[str, object]:
    labels = dict([MARK.split("=")])
    return {**config_map(name, {}), "metadata": {"name": name, "namespace": namespace, "labels": labels}}


def await_names(watch: Watch, names: set[str]) -> float:
    """When the last change had arrived after which there were just these."""
    seen: set[str] = set()
    deadline = time.monotonic() + ENOUGH_S
    while time.monotonic() < deadline:
        snapshot = watch.next(1.0)
        if snapshot is not None:
            seen = set(snapshot.of(CONFIG_MAP))
            if seen == names:
                return snapshot.at
    raise AssertionError(f"never {sorted(names)}: {sorted(seen)}")


def in_node(cluster: Cluster, program: str) -> str:
    """What a Python program says inside the node, where etcd is, and where a virtual environment below ``/tmp`` is not."""
    assert cluster.state.init is not None
    return str(run(cluster.state.init, [os.path.realpath(sys.executable), "-I", "-c", program]) or "")


COMPACT = """
import json, urllib.request
def ask(path, body):
    return json.load(urllib.request.urlopen("http://127.0.0.1:2379/v3/kv/" + path, json.dumps(body).encode()))
now = ask("range", {"key": "AA=="})["header"]["revision"]
ask("compaction", {"revision": now, "physical": True})
"""


def test_changes_arrive_at_once(api: CountingApi, namespace: str) -> None:
    with watching(api, [Watched(CONFIG_MAP, namespace, MARK), Watched(SECRET, namespace)]) as watch:
        first = watch.next(ENOUGH_S)
        assert first is not None
        assert (first.of(CONFIG_MAP), first.of(SECRET)) == ({}, {})
        started = time.monotonic()
        api.apply(marked(namespace, "one"))
        assert await_names(watch, {"one"}) - started < 3.0
        api.delete(CONFIG_MAP, "one", namespace)
        await_names(watch, set())
        assert watch.next(0.2) is None


def test_nothing_is_lost_when_the_api_server_restarts(cluster: Cluster, api: CountingApi, namespace: str) -> None:
    told: list[str] = []
    api.on_trouble = told.append
    names = [f"made-{index}" for index in range(60)]
    failed: list[DeployError] = []

    def change() -> None:
        with KubeApi.connect(cluster.kubeconfig) as other:
            try:
                for name in names:
                    other.create(marked(namespace, name))
                    if name.endswith("0"):
                        other.delete(CONFIG_MAP, name, namespace)
            except DeployError as error:
                failed.append(error)

    with watching(api, [Watched(CONFIG_MAP, namespace, MARK)]) as watch:
        assert watch.next(ENOUGH_S) is not None
        thread = Thread(target=change)
        thread.start()
        assert watch.next(ENOUGH_S) is not None
        cluster.stop("kube-apiserver")
        cluster.start("kube-apiserver")
        await_names(watch, {name for name in names if not name.endswith("0")})
        thread.join()
    assert not failed
    assert any("trying again" in phrase for phrase in told)


def test_what_the_server_has_forgotten_is_listed_anew(cluster: Cluster, api: CountingApi, namespace: str) -> None:
    """etcd's history is thrown away, and the API server restarts: it knows no change before that any more."""
    api.apply(marked(namespace, "before"))
    with watching(api, [Watched(CONFIG_MAP, namespace, MARK)]) as watch:
        await_names(watch, {"before"})
        for index in range(5):
            api.create(
                {"apiVersion": LEASE.api_version, "kind": LEASE.kind, "metadata": {"name": f"x{index}", "namespace": namespace}}
            )
        lists = len(api.lists)
        cluster.stop("kube-apiserver")
        try:
            in_node(cluster, COMPACT)
        finally:
            cluster.start("kube-apiserver")
        api.apply(marked(namespace, "after"))
        await_names(watch, {"before", "after"})
        assert len(api.lists) > lists
    with pytest.raises(ExpiredError):
        old_events(api, namespace)


def old_events(api: KubeApi, namespace: str) -> None:
    """A watch from the beginning of time."""
    from pytest_llmperf.deploy.kubernetes.api.refusals import Asked, refusal, status_of

    with api.open_watch(CONFIG_MAP, namespace, "", "", "1", 5) as stream:
        for line in stream.lines():
            found = json.loads(line)
            assert found["type"] == "ERROR", found
            raise refusal(status_of(found["object"]), Asked("watch", "configmaps"))


def test_a_kind_that_the_cluster_does_not_have_is_an_error(api: CountingApi, namespace: str) -> None:
    with (
        watching(api, [Watched(Kind("kueue.x-k8s.io/v1beta1", "LocalQueue", "localqueues"), namespace)]) as watch,
        pytest.raises(NotFoundError, match="the cluster does not know localqueues"),
    ):
        watch.next(ENOUGH_S)


def test_nothing_is_left_of_many_watches(api: CountingApi, namespace: str, cluster: Cluster) -> None:
    before = set(threads())
    watched = [Watched(kind, namespace) for kind in (POD, CONFIG_MAP, SECRET)]
    for _ in range(10):
        with watching(api, watched) as watch:
            assert watch.next(ENOUGH_S) is not None
        assert set(threads()) == before
    with watching(api, watched) as watch:
        assert watch.next(ENOUGH_S) is not None
        cluster.stop("kube-apiserver")
        started = time.monotonic()
    took_s = time.monotonic() - started
    cluster.start("kube-apiserver")
    cluster.await_true("the API server is ready again", cluster.api.is_ready)
    assert took_s < 5.0
    assert set(threads()) == before


def test_a_watch_that_the_server_ends_goes_on(api: CountingApi, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server ends every watch after its time: here after a second."""
    monkeypatch.setattr("pytest_llmperf.deploy.kubernetes.api.watch.WATCH_S", 1)
    objects: list[Object] = [marked(namespace, f"n{index}") for index in range(30)]
    with watching(api, [Watched(CONFIG_MAP, namespace, MARK)]) as watch:
        assert watch.next(ENOUGH_S) is not None
        deadline = time.monotonic() + 3.0
        while time.monotonic() < deadline:
            for one in objects:
                api.apply(one)
        await_names(watch, {f"n{index}" for index in range(30)})
    assert api.lists == ["configmaps"]
