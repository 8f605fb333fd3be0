"""One real Kubernetes for all tests, and a namespace for each; without what it needs they are skipped, and say what that is."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from pytest_llmperf.deploy.kubernetes.api.client import KubeApi
from tests.cluster.binaries import HELM, go_program, helm_binary, is_built
from tests.cluster.cluster import Cluster
from tests.cluster.images import SIMULATOR, built_simulator_archive, simulator_archive
from tests.cluster.k8s_pytest import PytestSessions, prepared
from tests.cluster.k8s_sessions import left_of
from tests.cluster.machine import why_no_image, why_not, why_not_built

UNTIL_VARIABLE = "LLMPERF_CLUSTER_UNTIL"
"""Seconds since the epoch after which no test here begins any more; unset, all of them do."""


def pytest_runtest_setup() -> None:
    """Skips what there is no time for."""
    until = os.environ.get(UNTIL_VARIABLE)
    if until is not None and time.time() > float(until):
        pytest.skip(f"there is no time left for it ({UNTIL_VARIABLE}); `make test-cluster` takes the time")


@pytest.fixture(scope="session")
def able_machine() -> None:
    """Skips what cannot run here."""
    _skip_for(why_not())


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster with nothing in it. It ends with the session, whatever ends that."""
    _skip_for(why_not())
    cluster = Cluster.up(f"tests-{os.getpid()}")
    print(f"cluster: up after {cluster.up_s:.1f} s")
    yield cluster
    print(f"cluster: down after {cluster.down():.1f} s")


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace of the test's own. Its pods end with it: the node's GPUs are free for the next test."""
    name = f"test-{uuid4().hex[:8]}"
    cluster.kubectl("create", "namespace", name)
    cluster.kubectl("wait", "--for=create", "serviceaccount/default", f"--namespace={name}", "--timeout=120s")
    yield name
    cluster.kubectl("delete", "deployments,statefulsets,jobs,replicasets", "--all", f"--namespace={name}", "--cascade=orphan")
    cluster.kubectl("delete", "pods", "--all", f"--namespace={name}", "--force", "--grace-period=0")
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def api(cluster: Cluster) -> Iterator[KubeApi]:
    """A client of an administrator."""
    with KubeApi.connect(cluster.kubeconfig) as api:
        yield api


@pytest.fixture
def session() -> str:
    """The id of a session of the test's own."""
    return uuid4().hex[:8]


@pytest.fixture(scope="session")
def simulator_image(cluster: Cluster) -> str:
    """The name of the simulator's image, which the node has."""
    _skip_for(why_no_image() or (None if built_simulator_archive() else why_not_built("the simulator's image")))
    cluster.import_image(simulator_archive())
    return SIMULATOR


@pytest.fixture
def sessions(cluster: Cluster, simulator_image: str, namespace: str, tmp_path: Path) -> Iterator[PytestSessions]:
    """Sessions of pytest with the cluster as their target. Whatever a test does with them, nothing of ours is left by them."""
    yield prepared(tmp_path, cluster, simulator_image, namespace)
    assert left_of(cluster) == []


@pytest.fixture(scope="session")
def helm() -> Path:
    """The program ``helm``."""
    _skip_for(why_not() or (None if go_program() else "no Go to build Helm with"))
    _skip_for(None if is_built(HELM) else why_not_built("Helm"))
    return helm_binary()


def _skip_for(reason: str | None) -> None:
    if reason is not None:
        pytest.skip(reason)
