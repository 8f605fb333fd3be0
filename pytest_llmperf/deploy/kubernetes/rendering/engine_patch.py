"""What a cell makes of the engine's container and its pod: arguments, accelerators, nodes, memory, variables.

Everything here changes the objects that it is given, which are a cell's own copy.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_llmperf.deploy.kubernetes.api.kinds import Manifest
from pytest_llmperf.deploy.kubernetes.names import QUEUE
from pytest_llmperf.deploy.kubernetes.rendering.engine_container import Engine, is_accelerator, words_of
from pytest_llmperf.deploy.kubernetes.rendering.engine_words import for_cell, taken_apart
from pytest_llmperf.deploy.kubernetes.rendering.structure import PodTemplate, entries, pod_templates, section
from pytest_llmperf.deploy.kubernetes.settings import check_queue
from pytest_llmperf.errors import ConfigError, UnitError, Where
from pytest_llmperf.experiment.records import Cell, Toleration
from pytest_llmperf.units import parse_bytes

GIB = 2**30
QUEUE_OPTION = "--llmperf-queue"
_ACCELERATOR_LABELS = (
    "cloud.google.com/gke-accelerator",
    "eks.amazonaws.com/instance-gpu-name",
    "k8s.amazonaws.com/accelerator",
    "karpenter.k8s.aws/instance-gpu-name",
    "nvidia.com/gpu.product",
)
"""Node labels that name an accelerator: a manifest's own would contradict the cell's."""
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_USERS = ("runAsUser", "runAsGroup", "fsGroup")
_SHARED_MEMORY = "/dev/shm"
# Of a tensor-parallel engine, for each accelerator: a worker process with its CUDA context and pinned buffers, and shared memory.
_MEMORY_GIB, _MEMORY_GIB_EACH = 16, 8
# The API server and the scheduler are a busy process each. An accelerator's worker is one more that spins while it waits, beside
# threads of its own that copy outputs and talk to the other GPUs: where one of them finds no CPU, all GPUs wait. The clouds'
# machines with several have 12 or more for each. For one the shipped manifest asks for 3: 4 would fit no machine of 4.
_CPUS, _CPUS_EACH = 2, 2
_CPU = re.compile(r"(\d+\.?\d*|\.\d+)(m?)")
_SHARED_GIB_LEAST, _SHARED_GIB_EACH = 8, 4


def set_arguments(engine: Engine, cell: Cell, port: int) -> tuple[str, ...]:
    """Give the engine the cell's model and options: what follows its command. Raises ``ConfigError``."""
    container = engine.container
    command = words_of(container, "command", engine.where)
    words = for_cell(taken_apart(command, words_of(container, "args", engine.where), engine.where), cell, port)
    if command:
        # What began the engine may reach into the arguments (command: [vllm], args: [serve, MODEL]).
        container["command"] = list(words.command[: len(command)])
    container["args"] = [*words.command[len(command) :], *words.arguments]
    return words.arguments


def set_accelerators(engine: Engine, cell: Cell) -> None:
    """Ask for the cell's accelerators and no others."""
    resources = section(engine.container, "resources")
    for part in ("requests", "limits"):
        asked = section(resources, part)
        for resource in [name for name in asked if is_accelerator(name)]:
            del asked[resource]
        asked[cell.hardware.resource] = cell.hardware.count


def set_node(engine: Engine, cell: Cell) -> None:
    """Choose nodes by the platform's label, and bear the taints of its GPU nodes. Raises ``ConfigError``."""
    platform, hardware = cell.platform, cell.hardware
    product = hardware.node_labels.get(platform.name)
    if product is None:
        raise ConfigError(
            f"{hardware.name} is not offered on {platform.title}: the hardware names no node label for it",
            where=Where(key=f"hardware {hardware.name}.node_labels.{platform.name}"),
            hint=f"Known: {', '.join(sorted(hardware.node_labels)) or 'none'}. Leave the cell out (-k), or add the label.",
        )
    spec = engine.template.spec
    selector = section(spec, "nodeSelector")
    for name in _ACCELERATOR_LABELS:
        selector.pop(name, None)
    selector[platform.accelerator_label] = product
    _forget_accelerators(spec)
    tolerations = entries(spec, "tolerations")
    tolerations += [each for each in map(_toleration, platform.tolerations) if each not in tolerations]


def set_memory(engine: Engine, cell: Cell) -> None:
    """Enough memory for the processes of a tensor-parallel engine, where the manifest says less. Raises ``ConfigError``."""
    count = cell.hardware.count
    if count == 1:
        return
    needed = (_MEMORY_GIB + _MEMORY_GIB_EACH * count) * GIB
    resources = section(engine.container, "resources")
    _raise(section(resources, "requests"), "memory", needed, engine.where)
    # Shared memory counts into the limit.
    _raise(section(resources, "limits"), "memory", 2 * needed, engine.where)
    shared = _shared_memory(engine)
    _raise(shared, "sizeLimit", max(_SHARED_GIB_LEAST, _SHARED_GIB_EACH * count) * GIB, engine.where)


