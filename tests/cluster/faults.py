"""Small deployments of the tests: each with one fault, made so that the cluster itself brings it about."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

from pytest_llmperf.deploy.kubernetes.rendering.render import EngineRef, Rendered, ServiceRef
from tests.cluster.components import PAUSE_IMAGE
from tests.cluster.objects import pod
from tests.unit.deploy.kubernetes.cells import H100

Object = dict[str, Any]
CONTAINER = "vllm"
PORT = 8000
SERVING = f"mkdir /tmp/www; touch /tmp/www/health; exec httpd -f -p {PORT} -h /tmp/www"
HEALTH = {"httpGet": {"path": "/health", "port": PORT}, "periodSeconds": 1}
CUDA = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.6 GiB"

GATED = "\x1b[1m\x1b[31mError: Access denied. Model 'meta-llama/Llama-3.1-8B-Instruct' requires approval.\x1b[0m"
DEBUG = "\x1b[90mHint: set HF_DEBUG=1 as environment variable for full traceback.\x1b[0m"
"""What ``hf download`` writes, also where it is no terminal."""
REGISTRY = "127.0.0.1:5123"
"""A registry on the node itself, which need not speak TLS there."""
_INDEX = "application/vnd.oci.image.index.v1+json"


@dataclass(frozen=True)
class Fault:
    """One deployment. ``known_by`` is the event (its reason, and a part of its message) from which on the cluster knows."""

    name: str
    container: Object = field(default_factory=dict)
    spec: Object = field(default_factory=dict)
    others: tuple[Object, ...] = ()
    known_by: tuple[str, str] = ("", "")
    known_exit: bool = False
    """Whether it is known from the end of the container's last run on."""
    grace_s: float = 0.0
    """How long after that it may last."""
    settings: Mapping[str, float] = field(default_factory=dict)
    kind: str = "Deployment"

    @property
    def rendered(self) -> Rendered:
        """As a renderer would give it."""
        return rendered(self.name, self.container, self.spec, self.others, self.kind)


def rendered(
    name: str, container: Object, spec: Object | None = None, others: Sequence[Object] = (), kind: str = "Deployment"
) -> Rendered:
    """One workload of one pod; a ``container`` replaces what the shipped one says, a ``spec`` adds to the pod's."""
    engine = {
        "name": CONTAINER,
        "image": PAUSE_IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": shell(SERVING),
        "readinessProbe": HEALTH,
        **container,
    }
    labels = {"app": name}
    template = {
        "metadata": {"labels": labels},
        "spec": {"containers": [engine], "terminationGracePeriodSeconds": 0, "enableServiceLinks": False, **(spec or {})},
    }
    workload: Object = {
        "apiVersion": "batch/v1" if kind == "Job" else "apps/v1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": {"template": template},
    }
    if kind == "Job":
        template["spec"]["restartPolicy"] = "Never"
        workload["spec"]["backoffLimit"] = 0
    else:
        workload["spec"] |= {"replicas": 1, "selector": {"matchLabels": labels}}
    if kind == "StatefulSet":
        workload["spec"]["serviceName"] = name
    return Rendered(
        cell=replace(H100),
        objects=(*others, workload),
        engine=EngineRef(kind, name, CONTAINER, engine["image"], ()),
        service=ServiceRef(name, PORT),
        resource="nvidia.com/gpu",
        gpus=1,
    )


def shell(script: str) -> list[str]:
    """The command that runs a script."""
    return ["sh", "-c", script]


def asking(**limits: str) -> Object:
    """A container's resources; ``nvidia.com/gpu`` is ``gpu``."""
    return {"resources": {"limits": {"nvidia.com/gpu" if name == "gpu" else name: value for name, value in limits.items()}}}


