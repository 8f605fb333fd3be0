"""A simulator that serves in a namespace, by a Service, for tests of the way to it."""

from __future__ import annotations

import json

from pytest_llmperf.deploy.simspec import sim_spec
from pytest_llmperf.experiment.catalog import builtin_directory, load_catalog
from pytest_llmperf.experiment.matrix import expand
from pytest_llmperf.experiment.records import Cell
from tests.cluster.cluster import Cluster
from tests.cluster.objects import Object, config_map, listed, service, simulator

NAME = "vllm"
PORT = 8000
CELL = "gke_h100_standalone_llama-3.1-8b"


def cell() -> Cell:
    """What the simulator simulates."""
    catalog = load_catalog([builtin_directory()])
    (found,) = (cell for cell in expand(catalog.matrix_named("default"), catalog) if cell.id == CELL)
    return found


def apply_simulator(cluster: Cluster, namespace: str, image: str, *more: Object) -> None:
    """It is ready when this returns, and takes no GPU. What else is given is applied in the place of its Service."""
    own = (config_map(NAME, {"spec.json": sim_spec(cell()).to_json()}), simulator(NAME, image, PORT, {}))
    objects = listed(*own, *(more or (service(NAME, PORT),)))
    cluster.kubectl("apply", f"--namespace={namespace}", "--filename=-", given=json.dumps(objects))
    cluster.kubectl("rollout", "status", f"deployment/{NAME}", f"--namespace={namespace}", "--timeout=120s")
