"""What a pod names and is not there: a Secret, a ConfigMap, a key of one, a claim, a folder of the node."""

from __future__ import annotations

import re

from pytest_llmperf.deploy.kubernetes.ready.findings import Diagnosis, Patience, Stage, Waiting

MISSING_GRACE_S = 5.0
"""How long it may still come, whatever names it: an operator makes it of another object, or who looks has not heard of it yet."""
# Not what the cluster itself puts into every namespace: that comes.
_OBJECT = re.compile(
    r'(?P<what>secret|configmap|persistentvolumeclaim) "(?P<name>(?!kube-root-ca\.crt|openshift-service-ca\.crt)[^"]+)" not found'
    r"|couldn't find key (?P<key>\S+) in (?P<kind>\w+) (?P<of>\S+)"
    r"|references non-existent (?:secret|config) key"
    r"|(?P<folder>hostPath type check failed)",
    re.IGNORECASE,
)


def is_missing(message: str) -> bool:
    """Whether a message says that something does not exist which a pod names."""
    return _OBJECT.search(message) is not None


def missing_finding(text: str, stage: Stage, found: Diagnosis) -> Waiting:
    """What is missing may come for a moment; then it is what was ``found``."""
    return Waiting(text, stage, (Patience("missing", MISSING_GRACE_S, found),))


def missing_hint(message: str, namespace: str) -> str:
    """What to do about what is missing; empty where the message speaks of something else."""
    if (match := _OBJECT.search(message)) is None:
        return ""
    if match["folder"]:
        return "Make the folder on the node, writable by the pod's user (chown 1000:1000), or name another --llmperf-model-cache."
    if match["key"]:
        name = match["of"].rpartition("/")[2]
        return f"Add the key {match['key']} to the {match['kind']} {name}, or correct the manifest's reference to it."
    if not match["what"]:
        return "Add the key to the object that the volume names, or mark the volume's source 'optional: true'."
    what, name = match["what"].lower(), match["name"]
    if what == "persistentvolumeclaim":
        return f"Create the claim in the namespace {namespace}, or name one that exists: --llmperf-model-cache=pvc:NAME."
    made = f"kubectl create {'secret generic' if what == 'secret' else what} {name} --namespace={namespace} --from-literal=…"
    return f"Create it (`{made}`), or mark the manifest's reference 'optional: true'."
