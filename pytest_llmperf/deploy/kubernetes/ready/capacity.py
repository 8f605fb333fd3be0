"""Why no node takes a pod: which label or resource none of them has, or that others use what there is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from math import inf

from pytest_llmperf.deploy.kubernetes.ready.pods import PODS, Pod, Requirement, Tolerated
from pytest_llmperf.deploy.kubernetes.ready.seen import Node, Nodes, Taint, is_accelerator
from pytest_llmperf.units import format_bytes

MOST_NODES = 16
"""On how many of the nodes that a pod could have it is looked who uses them."""
UNSCHEDULABLE_TAINT = "node.kubernetes.io/unschedulable"
NAMED = 3
"""How many nodes, values or pods a sentence names before it counts the rest."""
_PRODUCT = ("gpu.product", "accelerator", "gpu-name")
"""Parts of the keys of labels by which clouds and operators name a node's GPUs."""


@dataclass(frozen=True)
class NoRoom:
    """Why no node takes a pod now."""

    cause: str
    details: tuple[str, ...] = ()
    is_queue: bool = False
    """Whether there are nodes for it, and others use them."""


def why_no_node(pod: Pod, nodes: Nodes) -> NoRoom | None:
    """What keeps a pod from every node; None where what is known of the nodes does not tell."""
    if not nodes.nodes:
        return NoRoom("the cluster has no nodes")
    labelled = [node for node in nodes.nodes if _has_labels(node, pod)]
    if not labelled:
        return _no_label(pod, nodes.nodes)
    open_to_it = [node for node in labelled if not _repelled(node, pod)]
    if not open_to_it:
        return _no_toleration(pod, labelled)
    large = [node for node in open_to_it if not _lacking(pod, node.allocatable)]
    if not large:
        return _too_small(pod, open_to_it)
    return _in_use(pod, large[:MOST_NODES], nodes.pods)


def candidates(pod: Pod, nodes: Iterable[Node]) -> tuple[Node, ...]:
    """The first of the nodes that could take a pod if nobody else used them."""
    found = (
        node for node in nodes if _has_labels(node, pod) and not _repelled(node, pod) and not _lacking(pod, node.allocatable)
    )
    return tuple(islice(found, MOST_NODES))


def amount(resource: str, value: float) -> str:
    """``24Gi`` of memory, ``2`` GPUs."""
    is_bytes = resource in ("memory", "ephemeral-storage") or resource.startswith("hugepages-")
    return format_bytes(value) if is_bytes else f"{value:g}"


def asked_for(pod: Pod, resource: str) -> str:
    """``2 nvidia.com/gpu``: how much of a resource a pod asks for."""
    return "room for one more pod" if resource == PODS else f"{amount(resource, pod.requests[resource])} {resource}"


def some(names: Sequence[str], limit: int = NAMED) -> str:
    """``a, b, c and 5 more``."""
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")


def holds(requirement: Requirement, node: Node) -> bool:
    """Whether a node's labels are as they must be."""
    value = node.labels.get(requirement.key)
    match requirement.operator:
        case "In":
            return value in requirement.values
        case "NotIn":
            return value not in requirement.values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case _:
            return value is not None and _compares(requirement, value)


def _compares(requirement: Requirement, value: str) -> bool:
    try:
        has, limit = int(value), int(requirement.values[0])
    except (ValueError, IndexError):
        return False
    return has > limit if requirement.operator == "Gt" else has < limit


def _has_labels(node: Node, pod: Pod) -> bool:
    if not all(holds(one, node) for one in pod.node_selector):
        return False
    return not pod.node_terms or any(all(holds(one, node) for one in term) for term in pod.node_terms)


def _no_label(pod: Pod, nodes: Sequence[Node]) -> NoRoom:
    wanted = [*pod.node_selector, *(pod.node_terms[0] if len(pod.node_terms) == 1 else ())]
    for one in wanted:
        if not any(holds(one, node) for node in nodes):
            return NoRoom(f"no node has the label {one}", tuple(_have_instead(one.key, nodes)))
    if len(pod.node_terms) > 1:
        terms = " or ".join(" and ".join(map(str, term)) for term in pod.node_terms)
        return NoRoom(f"no node fits the pod's node affinity: {terms}", tuple(_have_instead("", nodes)))
    together = " and ".join(map(str, wanted))
    lacking = [f"{node.name} is not {_first_failing(wanted, node)}" for node in nodes if _first_failing(wanted, node)]
    return NoRoom(f"no node has all of the labels {together}", tuple(lacking[:NAMED]))


def _first_failing(wanted: Sequence[Requirement], node: Node) -> str:
    return next((str(one) for one in wanted if not holds(one, node)), "")


