"""What the API says of a cluster -> what is there, what is missing, and what to do about it. No cluster is asked here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pytest_llmperf.deploy.kubernetes.api.kinds import CONFIG_MAP, PVC, SECRET, Kind
from pytest_llmperf.deploy.kubernetes.api.refusals import ANONYMOUS
from pytest_llmperf.deploy.kubernetes.doctor.permissions import Need, rules
from pytest_llmperf.deploy.kubernetes.ready.capacity import candidates, some, why_no_node
from pytest_llmperf.deploy.kubernetes.ready.pods import Pod
from pytest_llmperf.deploy.kubernetes.ready.seen import Nodes
from pytest_llmperf.deploy.kubernetes.rendering.structure import claim_templates, pod_templates
from pytest_llmperf.errors import nearest
from pytest_llmperf.experiment.records import Cell

State = Literal["ok", "missing", "unsure"]
OLDEST = (1, 27)
"""Kubernetes from which on the server tells of fields that it does not know, as this program asks it to."""
NEWEST = (1, 36)
"""The newest that this program was tested with."""
_DEFAULT_CLASS = ("storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class")
_OF_EKS = {
    "gp3": "EKS makes no class of this name: create it (type gp3, by ebs.csi.aws.com of the EBS CSI add-on, or in Auto Mode by "
    "ebs.csi.eks.amazonaws.com). "
}
"""Storage classes that clusters are thought to have, and that somebody has to make: how."""
_MINOR = re.compile(r"v(\d+)\.(\d+)")
_DONE = ("Succeeded", "Failed")
_RBAC = "manifests/rbac"


@dataclass(frozen=True)
class Check:
    """One line of the doctor's table: ``unsure`` is what works all the same, or cannot be told beforehand."""

    what: str
    state: State
    found: str
    todo: str = ""


@dataclass(frozen=True)
class Reference:
    """What a cell's pods need that is not among the cell's objects: it has to be in the namespace already."""

    kind: Kind
    name: str
    key: str = ""
    is_optional: bool = False

    def __str__(self) -> str:
        return f"{_WORDS[self.kind]} {self.name}"


def version_check(version: str) -> Check:
    """Whether the API server is neither too old nor newer than what is known."""
    match = _MINOR.match(version)
    if match is None:
        return Check("version", "unsure", version, "This is no version that Kubernetes has.")
    minor = (int(match[1]), int(match[2]))
    if minor < OLDEST:
        return Check("version", "missing", version, f"Upgrade the cluster: {_dotted(OLDEST)} is the oldest that works.")
    if minor > NEWEST:
        return Check("version", "unsure", f"{version}, newer than {_dotted(NEWEST)}, up to which this was tested")
    return Check("version", "ok", version)


def _dotted(minor: tuple[int, int]) -> str:
    return f"v{minor[0]}.{minor[1]}"


def user_check(user: str, login: str) -> Check:
    """Whether the API server knows who asks."""
    if user == ANONYMOUS:
        return Check("user", "missing", "nobody: no credentials were shown", login)
    return Check("user", "ok", user or "the cluster does not say")


def namespace_check(name: str | None, found: Mapping[str, Any] | None, known: Sequence[str]) -> Check:
    """Whether the namespace is there and stays; ``known`` are those that there are, as far as they may be seen."""
    if name is None:
        return Check("namespace", "ok", "one is made for each session")
    if found is None:
        close = nearest(name, known)
        meant = f"Did you mean {close!r}? " if close else ""
        return Check("namespace", "missing", f"there is no {name!r}", f"{meant}Create it: `kubectl create namespace {name}`.")
    if found["metadata"].get("deletionTimestamp"):
        return Check("namespace", "missing", f"{name} is being deleted", "Wait until it is gone, or name another.")
    return Check("namespace", "ok", name)


def permission_checks(
    needs: Sequence[Need], denied: Iterable[tuple[Need, str]], *, is_optional: bool, manifest: str
) -> list[Check]:
    """One line where all is allowed, else one for each kind of objects on which a verb is missing."""
    title = "permissions, whole cluster" if is_optional else "permissions"
    missing: dict[Need, list[str]] = {}
    for need, verb in denied:
        missing.setdefault(need, []).append(verb)
    if not missing:
        kinds = {need.kind for need in needs}
        return [Check(title, "ok", f"all {len(rules(needs))} that are used, on {len(kinds)} kinds of objects")]
    state: State = "unsure" if is_optional else "missing"
    needed = "Only to" if is_optional else "Needed to"
    return [
        Check(title, state, f"no {', '.join(verbs)} on {need}", f"{needed} {need.purpose}: {_RBAC}/{manifest} grants it.")
        for need, verbs in missing.items()
    ]


def kind_check(need: Need, denied: Sequence[str]) -> Check:
    """Whether objects may be applied of a kind that only a user's own manifests have."""
    what = f"permissions, {need}"
    if not denied:
        return Check(what, "ok", "may be applied and removed")
    return Check(
        what, "missing", f"no {', '.join(denied)} on {need}", f"Have a Role bound that allows it, beside those of {_RBAC}."
    )


