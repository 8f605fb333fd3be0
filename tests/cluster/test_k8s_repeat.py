"""Fifty cells stood up and taken down, five at a time: nothing is left of them, on the cluster or in the process."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import pytest

from pytest_llmperf.deploy.kubernetes.api.client import KubeApi
from pytest_llmperf.deploy.kubernetes.api.kinds import LEASE
from pytest_llmperf.deploy.kubernetes.names import SESSION, new_session
from pytest_llmperf.deploy.kubernetes.ownership.session import end_session
from pytest_llmperf.deploy.kubernetes.settings import KubernetesSettings, RenderSettings
from pytest_llmperf.deploy.kubernetes.target import KubernetesTarget
from pytest_llmperf.experiment.catalog import builtin_directory, load_catalog
from pytest_llmperf.experiment.matrix import expand
from pytest_llmperf.experiment.records import Cell
from tests.cluster.cluster import Cluster
from tests.cluster.components import PAUSE_IMAGE
from tests.cluster.k8s_sessions import left_of

TIMES, WORKERS = 50, 5
WARM = 2
"""After so many of each worker the libraries have opened what they keep open."""
MANIFESTS = f"""
apiVersion: v1
kind: ConfigMap
metadata: {{name: web}}
data:
  run.sh: |
    #!/bin/sh
    trap 'exit 0' TERM
    echo hello > /tmp/index.html
    httpd -p 8080 -h /tmp
    while :; do sleep 0.1; done
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  selector: {{app: web}}
  ports: [{{port: 80, targetPort: 8080}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web, labels: {{app: web}}, annotations: {{llmperf.dev/engine: web}}}}
spec:
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: web
          image: {PAUSE_IMAGE}
          command: [/web/run.sh]
          args: [a-model]
          ports: [{{containerPort: 8080}}]
          readinessProbe: {{httpGet: {{path: /, port: 8080}}, periodSeconds: 1}}
          volumeMounts: [{{name: web, mountPath: /web}}]
      volumes: [{{name: web, configMap: {{name: web, defaultMode: 0755}}}}]
"""
"""What is ready at once. What a cell asks of its engine is appended to the command, and passed over."""


def test_fifty_cells(cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "web.yaml").write_text(MANIFESTS)
    session, render = new_session(), RenderSettings(manifests=tmp_path / "web.yaml")
    settings = [KubernetesSettings(render, session, f"gw{number}", kubeconfig=cluster.kubeconfig) for number in range(WORKERS)]
    targets = [KubernetesTarget(one, ready_paths=("/",)) for one in settings]
    with ThreadPoolExecutor(WORKERS) as workers, ExitStack() as undo:
        undo.callback(end, cluster, settings[0])
        for target in targets:
            target.check_cells([the_cell()])
            undo.callback(target.end)
        list(workers.map(partial(stand_up, WARM), targets))
        cluster.await_true("each heart has beaten, which opens a connection of its own", partial(have_beaten, cluster, session))
        before = held()
        list(workers.map(partial(stand_up, TIMES // WORKERS - WARM), targets))
        after = held()
        assert [one for one in left_of(cluster) if "/Lease/" not in one and "/Namespace/" not in one] == []
    assert left_of(cluster) == []
    with capsys.disabled():
        print(f"{before} after {WARM * WORKERS} cells, {after} after {TIMES}")
    assert (after.files, after.threads) == (before.files, before.threads)
    # A pool keeps as many connections as were ever needed at once: two, where a log is read beside the check of its endpoint.
    assert after.connections <= before.connections + WORKERS


@cache
def the_cell() -> Cell:
    """One that the node can run."""
    catalog = load_catalog([builtin_directory()])
    return next(cell for cell in expand(catalog.matrix_named("default"), catalog) if "gke_h100" in cell.id)


def stand_up(times: int, target: KubernetesTarget) -> None:
    """And take down, so many times."""
    for _ in range(times):
        deployment = target.deploy(the_cell(), lambda _: None)
        assert deployment.lost() is None
        deployment.close()


def have_beaten(cluster: Cluster, session: str) -> bool:
    """Whether the Lease of every worker has been renewed since it was made."""
    with KubeApi.connect(cluster.kubeconfig) as api:
        leases = [one["spec"] for one in api.list(LEASE, None, f"{SESSION}={session}")]
    return len(leases) == WORKERS and all(one["renewTime"] > one["acquireTime"] for one in leases)


def end(cluster: Cluster, settings: KubernetesSettings) -> None:
    """As xdist's controller does when its workers have ended."""
    with KubeApi.connect(cluster.kubeconfig) as api:
        end_session(api, settings)


class Held(NamedTuple):
    """How much this process has open: files but for connections, connections, threads."""

    files: int
    connections: int
    threads: int


def held() -> Held:
    """What it has now."""
    links = []
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that of the listing itself has gone
            links.append(os.readlink(f"/proc/self/fd/{number}"))
    connections = sum(link.startswith("socket:") for link in links)
    return Held(len(links) - connections, connections, threading.active_count())
