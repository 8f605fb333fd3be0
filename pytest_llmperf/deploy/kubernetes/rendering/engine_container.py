"""Which container of a set of objects is the engine, at which port it serves, and which Service leads there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_llmperf.deploy.engine_options import base_name, options_of, value_of
from pytest_llmperf.deploy.kubernetes.api.kinds import Manifest
from pytest_llmperf.deploy.kubernetes.rendering.manifests import Sourced
from pytest_llmperf.deploy.kubernetes.rendering.structure import PodTemplate, holders, pod_templates, section
from pytest_llmperf.errors import ConfigError, Where, unknown

ENGINE = "llmperf.dev/engine"
"""An annotation on a workload: the name of its container that is the engine. On a Service: that it leads there (``true``)."""
_NAMES = ("vllm", "engine")
_ACCELERATOR = re.compile(r"[\w.-]+/(?:v?gpu|gpu[.-].+|mig-.+|gaudi|tpu|neuron\w*|npu\w*|xe|i915)")
_DEFAULT_PORT = 8000
_PODS = ("replicas", "minReplicas", "maxReplicas", "parallelism")
"""Keys that say how many pods there are of a template."""
_SCALED = "scaleTargetRef"
"""By this an autoscaler of any kind names the workload whose replicas it changes."""


@dataclass(frozen=True)
class Engine:
    """The engine's container, in the objects that it is part of: whoever changes it changes them."""

    workload: Sourced
    template: PodTemplate
    container: Manifest

    @property
    def where(self) -> Where:
        """Where its workload was read."""
        return self.workload.where

    @property
    def name(self) -> str:
        """The workload's."""
        return str(self.workload.manifest["metadata"]["name"])


def is_accelerator(resource: str) -> bool:
    """Whether a pod that asks for this resource asks for a GPU or its like."""
    return _ACCELERATOR.fullmatch(resource) is not None


def find_engine(objects: Sequence[Sourced]) -> Engine:
    """The one container that is marked, or asks for an accelerator, or is named as one. Raises ``ConfigError``."""
    everything = [
        Engine(one, template, container)
        for one in objects
        for template in pod_templates(one.manifest)
        for container in template.containers
    ]
    marked = _marked(objects, everything)
    likely = marked or [each for each in everything if _asks_for_accelerator(each.container)]
    named = [each for each in likely or everything if each.container["name"] in _NAMES]
    for found in (likely, [] if marked else named):
        if len(found) == 1:
            return found[0]
    among = ", ".join(f"{each.container['name']} of {each.workload.title}" for each in likely or everything)
    problem = (
        f"several containers may be the engine: {among}"
        if likely
        else f"no container is the engine (there are: {among or 'none'})"
    )
    raise ConfigError(
        problem,
        where=likely[0].where if likely else _first(objects),
        hint=f"Mark the workload: metadata.annotations: {{{ENGINE}: NAME}} with the name of its container that serves the model.",
    )


def check_one_engine(objects: Sequence[Sourced], engine: Engine) -> None:
    """Refuse what makes several engines of one, or as many as it likes, or spreads one over pods. Raises ``ConfigError``."""
    workload = engine.workload
    if workload.manifest["kind"] == "DaemonSet":
        raise _several(workload, f"{workload.title} has an engine on every node", "Make it a Deployment with replicas: 1.")
    for outer in holders(workload.manifest, engine.template.spec):
        if workload.manifest["kind"] == "LeaderWorkerSet" and (size := outer.get("size")) not in (None, 1):
            problem = f"size of {workload.title} is {size!r}: an engine in several pods is counted and watched as one pod's"
            hint = "Set size: 1, or deploy it yourself and measure it with --llmperf-target=endpoint."
            raise ConfigError(problem, where=workload.where, hint=hint)
        for key in _PODS:
            if (number := outer.get(key)) not in (None, 1):
                hint = f"Set {key}: 1. Several behind one Service are measured with --llmperf-target=endpoint."
                raise _several(workload, f"{key} of {workload.title} is {number!r}", hint)
    for one in objects:
        target = section(one.manifest, "spec").get(_SCALED) if "spec" in one.manifest else None
        # KEDA's means a Deployment where it names no kind.
        if isinstance(target, dict) and (target.get("kind", "Deployment"), target.get("name")) == (
            workload.manifest["kind"],
            engine.name,
        ):
            raise _several(one, f"{one.title} scales {workload.title}", "Deploy the engine without it.")


