"""The manifests: Kubernetes objects that belong together and would start where the catalog says."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from pytest_llmperf.experiment.catalog import builtin_directory, load_catalog, manifests_directory

FILES = sorted((manifests_directory() / "standalone").glob("*.yaml"))
OBJECTS: list[dict[str, Any]] = [document for file in FILES for document in yaml.safe_load_all(file.read_text())]


def only(kind: str) -> dict[str, Any]:
    (found,) = [document for document in OBJECTS if document["kind"] == kind]
    return found


def container() -> dict[str, Any]:
    (found,) = only("Deployment")["spec"]["template"]["spec"]["containers"]
    return dict(found)


def test_kinds() -> None:
    assert sorted(document["kind"] for document in OBJECTS) == ["Deployment", "PersistentVolumeClaim", "Service"]


@pytest.mark.parametrize("document", OBJECTS, ids=lambda d: d["kind"])
def test_every_object_is_labelled_and_has_no_namespace(document: dict[str, Any]) -> None:
    metadata = document["metadata"]
    assert "namespace" not in metadata
    assert metadata["labels"]["app.kubernetes.io/part-of"] == "llmperf"
    assert metadata["labels"]["app.kubernetes.io/instance"] == "llama-3-1-8b"


def test_selectors_find_the_pod() -> None:
    spec = only("Deployment")["spec"]
    labels = spec["template"]["metadata"]["labels"].items()
    assert spec["selector"]["matchLabels"].items() <= labels
    assert only("Service")["spec"]["selector"].items() <= labels


def test_ports_meet() -> None:
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    assert only("Service")["spec"]["ports"][0]["targetPort"] in ports
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container()[probe]["httpGet"] == {"path": "/health", "port": "http"}
    assert f"--port={ports['http']}" in container()["args"]


def test_a_slow_first_start_is_waited_for() -> None:
    startup = container()["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 3600


def test_mounts_have_volumes() -> None:
    pod = only("Deployment")["spec"]["template"]["spec"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert {mount["name"] for mount in container()["volumeMounts"]} == set(volumes)
    assert volumes["models"]["persistentVolumeClaim"]["claimName"] == only("PersistentVolumeClaim")["metadata"]["name"]
    assert volumes["shm"]["emptyDir"]["medium"] == "Memory"


def test_asks_for_one_gpu_and_serves_the_catalogs_model() -> None:
    catalog = load_catalog([builtin_directory()])
    model = catalog.model_named("llama-3.1-8b")
    resources = container()["resources"]
    assert resources["requests"]["nvidia.com/gpu"] == resources["limits"]["nvidia.com/gpu"] == 1
    assert "--tensor-parallel-size=1" in container()["args"]
    assert container()["args"][0] == model.repository
    assert f"--served-model-name={model.name}" in container()["args"]


def test_runs_without_rights() -> None:
    pod = only("Deployment")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert container()["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