def accelerator_check(cell: Cell, pod: Pod, nodes: Nodes | None) -> Check:
    """Whether a node could take a cell's pod, and how many of its accelerators are free."""
    what = f"nodes for {cell.platform.name}_{cell.hardware.id}"
    resource = cell.hardware.resource
    if nodes is None:
        return Check(what, "unsure", "nodes may not be read", f"{_RBAC}/cluster.yaml lets them be read.")
    fitting = candidates(pod, nodes.nodes)
    if not fitting:
        room = why_no_node(pod, nodes)
        cause = room.cause if room is not None else "no node could take the pod"
        details = "; ".join(room.details) if room is not None else ""
        return Check(what, "missing", cause, f"{details + '. ' if details else ''}Add such nodes, if no autoscaler does.")
    total = sum(node.allocatable.get(resource, 0.0) for node in fitting)
    found = f"{len(fitting)} with {total:g} {resource}: {some([node.name for node in fitting])}"
    if nodes.pods is None:
        return Check(what, "ok", f"{found}; how many are free is not known")
    names = {node.name for node in fitting}
    used = sum(one.requests.get(resource, 0.0) for one in nodes.pods if one.node in names and one.phase not in _DONE)
    waits = why_no_node(pod, nodes) is not None
    return Check(what, "ok", f"{found}; {total - used:g} free now" + (": cells wait until others are done" if waits else ""))


def storage_checks(objects: Sequence[Mapping[str, Any]], classes: Sequence[Mapping[str, Any]] | None) -> list[Check]:
    """Whether the storage classes exist that the claims among a cell's objects ask for."""
    claims = [one for one in objects if one["kind"] == PVC.kind]
    claims += [claim for one in objects for claim in claim_templates(dict(one))]
    asked = sorted({claim.get("spec", {}).get("storageClassName") or "" for claim in claims})
    return [_storage_check(name, classes) for name in asked]


def _storage_check(name: str, classes: Sequence[Mapping[str, Any]] | None) -> Check:
    what = f"storage class {name}" if name else "default storage class"
    if classes is None:
        return Check(what, "unsure", "storage classes may not be read", f"{_RBAC}/cluster.yaml lets them be read.")
    known = {one["metadata"]["name"]: one for one in classes}
    default = next((key for key, one in known.items() if _is_default(one)), None)
    if name in known or (not name and default is not None):
        found = known[name or str(default)]
        return Check(what, "ok", f"{found['metadata']['name']} by {found['provisioner']}")
    there = f"There are: {some(sorted(known))}. " if known else ""
    make = _OF_EKS.get(name, "")
    todo = f"{make}{there}Name one in the manifest's storageClassName or the platform's record, or use another --model-cache."
    return Check(what, "missing", f"there is no {name!r}" if name else "the cluster has none", todo)


def _is_default(storage_class: Mapping[str, Any]) -> bool:
    annotations = storage_class["metadata"].get("annotations") or {}
    return any(annotations.get(key) == "true" for key in _DEFAULT_CLASS)


def references(objects: Sequence[Mapping[str, Any]]) -> tuple[Reference, ...]:
    """The Secrets, ConfigMaps and claims that pods refer to and that are not among the objects themselves."""
    own = {(one["kind"], one["metadata"]["name"]) for one in objects}
    found: dict[Reference, None] = {}
    for manifest in objects:
        for template in pod_templates(dict(manifest)):
            found.update(dict.fromkeys(_references(template.spec)))
    return tuple(one for one in found if (one.kind.kind, one.name) not in own)


def _references(spec: Mapping[str, Any]) -> Iterable[Reference]:
    for container in (*(spec.get("initContainers") or ()), *(spec.get("containers") or ())):
        for variable in container.get("env") or ():
            for part, kind in (("secretKeyRef", SECRET), ("configMapKeyRef", CONFIG_MAP)):
                if source := (variable.get("valueFrom") or {}).get(part):
                    yield Reference(kind, source["name"], source.get("key", ""), bool(source.get("optional")))
        for source in container.get("envFrom") or ():
            for part, kind in (("secretRef", SECRET), ("configMapRef", CONFIG_MAP)):
                if named := source.get(part):
                    yield Reference(kind, named["name"], is_optional=bool(named.get("optional")))
    for secret in spec.get("imagePullSecrets") or ():
        yield Reference(SECRET, secret["name"], is_optional=True)
    for volume in spec.get("volumes") or ():
        if claim := volume.get("persistentVolumeClaim"):
            yield Reference(PVC, claim["claimName"])
        if secret := volume.get("secret"):
            yield Reference(SECRET, secret["secretName"], is_optional=bool(secret.get("optional")))
        if config := volume.get("configMap"):
            yield Reference(CONFIG_MAP, config["name"], is_optional=bool(config.get("optional")))