def port_of(engine: Engine) -> int:
    """The container's port that is named ``http``, else what its command line says, else vLLM's own, else its first."""
    ports = [port for port in engine.container.get("ports") or [] if isinstance(port.get("containerPort"), int)]
    if named := [port for port in ports if port.get("name") == "http"]:
        return int(named[0]["containerPort"])
    words = [word for key in ("command", "args") for word in words_of(engine.container, key, engine.where)]
    given = next((value_of(option) for option in options_of(words) if base_name(option[0]) == "port"), "")
    if given.isdigit():
        return int(given)
    numbers = [int(port["containerPort"]) for port in ports]
    return _DEFAULT_PORT if not numbers or _DEFAULT_PORT in numbers else numbers[0]


def words_of(container: Manifest, key: str, where: Where) -> list[str]:
    """A container's ``command`` or ``args``. Raises ``ConfigError``."""
    words = container.get(key) or []
    if not isinstance(words, list):
        raise ConfigError(f"{key!r} of the container {container['name']} must be a list of words", where=where)
    return [str(word) for word in words]


def find_service(objects: Sequence[Sourced], engine: Engine, port: int) -> tuple[Manifest, int]:
    """The Service that leads to the engine, and its port for that. Raises ``ConfigError``."""
    leading = [
        (one.manifest, number)
        for one in objects
        if one.manifest["kind"] == "Service" and one.manifest["apiVersion"] == "v1" and _selects(one.manifest, engine.template)
        if (number := _service_port(one.manifest, engine.container, port)) is not None
    ]
    for prefer in (_is_marked, lambda service: service["metadata"]["name"] == engine.name, _has_address):
        if len(leading) > 1:
            leading = [each for each in leading if prefer(each[0])] or leading
    if len(leading) == 1:
        return leading[0]
    names = ", ".join(service["metadata"]["name"] for service, _ in leading)
    raise ConfigError(
        f"several Services lead to the engine: {names}" if leading else f"no Service leads to the engine's port {port}",
        where=engine.where,
        hint=f"Mark one of them: metadata.annotations: {{{ENGINE}: 'true'}}."
        if leading
        else "Add a Service whose selector is among the labels of the engine's pods and whose targetPort is the engine's.",
    )


def _several(one: Sourced, problem: str, hint: str) -> ConfigError:
    return ConfigError(
        f"{problem}; a cell is one engine: its price, its accelerators and its capacity are of one", where=one.where, hint=hint
    )


def _marked(objects: Sequence[Sourced], everything: Sequence[Engine]) -> list[Engine]:
    """The containers that an annotation names. Raises ``ConfigError`` for a name that its workload does not have."""
    found = []
    for one in objects:
        of_it = [each for each in everything if each.workload is one]
        mark = _annotations(one.manifest).get(ENGINE)
        if mark is None or not of_it:
            continue
        names = [each.container["name"] for each in of_it]
        if mark not in names and len(names) > 1:
            raise unknown("container", str(mark), names, one.where)
        found += [each for each in of_it if len(names) == 1 or each.container["name"] == mark]
    return found


def _annotations(manifest: Manifest) -> Manifest:
    return manifest["metadata"].get("annotations") or {}


def _asks_for_accelerator(container: Manifest) -> bool:
    resources = container.get("resources") or {}
    return any(is_accelerator(name) for part in ("requests", "limits") for name in resources.get(part) or {})


def _selects(service: Manifest, template: PodTemplate) -> bool:
    selector = section(service, "spec").get("selector") or {}
    labels = (template.metadata or {}).get("labels") or {}
    return bool(selector) and selector.items() <= labels.items()


def _service_port(service: Manifest, container: Manifest, port: int) -> int | None:
    """The Service's port that leads to the container's."""
    names = {one.get("name") for one in container.get("ports") or [] if one.get("containerPort") == port}
    for one in service["spec"].get("ports") or []:
        target = one.get("targetPort", one.get("port"))
        if target == port or (isinstance(target, str) and target in names):
            return int(one["port"])
    return None


def _is_marked(service: Manifest) -> bool:
    return ENGINE in _annotations(service)


def _has_address(service: Manifest) -> bool:
    return bool(service["spec"].get("clusterIP") != "None")


def _first(objects: Sequence[Sourced]) -> Where | None:
    return objects[0].where if objects else None