def claim(name: str, storage_class: str) -> Object:
    """A claim of a storage class."""
    spec = {"storageClassName": storage_class, "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}


def volume(**source: Object) -> Object:
    """A pod's volume ``models``."""
    return {"volumes": [{"name": "models", **source}]}


def registry() -> Object:
    """A pod with a registry: it has an image for another processor, one that nobody may read, and no more."""
    manifest = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": f"sha256:{'0' * 64}", "size": 2}
    platform = {"architecture": "s390x", "os": "linux"}
    index = json.dumps({"schemaVersion": 2, "mediaType": _INDEX, "manifests": [{**manifest, "platform": platform}]})
    script = (
        "mkdir -p /tmp/www/v2/other/manifests; cd /tmp/www/v2/other/manifests; "
        f"echo -n '{index}' > index.json; cat index.json > sha256:{sha256(index.encode()).hexdigest()}; "
        f"echo '.json:{_INDEX}' > /tmp/httpd.conf; echo '/v2/hidden:user:password' >> /tmp/httpd.conf; "
        f"exec httpd -f -p {REGISTRY} -c /tmp/httpd.conf -h /tmp/www"
    )
    return dict(pod("registry", shell(script), hostNetwork=True, terminationGracePeriodSeconds=0))


_ADMISSION = "admissionregistration.k8s.io/v1"
_NEW_PODS = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}


def policy(name: str, namespace: str) -> Sequence[Object]:
    """A rule of the cluster's that denies the pods of a namespace, and its binding."""
    rule = {"expression": "has(object.metadata.labels.team)", "message": "pods need a label 'team'"}
    here = {"namespaceSelector": _only(namespace)}
    return (
        {
            "apiVersion": _ADMISSION,
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": name},
            "spec": {"matchConstraints": {"resourceRules": [_NEW_PODS]}, "validations": [rule]},
        },
        {
            "apiVersion": _ADMISSION,
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": name},
            "spec": {"policyName": name, "validationActions": ["Deny"], "matchResources": here},
        },
    )


def webhook(name: str, namespace: str) -> Sequence[Object]:
    """A webhook that is asked of the pods of a namespace, and does not answer."""
    asked = {
        "name": "gate.llmperf.example",
        "clientConfig": {"url": "https://127.0.0.1:1/"},
        "rules": [_NEW_PODS],
        "namespaceSelector": _only(namespace),
        "failurePolicy": "Fail",
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
    }
    kind = "ValidatingWebhookConfiguration"
    return ({"apiVersion": _ADMISSION, "kind": kind, "metadata": {"name": name}, "webhooks": [asked]},)


def _only(namespace: str) -> Object:
    return {"matchLabels": {"kubernetes.io/metadata.name": namespace}}


