"""What a port-forward adds to latencies, and how many tokens it carries: loads through it and past it, on a real cluster.

The pod, the cluster, the client and the port-forward share this machine: what is added is more than on a cluster of its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pytest
from numpy.typing import NDArray

from pytest_llmperf.deploy.base import Endpoint
from pytest_llmperf.deploy.kubernetes.access.port_forward import PortForward, round_trip
from pytest_llmperf.deploy.kubernetes.access.reach import ready_pods, service_in
from pytest_llmperf.deploy.kubernetes.api.client import KubeApi
from pytest_llmperf.experiment.profile import Concurrency, LoadProfile, Poisson
from pytest_llmperf.experiment.records import Lengths
from pytest_llmperf.load.records import LoadResult
from pytest_llmperf.measure.latencies import inter_token_latencies
from pytest_llmperf.sim.spec import ColdStart
from tests.cluster.cluster import Cluster
from tests.cluster.conftest import cluster, namespace, simulator_image  # noqa: F401  (fixtures)
from tests.cluster.objects import config_map, listed, service, simulator
from tests.perf.figures import Table
from tests.perf.test_load_engine import drive, tokens_in_window
from tests.unit.sim.cells import spec

pytestmark = pytest.mark.timeout(600)

NAME, PORT = "fast", 8000
PROFILES: tuple[LoadProfile, ...] = (Poisson(5), Poisson(20), Concurrency(50), Concurrency(200))
"""Sparse, dense, and two that ask for more than a small machine has."""
OUTPUT = Lengths(200, "uniform", min=150, max=250)
MS, US = 1e3, 1e6


@dataclass(frozen=True)
class Seen:
    """One load, by one way."""

    result: LoadResult
    cpu_s: float = 0.0
    """Of the port-forward's process meanwhile."""

    @cached_property
    def counted(self) -> NDArray[np.bool_]:
        return ~self.result.log.warmup

    def ttft_s(self, quantile: float) -> float:
        log = self.result.log
        return float(np.quantile((log.first_token_s - log.sent_s)[self.counted], quantile))

    def itl_s(self, quantile: float) -> float:
        return float(np.quantile(inter_token_latencies(self.result.log, self.counted)[0], quantile))

    @property
    def tokens_per_s(self) -> float:
        return tokens_in_window(self.result) / (self.result.window_end_s - self.result.window_start_s)


@dataclass(frozen=True)
class Ways:
    """The same pods, reached in two ways."""

    direct: Endpoint
    forward: PortForward

    def directly(self, profile: LoadProfile) -> Seen:
        return Seen(drive(self.direct, profile, 8.0, OUTPUT, warmup_s=3.0).result)

    def forwarded(self, profile: LoadProfile) -> Seen:
        endpoint = replace(self.direct, base_url=self.forward.url)
        before_s = cpu_s(self.forward.process_id)
        result = drive(endpoint, profile, 8.0, OUTPUT, warmup_s=3.0).result
        return Seen(result, cpu_s(self.forward.process_id) - before_s)


def cpu_s(pid: int) -> float:
    """What a process has used."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / float(os.sysconf("SC_CLK_TCK"))


@pytest.fixture
def ways(cluster: Cluster, namespace: str, simulator_image: str) -> Iterator[Ways]:  # noqa: F811  (fixtures)
    """A pod that makes far more tokens than can be carried: 8B in fp8 on a B200."""
    fast = replace(spec("b200", fp8=True, kv_cache_dtype="fp8"), cold_start=ColdStart(0.0, 0.0, 0.0))
    objects = listed(
        config_map(NAME, {"spec.json": fast.to_json()}), simulator(NAME, simulator_image, PORT, {}), service(NAME, PORT)
    )
    cluster.kubectl("apply", f"--namespace={namespace}", "--filename=-", given=json.dumps(objects))
    cluster.kubectl("rollout", "status", f"deployment/{NAME}", f"--namespace={namespace}", "--timeout=120s")
    with KubeApi.connect(cluster.kubeconfig) as api:
        known = service_in(api, namespace, NAME, PORT)
        direct = Endpoint(known.url(known.cluster_ip), fast.model.name)
        with PortForward(api, namespace, lambda: ready_pods(api, namespace, known), PORT) as forward:
            yield Ways(direct, forward)
            assert forward.failures is None


@pytest.fixture
def costs(capsys: pytest.CaptureFixture[str]) -> Iterator[Table]:
    """Printed when all is measured."""
    table = Table("port-forward")
    yield table
    with capsys.disabled():
        print(f"\n\n{table.text()}")


def test_what_a_port_forward_costs(ways: Ways, costs: Table) -> None:
    host, _, port = ways.direct.base_url.removeprefix("http://").partition(":")
    trip, past = ways.forward.round_trip(), round_trip(host, int(port), "/health")
    assert trip is not None
    costs.add("an empty round trip, p50 / p99", f"{trip.p50_s * MS:.2f} / {trip.p99_s * MS:.2f} ms")
    costs.add("the same directly", f"{past.p50_s * MS:.2f} / {past.p99_s * MS:.2f} ms")
    costs.add("opening a connection", f"{trip.opening_s * MS:.1f} ms")
    for profile in PROFILES:
        compare(ways.directly(profile), ways.forwarded(profile), profile, costs)


def compare(directly: Seen, forwarded: Seen, profile: LoadProfile, costs: Table) -> None:
    """A load's rows."""
    for quantile, name in ((0.5, "p50"), (0.99, "p99")):
        added_ms = (forwarded.ttft_s(quantile) - directly.ttft_s(quantile)) * MS
        costs.add(f"TTFT {name} added, {profile}", f"{added_ms:.2f} ms to {directly.ttft_s(quantile) * MS:.1f} ms")
    costs.add(f"ITL p99, {profile}", f"{forwarded.itl_s(0.99) * MS:.2f} ms, directly {directly.itl_s(0.99) * MS:.2f} ms")
    cpu_us = forwarded.cpu_s / int(forwarded.result.log.chunk_tokens.sum()) * US
    rates = f"{forwarded.tokens_per_s:,.0f}, directly {directly.tokens_per_s:,.0f}"
    costs.add(f"tokens/s carried, {profile}", f"{rates}; {cpu_us:.1f} µs of CPU each")
    assert forwarded.tokens_per_s > directly.tokens_per_s / 10
