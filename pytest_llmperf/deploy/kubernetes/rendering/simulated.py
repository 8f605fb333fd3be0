"""The simulator in the engine's place: the same pod, resources, probes and volumes; only the container's program is another."""

from __future__ import annotations

from pytest_llmperf.deploy.kubernetes.rendering.engine_container import Engine
from pytest_llmperf.deploy.kubernetes.rendering.engine_patch import set_variables
from pytest_llmperf.deploy.kubernetes.rendering.weights import drop_downloads
from pytest_llmperf.deploy.simspec import arguments_of, sim_spec
from pytest_llmperf.experiment.records import Cell

SPEC = "LLMPERF_SPEC"
"""The variable that holds what is simulated."""


def simulate(engine: Engine, cell: Cell, image: str, port: int) -> tuple[str, ...]:
    """Run the simulator of the cell; what it takes for the engine's arguments. Raises ``ConfigError``."""
    spec = sim_spec(cell)
    container = engine.container
    container["image"] = image
    # The image knows how it is started.
    container.pop("command", None)
    container["args"] = [f"--spec=env:{SPEC}", "--host=0.0.0.0", f"--port={port}"]
    set_variables(container, {SPEC: spec.to_json()})
    drop_downloads(engine)
    return arguments_of(spec.engine)