def set_cpus(engine: Engine, cell: Cell) -> None:
    """Enough CPUs for the processes of a tensor-parallel engine, where the manifest says less. Raises ``ConfigError``."""
    count = cell.hardware.count
    if count == 1:
        return
    resources = section(engine.container, "resources")
    for part in ("requests", "limits"):
        asked = section(resources, part)
        if "cpu" in asked and _cpus(asked["cpu"], engine.where) < (needed := _CPUS + _CPUS_EACH * count):
            asked["cpu"] = str(needed)


def set_variables(container: Manifest, variables: Mapping[str, str]) -> None:
    """Set environment variables, each in the place of one of the same name."""
    for name, value in variables.items():
        set_variable(container, {"name": name, "value": value})


def set_variable(container: Manifest, variable: Manifest) -> None:
    """Set one variable, as a container's ``env`` writes it."""
    known = entries(container, "env")
    at = next((index for index, one in enumerate(known) if one.get("name") == variable["name"]), len(known))
    known[at : at + 1] = [variable]


def let_cluster_choose_users(objects: Sequence[Manifest]) -> None:
    """Users and groups are the namespace's to give, as on OpenShift: a pod that names its own is refused."""
    for manifest in objects:
        for template in pod_templates(manifest):
            for owner in (template.spec, *template.containers, *template.init_containers):
                if isinstance(context := owner.get("securityContext"), dict):
                    for key in _USERS:
                        context.pop(key, None)


def queue(engine: Engine, name: str) -> None:
    """Put the engine's workload into one of Kueue's local queues. Raises ``ConfigError``."""
    check_queue(name, Where(option=QUEUE_OPTION))
    for metadata in (engine.workload.manifest["metadata"], engine.template.metadata):
        if metadata is not None:
            section(metadata, "labels")[QUEUE] = name


def raised(current: Any, least_bytes: float, what: str, where: Where) -> Any:
    """A quantity of bytes that is at least as much, in whole GiB where it must grow. Raises ``ConfigError``."""
    try:
        bytes_now = parse_bytes(current)
    except UnitError as error:
        raise ConfigError(f"{what} cannot be read: {error}", where=where) from None
    return current if bytes_now >= least_bytes else f"{math.ceil(least_bytes / GIB)}Gi"


def volume_at(template: PodTemplate, container: Manifest, path: str) -> Manifest | None:
    """The pod's volume that the container has mounted there."""
    names = [mount["name"] for mount in container.get("volumeMounts") or [] if mount.get("mountPath") == path]
    return next((volume for volume in template.spec.get("volumes") or [] if volume.get("name") in names), None)


def _forget_accelerators(spec: Manifest) -> None:
    """Take accelerators' names out of what the pod's affinity requires of a node. Of its terms one is enough."""
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    terms = (affinity.get(_REQUIRED) or {}).get("nodeSelectorTerms") or []
    for term in terms:
        if wanted := term.get("matchExpressions"):
            term["matchExpressions"] = [one for one in wanted if one.get("key") not in _ACCELERATOR_LABELS]
    # A term that asks for nothing more is met by every node, and to Kubernetes by none.
    if any(not any(term.values()) for term in terms):
        del affinity[_REQUIRED]


def _toleration(toleration: Toleration) -> Manifest:
    given = {"key": toleration.key, "operator": toleration.operator, "value": toleration.value, "effect": toleration.effect}
    return {key: value for key, value in given.items() if value is not None}


def _cpus(text: Any, where: Where) -> float:
    found = _CPU.fullmatch(str(text))
    if found is None:
        raise ConfigError(f"the engine's cpu {text!r} cannot be read: wanted is a number such as 4 or 3500m", where=where)
    return float(found[1]) / (1000 if found[2] else 1)


def _raise(limits: Manifest, key: str, least_bytes: float, where: Where) -> None:
    """Where nothing is said there is no limit."""
    if key in limits:
        limits[key] = raised(limits[key], least_bytes, f"the engine's {key} {limits[key]!r}", where)


def _shared_memory(engine: Engine) -> Manifest:
    """The ``emptyDir`` that is the engine's /dev/shm, made where there is none: a container runtime's own has 64 MiB."""
    volume = volume_at(engine.template, engine.container, _SHARED_MEMORY)
    if volume is None:
        volume = {"name": "llmperf-shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{_SHARED_GIB_LEAST}Gi"}}
        entries(engine.template.spec, "volumes").append(volume)
        entries(engine.container, "volumeMounts").append({"name": volume["name"], "mountPath": _SHARED_MEMORY})
    return section(volume, "emptyDir") if "emptyDir" in volume else {}
