"""Deployments that are tried on a real cluster: what came of each, and how late after the cluster knew."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import pytest

from pytest_llmperf.deploy.kubernetes.api.client import KubeApi
from pytest_llmperf.deploy.kubernetes.api.kinds import EVENT, POD
from pytest_llmperf.deploy.kubernetes.names import Identity
from pytest_llmperf.deploy.kubernetes.ready.lost import lost_reason
from pytest_llmperf.deploy.kubernetes.ready.pods import epoch_s
from pytest_llmperf.deploy.kubernetes.ready.seen import event_of
from pytest_llmperf.deploy.kubernetes.ready.waiting import ReadyPods, await_running
from pytest_llmperf.deploy.kubernetes.rendering.render import Rendered, placed
from pytest_llmperf.deploy.kubernetes.settings import KubernetesSettings, RenderSettings
from pytest_llmperf.errors import DeployError
from tests.cluster.cluster import Cluster
from tests.cluster.faults import Fault, normalised

GOLDEN = Path(__file__).with_name("golden")
WRITE = "LLMPERF_WRITE_GOLDEN"
"""Set to anything: golden files are written instead of compared."""
SESSION = "f4u1t5aa"
PROMISE_S = 10.0
"""Between the cluster's knowing of a fault and the error."""
PATIENT_S = 120.0
CLOCK_S = 1.0
"""The cluster tells whole seconds."""


@dataclass(frozen=True)
class Outcome:
    """What came of a deployment."""

    error: DeployError
    progress: tuple[str, ...]
    late_s: float
    """After the cluster knew."""
    folder: Path


@dataclass(frozen=True)
class Trial:
    """One deployment in a namespace; ``name`` keeps its objects apart from those of others."""

    api: KubeApi
    namespace: str
    name: str
    folder: Path
    limits: Mapping[str, float] = field(default_factory=dict)

    @property
    def identity(self) -> Identity:
        return Identity(SESSION, self.name)

    @property
    def settings(self) -> KubernetesSettings:
        return KubernetesSettings(
            RenderSettings(),
            SESSION,
            self.name,
            log_directory=self.folder,
            ready_timeout_s=self.limits.get("ready_timeout_s", PATIENT_S),
            unschedulable_grace_s=self.limits.get("unschedulable_grace_s", PATIENT_S),
            queue_timeout_s=self.limits.get("queue_timeout_s", PATIENT_S),
        )

    def apply(self, what: Rendered) -> None:
        for one in placed(what, self.identity, self.namespace, None):
            self.api.apply(one)

    def ready(self, what: Rendered, progress: list[str]) -> ReadyPods:
        self.apply(what)
        return await_running(self.api, what, self.identity, self.namespace, self.settings, progress.append)

    def lost(self, what: Rendered, ready: ReadyPods) -> str | None:
        return lost_reason(self.api, what, self.identity, self.namespace, ready)

    def messages(self) -> list[str]:
        """What was said of its objects."""
        events = [event_of(one) for one in self.api.list(EVENT, self.namespace)]
        return [one.message for one in events if one.name.startswith(self.name)]

    def outcome(self, fault: Fault) -> Outcome:
        progress: list[str] = []
        with pytest.raises(DeployError) as caught:
            self.ready(fault.rendered, progress)
        ended = time.time()
        return Outcome(caught.value, tuple(progress), ended - fault.grace_s - self._known(fault), self.folder)

    def _known(self, fault: Fault) -> float:
        """When the cluster knew, in seconds since the epoch."""
        if fault.known_exit:
            pods = self.api.list(POD, self.namespace, self.identity.selector())
            kinds = ("initContainerStatuses", "containerStatuses")
            states = [
                one[key]
                for pod in pods
                for kind in kinds
                for one in pod["status"].get(kind, ())
                for key in ("state", "lastState")
            ]
            return max(epoch_s(state["terminated"]["finishedAt"]) or 0.0 for state in states if "terminated" in state)
        reason, part = fault.known_by
        events = [event_of(one) for one in self.api.list(EVENT, self.namespace)]
        names = (fault.name, *(other["metadata"]["name"] for other in fault.others))
        return min(one.first_s for one in events if one.reason == reason and part in one.message and one.name.startswith(names))


@contextmanager
def namespace_of(cluster: Cluster, **labels: str) -> Iterator[str]:
    """A namespace with these labels; its pods end with it."""
    name = f"test-{uuid4().hex[:8]}"
    cluster.kubectl("create", "namespace", name)
    if labels:
        cluster.kubectl(
            "label", "namespace", name, *(f"pod-security.kubernetes.io/{key}={value}" for key, value in labels.items())
        )
    cluster.kubectl("wait", "--for=create", "serviceaccount/default", f"--namespace={name}", "--timeout=30s")
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")
    cluster.kubectl("delete", "deployments,statefulsets,jobs", "--all", f"--namespace={name}", "--cascade=orphan")
    cluster.kubectl("delete", "replicasets", "--all", f"--namespace={name}", "--cascade=orphan")
    cluster.kubectl("delete", "pods", "--all", f"--namespace={name}", "--force", "--grace-period=0")


def assert_golden(name: str, outcome: Outcome) -> None:
    text, file = normalised(str(outcome.error)), GOLDEN / f"{name}.txt"
    if os.environ.get(WRITE):
        file.write_text(text)
    assert text == file.read_text()
