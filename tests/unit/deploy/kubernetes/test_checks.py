"""What the doctor makes of a cluster's answers, and that the permissions it asks about are those that manifests/rbac grants."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import yaml

from pytest_llmperf.cli import main
from pytest_llmperf.deploy.kubernetes.api.kinds import CONFIG_MAP, DEPLOYMENT, INGRESS, POD, PVC, SECRET, Kind
from pytest_llmperf.deploy.kubernetes.doctor.checks import (
    Check,
    Reference,
    accelerator_check,
    image_check,
    kind_check,
    namespace_check,
    permission_checks,
    queue_check,
    reference_check,
    references,
    storage_checks,
    token_check,
    user_check,
    version_check,
)
from pytest_llmperf.deploy.kubernetes.doctor.examination import pod_of_template
from pytest_llmperf.deploy.kubernetes.doctor.permissions import IN_CLUSTER, IN_NAMESPACE, Need, beyond, needs_of, rules
from pytest_llmperf.deploy.kubernetes.ready.pods import Pod
from pytest_llmperf.deploy.kubernetes.ready.seen import Node, Nodes
from pytest_llmperf.deploy.kubernetes.rendering.render import render
from pytest_llmperf.deploy.kubernetes.settings import RenderSettings
from pytest_llmperf.experiment.catalog import builtin_directory, load_catalog, manifests_directory
from pytest_llmperf.experiment.matrix import expand

CATALOG = load_catalog([builtin_directory()])
CELL = next(cell for cell in expand(CATALOG.matrix_named("full"), CATALOG) if cell.id == "k8s_h100_standalone_llama-3.1-8b")
GPU = "nvidia.com/gpu"


def granted(file: str) -> frozenset[tuple[str, str, str]]:
    """What the roles in a file of manifests/rbac allow."""
    roles = [one for one in yaml.safe_load_all((manifests_directory() / "rbac" / file).read_text()) if "rules" in one]
    assert len(roles) == 1
    return frozenset(
        (group, resource, verb)
        for rule in roles[0]["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    )


@pytest.mark.parametrize(
    ("file", "needs"),
    [("namespace.yaml", IN_NAMESPACE), ("cluster.yaml", IN_CLUSTER), ("own-namespaces.yaml", needs_of(None))],
)
def test_the_manifests_grant_what_is_asked_about_and_no_more(file: str, needs: tuple[Need, ...]) -> None:
    assert granted(file) == rules(needs)


@pytest.mark.parametrize(
    ("version", "state"),
    [("v1.36.3", "ok"), ("v1.27.0-gke.100", "ok"), ("v1.26.9", "missing"), ("v1.37.0", "unsure"), ("4.18", "unsure")],
)
def test_versions(version: str, state: str) -> None:
    check = version_check(version)
    assert (check.state, version in check.found) == (state, True)


def test_nobody_is_no_user() -> None:
    assert user_check("system:anonymous", "Log in again.").todo == "Log in again."
    assert user_check("jane", "Log in again.") == Check("user", "ok", "jane")


def test_namespaces() -> None:
    there: dict[str, Any] = {"metadata": {"name": "perf"}}
    going = {"metadata": {"name": "perf", "deletionTimestamp": "2026-01-01T00:00:00Z"}}
    assert namespace_check(None, None, ()).state == "ok"
    assert namespace_check("perf", there, ()).state == "ok"
    assert namespace_check("perf", going, ()).found == "perf is being deleted"
    assert "Did you mean 'perf'?" in namespace_check("pref", None, ["perf", "other"]).todo


def test_permissions() -> None:
    needs = (Need(POD, ("get", "list"), "watch pods"), Need(DEPLOYMENT, ("create",), "deploy the engine"))
    (fine,) = permission_checks(needs, [], is_optional=False, manifest="namespace.yaml")
    assert fine == Check("permissions", "ok", "all 3 that are used, on 2 kinds of objects")
    (lacking,) = permission_checks(needs, [(needs[1], "create")], is_optional=False, manifest="namespace.yaml")
    assert (lacking.state, lacking.found) == ("missing", "no create on deployments.apps")
    assert lacking.todo == "Needed to deploy the engine: manifests/rbac/namespace.yaml grants it."
    (wanted,) = permission_checks(needs, [(needs[0], "get"), (needs[0], "list")], is_optional=True, manifest="cluster.yaml")
    assert (wanted.state, wanted.found) == ("unsure", "no get, list on pods")


def test_kinds_of_a_users_own_manifests() -> None:
    need = Need(Kind("keda.sh/v1alpha1", "ScaledObject", "scaledobjects"), ("create", "patch"), "apply them")
    assert kind_check(need, []).state == "ok"
    assert kind_check(need, ["patch"]) == Check(
        "permissions, scaledobjects.keda.sh",
        "missing",
        "no patch on scaledobjects.keda.sh",
        "Have a Role bound that allows it, beside those of manifests/rbac.",
    )


def node(name: str = "n1", product: str = "NVIDIA-H100-80GB-HBM3", gpus: float = 8) -> Node:
    allocatable = {GPU: gpus, "cpu": 64.0, "memory": 2.0**40}
    return Node(name, {"nvidia.com/gpu.product": product}, allocatable)


def user(gpus: float, phase: str = "Running", on: str = "n1") -> Pod:
    return Pod(f"user-{gpus:g}-{phase}", "elsewhere", node=on, phase=phase, requests={GPU: gpus})


ENGINE = pod_of_template(render(CELL, RenderSettings(), {}))


@pytest.mark.parametrize(
    ("nodes", "state", "found"),
    [
        (None, "unsure", "nodes may not be read"),
        (Nodes((node(),), ()), "ok", f"1 with 8 {GPU}: n1; 8 free now"),
        (
            Nodes((node(), node("n2")), (user(3), user(8, "Succeeded"), user(2, on="n2"))),
            "ok",
            f"2 with 16 {GPU}: n1, n2; 11 free now",
        ),
        (Nodes((node(),), (user(8),)), "ok", f"1 with 8 {GPU}: n1; 0 free now: cells wait until others are done"),
        (Nodes((node(),), None), "ok", f"1 with 8 {GPU}: n1; how many are free is not known"),
        (
            Nodes((node(product="NVIDIA-L4"),), ()),
            "missing",
            "nvidia.com/gpu.product=NVIDIA-H100-80GB-HBM3",
        ),
        (Nodes((node(gpus=0),), ()), "missing", f"1 {GPU}"),
        (Nodes((), ()), "missing", "no nodes"),
    ],
)
def test_accelerators(nodes: Nodes | None, state: str, found: str) -> None:
    check = accelerator_check(CELL, ENGINE, nodes)
    assert (check.what, check.state) == ("nodes for k8s_h100", state)
    assert found in check.found
    assert bool(check.todo) == (state != "ok")


def storage_class(name: str, *, default: bool = False) -> dict[str, Any]:
    annotations = {"storageclass.kubernetes.io/is-default-class": "true"} if default else {}
    return {"metadata": {"name": name, "annotations": annotations}, "provisioner": "disks.example.com"}


def claim(storage: str | None) -> dict[str, Any]:
    spec = {} if storage is None else {"storageClassName": storage}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "models"}, "spec": spec}


@pytest.mark.parametrize(
    ("wanted", "classes", "state", "what"),
    [
        ("fast", [storage_class("fast")], "ok", "storage class fast"),
        ("fast", [storage_class("slow", default=True)], "missing", "storage class fast"),
        (None, [storage_class("slow", default=True)], "ok", "default storage class"),
        (None, [storage_class("slow")], "missing", "default storage class"),
        (None, None, "unsure", "default storage class"),
    ],
)
def test_storage(wanted: str | None, classes: list[dict[str, Any]] | None, state: str, what: str) -> None:
    (check,) = storage_checks([claim(wanted)], classes)
    assert (check.what, check.state) == (what, state)


def test_a_class_that_eks_does_not_make_is_told_with_how_to_make_it() -> None:
    (check,) = storage_checks([claim("gp3")], [storage_class("gp2")])
    assert check.todo.startswith("EKS makes no class of this name: create it (type gp3, by ebs.csi.aws.com")
    assert "There are: gp2." in check.todo


@pytest.mark.parametrize(
    ("kind", "verbs"),
    [
        (SECRET, ()),
        (INGRESS, ("create", "patch", "delete")),
        (POD, ("create", "patch")),
        (Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies"), ("create", "patch", "delete", "list")),
    ],
)
def test_what_applying_a_kind_takes_beyond_what_is_needed_anyway(kind: Kind, verbs: tuple[str, ...]) -> None:
    assert beyond(kind, needs_of("perf")) == verbs


def test_claims_of_a_stateful_set_and_none() -> None:
    stateful = {"kind": "StatefulSet", "metadata": {"name": "x"}, "spec": {"volumeClaimTemplates": [claim("fast")]}}
    (check,) = storage_checks([stateful], [storage_class("fast")])
    assert check.state == "ok"
    assert storage_checks([{"kind": "Service", "metadata": {"name": "x"}, "spec": {}}], []) == []


def workload(spec: dict[str, Any]) -> dict[str, Any]:
    containers = {"containers": [{"name": "main", **spec.pop("container", {})}], **spec}
    return {"kind": "Deployment", "metadata": {"name": "x"}, "spec": {"template": {"metadata": {}, "spec": containers}}}


def test_references_to_what_has_to_be_there_already() -> None:
    env = [
        {"name": "A", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}},
        {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "own", "key": "x"}}},
        {"name": "C", "value": "plain"},
    ]
    volumes = [
        {"name": "v", "persistentVolumeClaim": {"claimName": "weights"}},
        {"name": "w", "secret": {"secretName": "tls", "optional": True}},
        {"name": "x", "configMap": {"name": "files"}},
    ]
    spec = {
        "container": {
            "env": env,
            "envFrom": [{"secretRef": {"name": "more"}}, {"configMapRef": {"name": "rest", "optional": True}}],
        },
        "volumes": volumes,
        "imagePullSecrets": [{"name": "registry"}],
    }
    own = {"kind": "ConfigMap", "metadata": {"name": "own"}}
    assert set(references([workload(spec), own])) == {
        Reference(SECRET, "hub", "token"),
        Reference(SECRET, "more"),
        Reference(CONFIG_MAP, "rest", is_optional=True),
        Reference(SECRET, "registry", is_optional=True),
        Reference(PVC, "weights"),
        Reference(SECRET, "tls", is_optional=True),
        Reference(CONFIG_MAP, "files"),
    }


HUB = Reference(SECRET, "hub", "token")


@pytest.mark.parametrize(
    ("reference", "found", "namespace", "state", "told"),
    [
        (HUB, {"data": {"token": "eA=="}}, "perf", "ok", "there"),
        (HUB, {"data": {"other": "eA=="}}, "perf", "missing", "has no key 'token'"),
        (HUB, None, "perf", "missing", "not there"),
        (HUB, None, None, "missing", "the namespace made for a session has none"),
        (replace(HUB, is_optional=True), None, "perf", "unsure", "not there; it is optional"),
        (replace(HUB, is_optional=True), None, None, "unsure", "not there; it is optional"),
        (
            Reference(PVC, "w"),
            {"status": {"phase": "Bound"}, "spec": {"accessModes": ["ReadWriteMany"]}},
            "perf",
            "ok",
            "Bound, ReadWriteMany",
        ),
        (Reference(PVC, "w"), {"status": {"phase": "Pending"}, "spec": {}}, "perf", "unsure", "Pending, "),
        (Reference(PVC, "w"), {"status": {"phase": "Lost"}}, "perf", "missing", "its volume is lost"),
    ],
)
def test_what_is_referred_to(
    reference: Reference, found: dict[str, Any] | None, namespace: str | None, state: str, told: str
) -> None:
    check = reference_check(reference, found, namespace)
    assert (check.state, check.found) == (state, told)
    assert "eA==" not in repr(check)


def test_tokens() -> None:
    there, not_there = Check("secret hub", "ok", "there"), Check("secret hub", "missing", "not there")
    assert token_check([], has_variable=False, secrets=[]) is None
    found = [
        token_check(["llama"], has_variable=variable, secrets=secrets)
        for variable, secrets in ((True, []), (False, [there]), (False, [not_there]))
    ]
    assert [check.state for check in found if check is not None] == ["ok", "ok", "unsure"]


@pytest.mark.parametrize(
    ("image", "state", "todo"),
    [
        ("vllm/vllm-openai:v1", "ok", False),
        ("registry.example/engine:2", "unsure", False),
        ("registry.example:5000/engine", "unsure", True),
        ("engine:latest", "unsure", True),
        ("engine@sha256:0123", "unsure", False),
    ],
)
def test_images(image: str, state: str, todo: bool) -> None:
    nodes = [{"metadata": {"name": "n1"}, "status": {"images": [{"names": ["docker.io/vllm/vllm-openai:v1"]}]}}]
    check = image_check(image, nodes)
    assert (check.state, bool(check.todo)) == (state, todo)


def test_queues() -> None:
    active = {"type": "Active", "status": "True"}
    queue: dict[str, Any] = {"spec": {"clusterQueue": "gpus"}, "status": {"conditions": [active]}}
    stopped = {**queue, "status": {"conditions": [{**active, "status": "False", "message": "ClusterQueue gpus doesn't exist"}]}}
    assert queue_check("team", True, queue, []) == Check("queue team", "ok", "of the ClusterQueue gpus")
    assert "doesn't exist" in queue_check("team", True, stopped, []).found
    assert queue_check("team", True, None, ["teams"]).todo == "There are: teams."
    assert queue_check("team", False, None, []).found == "Kueue is not installed on the cluster"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["-k", "nothing"], "-k: 'nothing' is in the id of no cell"),
        (["--matrix", "ful"], "--matrix: unknown matrix 'ful'"),
        (["--namespace", "No!"], "--namespace: 'No!' is no namespace's name"),
        (["--model-cache", "nfs:x"], "--model-cache: "),
        (["--kubeconfig", "/nowhere"], "/nowhere: there is no such kubeconfig"),
        (["--nonsense"], "unrecognized arguments"),
    ],
)
def test_usage_errors(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = main(["doctor", *words])
    except SystemExit as ended:
        status = int(str(ended.code))
    assert status == 4
    assert told in capsys.readouterr().err