def _have_instead(key: str, nodes: Sequence[Node]) -> Iterable[str]:
    """What the nodes have for a label's key; where none has it, how those with accelerators name theirs."""
    with_gpus = [node for node in nodes if node.has_accelerators]
    if values := sorted({node.labels[key] for node in nodes if key in node.labels}):
        yield f"nodes have for it: {some(values)}"
        return
    if key:
        yield f"no node has a label {key}"
    named = sorted({f"{label}={value}" for node in with_gpus for label, value in node.labels.items() if _names_product(label)})
    if named:
        yield f"nodes with GPUs have: {some(named)}"
    elif not with_gpus:
        yield "no node offers GPUs"


def _names_product(label: str) -> bool:
    return any(label.endswith(part) for part in _PRODUCT)


def _repelled(node: Node, pod: Pod) -> Taint | None:
    """The first taint of a node that a pod does not tolerate."""
    cordon = [Taint(UNSCHEDULABLE_TAINT, "", "NoSchedule")] if node.is_cordoned else []
    taints = [one for one in (*cordon, *node.taints) if one.effect in ("NoSchedule", "NoExecute")]
    return next((one for one in taints if not any(_tolerates(known, one) for known in pod.tolerations)), None)


def _tolerates(toleration: Tolerated, taint: Taint) -> bool:
    if toleration.effect and toleration.effect != taint.effect:
        return False
    if toleration.key and toleration.key != taint.key:
        return False
    return toleration.operator == "Exists" or (bool(toleration.key) and toleration.value == taint.value)


def _no_toleration(pod: Pod, nodes: Sequence[Node]) -> NoRoom:
    taints = {node.name: _repelled(node, pod) for node in nodes}
    if all(taint is not None and taint.key == UNSCHEDULABLE_TAINT for taint in taints.values()):
        return NoRoom(f"every node that fits is cordoned: {some(sorted(taints))}")
    named = [f"{name} has the taint {taint}" for name, taint in sorted(taints.items())]
    return NoRoom("the pod does not tolerate the taints of the nodes that fit", tuple(named[:NAMED]))


def _lacking(pod: Pod, free: Mapping[str, float]) -> list[str]:
    """The resources of which a pod asks for more than there is, accelerators first."""
    # A node that does not say how many pods it takes has no limit of its own.
    has = {PODS: inf, **free}
    lacking = [name for name, asked in pod.requests.items() if asked > 0 and has.get(name, 0.0) < asked]
    return sorted(lacking, key=lambda name: (not is_accelerator(name), name))


def _too_small(pod: Pod, nodes: Sequence[Node]) -> NoRoom:
    # What the node lacks that lacks the least is what keeps the pod from all of them.
    nearest = min(nodes, key=lambda node: len(_lacking(pod, node.allocatable)))
    resource = _lacking(pod, nearest.allocatable)[0]
    asked = asked_for(pod, resource)
    most = max(node.allocatable.get(resource, 0.0) for node in nodes)
    offered = sorted(
        {
            f"{name} {amount(name, value)}"
            for node in nodes
            for name, value in node.allocatable.items()
            if value > 0 and is_accelerator(name)
        }
    )
    details = (f"nodes have: {', '.join(offered)}",) if offered and is_accelerator(resource) else ()
    has = f"the largest node that fits has {amount(resource, most)}" if most > 0 else "no node that fits has any"
    return NoRoom(f"it asks for {asked}, and {has}", details)


def _in_use(pod: Pod, nodes: Sequence[Node], others: Sequence[Pod] | None) -> NoRoom | None:
    if others is None:
        asked = next((name for name in sorted(pod.requests, key=lambda name: not is_accelerator(name))), "")
        return NoRoom(f"{asked_for(pod, asked)}: in use by others", is_queue=True) if asked else None
    short: list[str] = []
    for node in nodes:
        free = {name: value - _used(name, node, others) for name, value in node.allocatable.items()}
        lacking = _lacking(pod, free)
        if not lacking:
            return None
        short.append(lacking[0])
    resource = max(short, key=lambda name: (is_accelerator(name), short.count(name)))
    return _queue(pod, resource, nodes, others)


def _queue(pod: Pod, resource: str, nodes: Sequence[Node], others: Sequence[Pod]) -> NoRoom:
    names = {node.name for node in nodes}
    users = [one for one in others if one.node in names and _holds_resources(one) and one.requests.get(resource, 0.0) > 0]
    users.sort(key=lambda one: (-one.requests[resource], one.namespace, one.name))
    total = sum(node.allocatable.get(resource, 0.0) for node in nodes)
    used = sum(one.requests[resource] for one in users)
    by = some([f"{one.namespace}/{one.name}" for one in users])
    return NoRoom(
        f"{asked_for(pod, resource)}: {amount(resource, used)} of {amount(resource, total)} in use by {by}", is_queue=True
    )


def _used(resource: str, node: Node, others: Iterable[Pod]) -> float:
    return sum(one.requests.get(resource, 0.0) for one in others if one.node == node.name and _holds_resources(one))


def _holds_resources(pod: Pod) -> bool:
    return pod.phase not in ("Succeeded", "Failed")