def unread_check(what: str) -> Check:
    """Of an object that may not be read."""
    return Check(what, "unsure", "it may not be read")


def reference_check(one: Reference, found: Mapping[str, Any] | None, namespace: str | None) -> Check:
    """Whether what pods refer to is there, and has the key. A Secret's content is not looked at."""
    what = str(one)
    if namespace is None and not one.is_optional:
        todo = "Name a namespace that has it: --namespace=NAME."
        return Check(what, "missing", "the namespace made for a session has none", todo)
    if found is None:
        state: State = "unsure" if one.is_optional else "missing"
        return Check(what, state, "not there" + ("; it is optional" if one.is_optional else ""), _create(one, namespace))
    if one.key and one.key not in {**(found.get("data") or {}), **(found.get("binaryData") or {})}:
        keys = sorted(found.get("data") or {})
        return Check(what, "missing", f"has no key {one.key!r}", f"Its keys: {', '.join(keys) or 'none'}. Name one: NAME/KEY.")
    return _claim_check(what, found) if one.kind == PVC else Check(what, "ok", "there")


_WORDS = {SECRET: "secret", CONFIG_MAP: "config map", PVC: "claim"}


def _create(one: Reference, namespace: str | None) -> str:
    if one.is_optional or one.kind != SECRET:
        return "" if one.is_optional else f"Create it in the namespace {namespace}, or name another."
    literal = f'--from-literal={one.key or "token"}="$HF_TOKEN"'
    return f"`kubectl create secret generic {one.name} --namespace={namespace} {literal}`, or set HF_TOKEN and no --hf-secret."


def _claim_check(what: str, claim: Mapping[str, Any]) -> Check:
    phase = (claim.get("status") or {}).get("phase", "Pending")
    modes = (claim.get("spec") or {}).get("accessModes") or []
    if phase == "Lost":
        return Check(what, "missing", "its volume is lost", "Make a new claim.")
    shared = any(mode in ("ReadWriteMany", "ReadOnlyMany") for mode in modes)
    found = f"{phase}, {', '.join(modes)}"
    if phase == "Bound":
        return Check(what, "ok", found if shared else f"{found}: for pods of one node at a time")
    return Check(what, "unsure", found, "It has no volume yet: many storage classes make it for the first pod.")


def token_check(gated: Sequence[str], *, has_variable: bool, secrets: Sequence[Check]) -> Check | None:
    """Whether there is a token for models whose weights are not for everybody; None where there is no such model."""
    if not gated:
        return None
    what = "Hugging Face token"
    if has_variable:
        return Check(what, "ok", "in the variable HF_TOKEN; each session makes a Secret of it")
    if (there := next((one for one in secrets if one.state == "ok"), None)) is not None:
        return Check(what, "ok", f"in the {there.what}")
    todo = "Set HF_TOKEN, or name a Secret that has it: --hf-secret=NAME/KEY."
    return Check(what, "unsure", f"none, and the weights of {some(gated)} are gated", f"{todo} A filled cache does without.")


def image_check(image: str, nodes: Sequence[Mapping[str, Any]] | None) -> Check:
    """What can be told of an image without pulling it: whether nodes have it."""
    holders = [node["metadata"]["name"] for node in nodes or () if image in _images(node)]
    if holders:
        return Check("image", "ok", f"{image}, on {some(holders)} already")
    todo = "" if _is_pinned(image) else "Pin it by a tag or a digest: what is measured today is not what is pulled tomorrow."
    return Check("image", "unsure", f"{image}: whether it can be pulled is seen when it is used first", todo)


def _images(node: Mapping[str, Any]) -> set[str]:
    """As the node names them, and as Docker's users do."""
    names = {name for image in (node.get("status") or {}).get("images") or () for name in image.get("names") or ()}
    return names | {name.removeprefix("docker.io/").removeprefix("library/") for name in names}


def _is_pinned(image: str) -> bool:
    tag = image.rpartition("/")[2].partition(":")[2]
    return "@" in image or tag not in ("", "latest")


def queue_check(name: str, is_installed: bool, found: Mapping[str, Any] | None, known: Sequence[str]) -> Check:
    """Whether Kueue's local queue is there and takes workloads."""
    what = f"queue {name}"
    if not is_installed:
        return Check(what, "missing", "Kueue is not installed on the cluster", "Install it, or leave --queue out.")
    if found is None:
        todo = f"There are: {some(known)}." if known else "Make a LocalQueue in the namespace."
        return Check(what, "missing", "there is no such LocalQueue in the namespace", todo)
    active = next((one for one in (found.get("status") or {}).get("conditions") or () if one["type"] == "Active"), None)
    if active is not None and active["status"] != "True":
        return Check(what, "missing", f"it takes nothing: {active.get('message', '')}", "See its ClusterQueue.")
    return Check(what, "ok", f"of the ClusterQueue {(found.get('spec') or {}).get('clusterQueue', '')}")
