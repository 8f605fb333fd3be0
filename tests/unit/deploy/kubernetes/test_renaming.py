"""New names: nothing of the set is named as before, nothing outside of it is renamed, and two never share one."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmperf.deploy.kubernetes.api.kinds import Manifest
from pytest_llmperf.deploy.kubernetes.names import name_of
from pytest_llmperf.deploy.kubernetes.rendering.manifests import copied
from pytest_llmperf.deploy.kubernetes.rendering.renaming import new_names, rename

CELL = "gke_h100_standalone_llama-3.1-8b"


def named(kind: str, name: str, **rest: Any) -> Manifest:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, **rest}


def renamed(*objects: Manifest, instance: str = "vllm", suffix: str = "s1") -> list[Manifest]:
    copies = [copied(one) for one in objects]
    rename(copies, new_names(copies, instance, (CELL,), suffix))
    return copies


def name(manifest: Manifest) -> str:
    return str(manifest["metadata"]["name"])


ROLE_RULE = {"resources": ["configmaps/status", "secrets"], "resourceNames": ["vllm-settings", "theirs"]}


def test_references_follow_and_others_stay() -> None:
    container = {
        "name": "vllm",
        "env": [
            {"name": "A", "valueFrom": {"secretKeyRef": {"name": "vllm", "key": "a"}}},
            {"name": "B", "valueFrom": {"secretKeyRef": {"name": "theirs", "key": "a"}}},
            {"name": "C", "valueFrom": {"configMapKeyRef": {"name": "vllm-settings", "key": "a"}}},
            {"name": "D", "value": "http://vllm:8000/v1 and http://vllm-other:1 and https://vllm.default.svc"},
        ],
        "envFrom": [{"configMapRef": {"name": "vllm-settings"}}, {"secretRef": {"name": "vllm"}}],
    }
    volumes = [
        {"name": "a", "persistentVolumeClaim": {"claimName": "vllm-models"}},
        {"name": "b", "configMap": {"name": "vllm-settings"}},
        {"name": "c", "secret": {"secretName": "vllm"}},
        {"name": "d", "projected": {"sources": [{"secret": {"name": "vllm"}}, {"configMap": {"name": "theirs"}}]}},
        {"name": "e", "persistentVolumeClaim": {"claimName": "theirs"}},
    ]
    spec = {
        "containers": [container],
        "volumes": volumes,
        "serviceAccountName": "vllm-user",
        "imagePullSecrets": [{"name": "vllm"}, {"name": "theirs"}],
    }
    rule = {"backend": {"service": {"name": "vllm", "port": {"number": 8000}}}}
    objects = renamed(
        named("Secret", "vllm"),
        named("ConfigMap", "vllm-settings"),
        named("PersistentVolumeClaim", "vllm-models"),
        named("ServiceAccount", "vllm-user", imagePullSecrets=[{"name": "vllm"}]),
        named("Service", "vllm"),
        named("StatefulSet", "vllm", spec={"serviceName": "vllm", "template": {"spec": spec}}),
        named("HorizontalPodAutoscaler", "vllm", spec={"scaleTargetRef": {"kind": "StatefulSet", "name": "vllm"}}),
        named("Ingress", "vllm", spec={"rules": [{"http": {"paths": [rule]}}], "tls": [{"secretName": "vllm"}]}),
        named("Role", "vllm", rules=[ROLE_RULE, {"resources": ["pods"], "resourceNames": ["vllm"]}]),
        named("InferencePool", "vllm", spec={"endpointPickerRef": {"name": "vllm"}}),
        named("ServiceMonitor", "vllm", spec={"endpoints": [{"bearerTokenSecret": {"name": "vllm", "key": "a"}}]}),
        named("Scaler", "vllm", spec={"object": {"describedObject": {"kind": "Service", "name": "vllm"}}}),
        named("HTTPRoute", "vllm", spec={"parentRefs": [{"name": "theirs"}], "rules": [{"backendRefs": [{"name": "vllm"}]}]}),
        named(
            "RoleBinding",
            "vllm",
            roleRef={"kind": "ClusterRole", "name": "view"},
            subjects=[{"kind": "ServiceAccount", "name": "vllm-user"}],
        ),
    )
    secret, settings, claim, account, service, workload, scaler, ingress, role, pool, monitor, other, route, binding = objects
    pod = workload["spec"]["template"]["spec"]
    (engine,) = pod["containers"]
    assert [one["valueFrom"] for one in engine["env"][:3]] == [
        {"secretKeyRef": {"name": name(secret), "key": "a"}},
        {"secretKeyRef": {"name": "theirs", "key": "a"}},
        {"configMapKeyRef": {"name": name(settings), "key": "a"}},
    ]
    assert engine["env"][3]["value"] == (
        f"http://{name(service)}:8000/v1 and http://vllm-other:1 and https://{name(service)}.default.svc"
    )
    assert engine["envFrom"] == [{"configMapRef": {"name": name(settings)}}, {"secretRef": {"name": name(secret)}}]
    assert [one.get("persistentVolumeClaim", one) for one in pod["volumes"]] == [
        {"claimName": name(claim)},
        {"name": "b", "configMap": {"name": name(settings)}},
        {"name": "c", "secret": {"secretName": name(secret)}},
        {"name": "d", "projected": {"sources": [{"secret": {"name": name(secret)}}, {"configMap": {"name": "theirs"}}]}},
        {"claimName": "theirs"},
    ]
    assert pod["serviceAccountName"] == name(account)
    assert pod["imagePullSecrets"] == [{"name": name(secret)}, {"name": "theirs"}]
    assert account["imagePullSecrets"] == [{"name": name(secret)}]
    assert workload["spec"]["serviceName"] == name(service)
    assert scaler["spec"]["scaleTargetRef"]["name"] == name(workload)
    assert ingress["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]["name"] == name(service)
    assert ingress["spec"]["tls"] == [{"secretName": name(secret)}]
    assert route["spec"] == {"parentRefs": [{"name": "theirs"}], "rules": [{"backendRefs": [{"name": name(service)}]}]}
    assert [rule["resourceNames"] for rule in role["rules"]] == [[name(settings), "theirs"], ["vllm"]]
    assert pool["spec"]["endpointPickerRef"]["name"] == name(service)
    assert monitor["spec"]["endpoints"][0]["bearerTokenSecret"]["name"] == name(secret)
    assert other["spec"]["object"]["describedObject"]["name"] == name(service)
    assert binding["roleRef"]["name"] == "view"
    assert binding["subjects"][0]["name"] == name(account)
    assert engine["name"] == "vllm"


def test_the_engines_own_name_is_the_cells_and_others_say_what_they_are() -> None:
    workload, claim, other = renamed(
        named("Deployment", "vllm"), named("PersistentVolumeClaim", "vllm-models"), named("Service", "router"), suffix=""
    )
    assert name(workload).startswith("gke-h100-standalone-llama-3-1-8b-")
    assert "-models-" in name(claim)
    assert "-router-" in name(other)


LONG = "ocp_h100-mig-3g.40gb_standalone_llama-3.1-8b_no-prefix-cache"


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (("vllm", "models"), "vllm-models"),
        ((CELL, "models"), r"gke-h100-standalone-llama-3-1-8b-models-\w{8}"),
        ((LONG, "models"), r"ocp-h100-mig-3g-40gb-standalone-llam-models-\w{8}"),
        ((CELL, "models", "k3x9q0ab", "gw1"), r"gke-h100-standalone-lla-models-k3x9q0ab-gw1-\w{8}"),
        ((CELL, "k3x9q0ab", ""), r"gke-h100-standalone-llama-3-1-8b-k3x9q0ab-\w{8}"),
        ((CELL, "x" * 30), rf"gke-h100-sta-{'x' * 30}-\w{{8}}"),
        ((CELL, "x" * 40), r"gke-h100-standalone-llama-3-1-8b-x{10}-\w{8}"),
        ((LONG,), r"ocp-h100-mig-3g-40gb-standalone-llama-3-1-8-\w{8}"),
    ],
)
def test_a_name_that_is_too_long_still_says_which_of_a_cells_objects_it_is(parts: tuple[str, ...], expected: str) -> None:
    assert re.fullmatch(expected, name_of(*parts)), name_of(*parts)
    assert len(name_of(*parts)) <= 52


def test_two_objects_of_which_one_would_take_the_others_name() -> None:
    first, second = renamed(named("Service", "vllm-router"), named("Service", "router"))
    assert name(first) != name(second)


def test_the_instance_label_follows() -> None:
    labels = {"app.kubernetes.io/name": "vllm", "app.kubernetes.io/instance": "vllm"}
    (workload,) = renamed(named("Deployment", "vllm", spec={"selector": {"matchLabels": labels}}))
    assert workload["spec"]["selector"]["matchLabels"] == {**labels, "app.kubernetes.io/instance": name(workload)}


NAMES = st.lists(st.from_regex(r"[a-z][a-z0-9-]{0,12}[a-z0-9]", fullmatch=True), min_size=1, max_size=6, unique=True)
SUFFIXES = st.from_regex(r"[0-9a-z]{8}(-gw[0-9])?", fullmatch=True)


@given(NAMES, st.lists(SUFFIXES, min_size=2, max_size=2, unique=True))
def test_nothing_shares_a_name_with_another_or_with_another_sessions(names: list[str], suffixes: list[str]) -> None:
    objects = [named("ConfigMap", one) for one in names]
    both = [name(one) for suffix in suffixes for one in renamed(*objects, instance=names[0], suffix=suffix)]
    assert len(set(both)) == 2 * len(names)
    assert max(map(len, both)) <= 52