_FROM_SECRET = [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hf-token", "key": "token"}}}]
_MOUNT = {"volumeMounts": [{"name": "models", "mountPath": "/models"}]}
_NEVER = {"exec": {"command": ["sh", "-c", "echo still loading; exit 1"]}, "periodSeconds": 1, "failureThreshold": 2}

FAULTS = (
    Fault("image-unreachable", {"image": "registry.example/nothing:1"}, known_by=("BackOff", "Back-off pulling image")),
    Fault("image-absent", {"image": f"{REGISTRY}/absent:1"}, known_by=("BackOff", "Back-off pulling image")),
    Fault("image-denied", {"image": f"{REGISTRY}/hidden:1"}, known_by=("BackOff", "Back-off pulling image")),
    Fault("image-platform", {"image": f"{REGISTRY}/other:index.json"}, known_by=("BackOff", "Back-off pulling image")),
    Fault(
        "image-never", {"image": "localhost/nothing:1", "imagePullPolicy": "Never"}, known_by=("ErrImageNeverPull", "not present")
    ),
    Fault("image-name", {"image": "Not/An:Image:Name"}, known_by=("InspectFailed", "Failed to apply default image tag")),
    Fault("secret-missing", {"env": _FROM_SECRET}, known_by=("Failed", "hf-token")),
    Fault("runs-as-root", {"securityContext": {"runAsNonRoot": True}}, known_by=("Failed", "runAsNonRoot")),
    Fault("command-missing", {"command": ["vllm", "serve"]}, known_exit=True),
    Fault("crash", {"command": shell("echo 'loading'; echo 'ValueError: no such model'; exit 3")}, known_exit=True),
    Fault("first-crash-known", {"command": shell(f"echo '{CUDA}'; sleep 1; exit 1")}, known_exit=True),
    Fault("out-of-memory", {"command": shell("tail /dev/zero"), **asking(memory="24Mi")}, known_exit=True),
    Fault(
        "download-fails",
        spec={
            "initContainers": [
                {"name": "download", "image": PAUSE_IMAGE, "command": shell(f'echo "{GATED}"; echo "{DEBUG}"; exit 1')}
            ]
        },
        known_exit=True,
    ),
    Fault("job-fails", {"command": shell("echo broken; exit 2")}, kind="Job", known_exit=True),
    Fault("startup-probe", {"startupProbe": _NEVER}, known_by=("Killing", "failed startup probe")),
    Fault(
        "liveness-probe",
        {"livenessProbe": _NEVER, "readinessProbe": {"exec": {"command": ["false"]}, "periodSeconds": 1}},
        known_by=("Killing", "failed liveness probe"),
    ),
    Fault(
        "storage-class",
        _MOUNT,
        volume(persistentVolumeClaim={"claimName": "no-class"}),
        (claim("no-class", "fastest"),),
        known_by=("ProvisioningFailed", "not found"),
    ),
    Fault(
        "claim-missing",
        _MOUNT,
        volume(persistentVolumeClaim={"claimName": "weights"}),
        known_by=("FailedScheduling", "not found"),
    ),
    Fault(
        "config-missing",
        _MOUNT,
        volume(configMap={"name": "settings"}),
        known_by=("FailedMount", "not found"),
    ),
    Fault(
        "label",
        asking(gpu="1"),
        {"nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-L40S"}},
        known_by=("FailedScheduling", "node(s) didn't match"),
        grace_s=1.0,
        settings={"unschedulable_grace_s": 1.0},
    ),
    Fault(
        "too-many-gpus",
        asking(gpu="16"),
        known_by=("FailedScheduling", "Insufficient nvidia.com/gpu"),
        grace_s=1.0,
        settings={"unschedulable_grace_s": 1.0},
    ),
)
"""Those that a namespace like any other has."""
NEVER_READY = Fault("never-ready", {"readinessProbe": {"httpGet": {"path": "/not-there", "port": PORT}, "periodSeconds": 1}})
QUOTA = Fault("quota", asking(gpu="1"), known_by=("FailedCreate", "exceeded quota"))
POLICY = Fault("policy", known_by=("FailedCreate", "ValidatingAdmissionPolicy"))
WEBHOOK = Fault("webhook", known_by=("FailedCreate", "failed calling webhook"))
POD_SECURITY = Fault("pod-security", known_by=("FailedCreate", "violates PodSecurity"))
STATEFUL_SET_QUOTA = Fault("stateful-set-quota", asking(gpu="1"), known_by=("FailedCreate", "exceeded quota"), kind="StatefulSet")

_VARYING = (
    (r"\btest-[0-9a-f]{8}\b", "NAMESPACE"),
    (r"-[b-df-hj-np-tv-xz2-9]{8,10}(-[b-df-hj-np-tv-xz2-9]{5})?\b", "-HASH"),
    (r"\b(job-fails)-[a-z0-9]{5}\b", r"\1-HASH"),
    (r"(objects: )\S+/gke_\S+\)", r"\1FOLDER)"),
    (r"(\[::1\]|127\.0\.0\.1|\d+\.\d+\.\d+\.\d+)(:\d+)?", "ADDRESS"),
    (r"startup probe: \d+/", "startup probe: N/"),
    (r" \(x\d+\)", ""),
)


def normalised(text: str) -> str:
    """An error's text with whatever is different each time named instead: pods, namespaces, folders, addresses, counts."""
    for pattern, name in _VARYING:
        text = re.sub(pattern, name, text)
    return text + "\n"
