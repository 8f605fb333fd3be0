"""Whole cells as rendered, for a reviewer to read (golden/*.yaml), and what holds for every cell of the catalog."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from pprint import pformat
from typing import Any

import pytest

from pytest_llmperf.deploy.kubernetes.api.kinds import Manifest
from pytest_llmperf.deploy.kubernetes.names import CELL, MANAGED_BY, OWNER, SESSION, Identity
from pytest_llmperf.deploy.kubernetes.rendering.manifests import dump
from pytest_llmperf.deploy.kubernetes.rendering.render import documented, placed
from pytest_llmperf.deploy.kubernetes.rendering.structure import mappings
from pytest_llmperf.deploy.kubernetes.settings import KubernetesSettings, RenderSettings
from pytest_llmperf.errors import ConfigError
from pytest_llmperf.experiment.catalog import manifests_directory
from pytest_llmperf.experiment.fit import fits
from pytest_llmperf.experiment.matrix import expand
from pytest_llmperf.experiment.records import Cell
from pytest_llmperf.secrets import hiding
from tests.unit.deploy.kubernetes.cells import CATALOG, H100, cell, one_of, rendered, written

GOLDEN = Path(__file__).parent / "golden"
CELLS = [one for one in expand(CATALOG.matrix_named("full"), CATALOG) if fits(one).ok]
ALICE = Identity("k3x9q0ab", "gw1")
LEASE = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "name": ALICE.owner, "uid": "1-2-3"}


@pytest.mark.parametrize(
    "cell_id",
    [
        "gke_h100_standalone_llama-3.1-8b",
        "gke_h100x4_standalone_llama-3.3-70b",
        "ocp_h100-mig-3g.40gb_standalone_llama-3.1-8b",
        "ocp_h100_standalone_llama-3.1-8b",
        "eks_l40s_standalone_llama-3.1-8b",
        "eks-auto_l40s_standalone_llama-3.1-8b",
    ],
)
def test_a_cell_reads_as_it_was_reviewed(cell_id: str) -> None:
    """After a change that is meant: ``pytest-llmperf render --matrix full -k CELL DIR`` shows what it has become."""
    assert dump(rendered(cell(cell_id)).objects) == (GOLDEN / f"{cell_id}.yaml").read_text()


def defined(objects: tuple[Manifest, ...]) -> set[tuple[str, str]]:
    return {(one["kind"], one["metadata"]["name"]) for one in objects}


def referred(objects: tuple[Manifest, ...]) -> Iterator[tuple[str, str]]:
    """What must exist for the pods to start."""
    for inner in (each for one in objects for each in mappings(one)):
        if "claimName" in inner:
            yield "PersistentVolumeClaim", inner["claimName"]
        if "secretKeyRef" in inner and not inner["secretKeyRef"].get("optional"):
            yield "Secret", inner["secretKeyRef"]["name"]


@pytest.mark.parametrize("of", CELLS, ids=lambda of: of.id)
def test_every_cell_is_whole(of: Cell) -> None:
    found = rendered(of, environ={"HF_TOKEN": "hf_abcdef"}, suffix="k3x9q0ab-gw1")
    assert set(referred(found.objects)) <= defined(found.objects)
    assert [one["kind"] for one in found.objects] == ["Secret", "PersistentVolumeClaim", "Service", "Deployment"]
    assert (found.resource, found.gpus) == (of.hardware.resource, of.hardware.count)
    service = one_of(found.objects, "Service")
    workload = one_of(found.objects, "Deployment")
    assert (found.service.name, found.service.port) == (service["metadata"]["name"], 8000)
    assert (found.engine.kind, found.engine.name, found.engine.container) == ("Deployment", workload["metadata"]["name"], "vllm")
    assert found.engine.arguments[0] == of.model.repository
    assert service["spec"]["selector"].items() <= workload["spec"]["template"]["metadata"]["labels"].items()
    assert not re.search("llama-3-1-8b-models|hf_abcdef", "".join(documented(found.objects))) or of.model.name == "llama-3.1-8b"


def test_no_two_cells_and_no_two_sessions_share_an_object() -> None:
    everything = [each for of in CELLS for suffix in ("", "s1", "s2") for each in defined(rendered(of, suffix=suffix).objects)]
    assert len(set(everything)) == len(everything) == 9 * len(CELLS)


def test_nothing_is_shared_between_two_renderings() -> None:
    first = rendered()
    first.objects[0]["metadata"]["labels"]["changed"] = "yes"
    assert "changed" not in rendered().objects[0]["metadata"]["labels"]


def test_objects_are_placed_as_the_sessions_own() -> None:
    before = dump(rendered().objects)
    found = rendered()
    objects = placed(found, ALICE, "perf", LEASE)
    labels = {MANAGED_BY: "pytest-llmperf", SESSION: "k3x9q0ab", OWNER: "llmperf-k3x9q0ab-gw1", CELL: H100.id}
    for one in objects:
        assert one["metadata"]["namespace"] == "perf"
        assert one["metadata"]["ownerReferences"] == [LEASE]
        assert labels.items() <= one["metadata"]["labels"].items()
    workload, service = one_of(objects, "Deployment"), one_of(objects, "Service")
    assert labels.items() <= workload["spec"]["template"]["metadata"]["labels"].items()
    for selector in (workload["spec"]["selector"]["matchLabels"], service["spec"]["selector"]):
        assert selector[CELL] == H100.id
        assert selector[OWNER] == ALICE.owner
        assert selector.items() <= workload["spec"]["template"]["metadata"]["labels"].items()
    assert "ownerReferences" not in workload["spec"]["template"]["metadata"]
    assert dump(found.objects) == before
    assert all("ownerReferences" not in one["metadata"] for one in placed(found, ALICE, "perf", None))


OWN = """\
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: own}
spec:
  serviceName: own
  selector: {matchLabels: {app: own}}
  template:
    metadata: {labels: {app: own}}
    spec:
      affinity:
        podAntiAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
            - {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: own}}}
      containers:
        - name: vllm
          args: [some/model]
          volumeMounts: [{name: cache, mountPath: /root/.cache/huggingface}]
  volumeClaimTemplates:
    - {metadata: {name: cache}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}
"""
SERVICE = "apiVersion: v1\nkind: Service\nmetadata: {name: own}\nspec: {selector: {app: own}, ports: [{port: 8000}]}\n"


def test_claims_of_a_stateful_set_go_with_it(tmp_path: Path) -> None:
    found = rendered(H100, written(tmp_path, engine=OWN, service=SERVICE))
    workload = one_of(placed(found, ALICE, "perf", LEASE), "StatefulSet")
    (claim,) = workload["spec"]["volumeClaimTemplates"]
    assert claim["metadata"]["labels"][OWNER] == ALICE.owner
    assert claim["spec"]["storageClassName"] == "premium-rwo"
    assert claim["spec"]["resources"]["requests"]["storage"] == "40Gi"
    assert workload["spec"]["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] == "Delete"
    assert workload["spec"]["serviceName"] == workload["metadata"]["name"]


def test_what_keeps_pods_apart_knows_the_cells_own_pods(tmp_path: Path) -> None:
    found = rendered(H100, written(tmp_path, engine=OWN, service=SERVICE))
    spec = one_of(placed(found, ALICE, "perf", LEASE), "StatefulSet")["spec"]["template"]["spec"]
    (rule,) = spec["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert rule["labelSelector"]["matchLabels"] == {"app": "own", CELL: H100.id, OWNER: ALICE.owner}


AFFINITIES = """\
        podAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
            - {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: their-cache}}}
"""


def test_pods_that_are_not_of_the_set_are_found_as_they_are_called(tmp_path: Path) -> None:
    engine = OWN.replace("        podAntiAffinity:\n", f"{AFFINITIES}        podAntiAffinity:\n")
    found = rendered(H100, written(tmp_path, engine=engine, service=SERVICE))
    spec = one_of(placed(found, ALICE, "perf", None), "StatefulSet")["spec"]["template"]["spec"]
    (rule,) = spec["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert rule["labelSelector"]["matchLabels"] == {"app": "their-cache"}


EXPRESSION = {"key": "app", "operator": "In", "values": ["own"]}


@pytest.mark.parametrize(
    ("kind", "spec", "selector"),
    [
        ("NetworkPolicy", "{podSelector: {}}", "podSelector"),
        ("NetworkPolicy", "{policyTypes: [Ingress]}", "podSelector"),
        ("PodDisruptionBudget", "{selector: {}}", "selector"),
        ("PodDisruptionBudget", "{selector: {matchExpressions: [{key: app, operator: In, values: [own]}]}}", "selector"),
        ("InferencePool", "{selector: {matchLabels: {app: own}}}", "selector"),
    ],
)
def test_what_would_choose_other_peoples_pods_too_is_narrowed(tmp_path: Path, kind: str, spec: str, selector: str) -> None:
    other = f"apiVersion: some/v1\nkind: {kind}\nmetadata: {{name: other}}\nspec: {spec}\n"
    found = rendered(H100, written(tmp_path, engine=OWN, service=SERVICE, other=other))
    chosen = one_of(placed(found, ALICE, "perf", None), kind)["spec"][selector]
    assert chosen["matchLabels"].items() >= {CELL: H100.id, OWNER: ALICE.owner}.items()
    assert chosen.get("matchExpressions", [EXPRESSION]) == [EXPRESSION]


def test_an_early_inference_pool_has_plain_labels(tmp_path: Path) -> None:
    pool = "apiVersion: some/v1alpha2\nkind: InferencePool\nmetadata: {name: other}\nspec: {selector: {app: own}}\n"
    found = rendered(H100, written(tmp_path, engine=OWN, service=SERVICE, other=pool))
    assert one_of(found.objects, "InferencePool")["spec"]["selector"] == {"app": "own", CELL: H100.id}


def test_another_cache_takes_the_place_of_a_stateful_sets_claims(tmp_path: Path) -> None:
    settings = replace(written(tmp_path, engine=OWN, service=SERVICE), model_cache="pvc:weights")
    spec = one_of(rendered(H100, settings).objects, "StatefulSet")["spec"]
    assert spec["volumeClaimTemplates"] == []
    assert spec["template"]["spec"]["volumes"] == [{"name": "cache", "persistentVolumeClaim": {"claimName": "weights"}}]


SHELL = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: mistral}
spec:
  selector: {matchLabels: {app: mistral}}
  template:
    metadata: {labels: {app: mistral}}
    spec:
      containers:
        - name: mistral
          command: ["/bin/sh", "-c"]
          args: ["vllm serve some/model --trust-remote-code --max_model_len 4096"]
          resources: {limits: {nvidia.com/gpu: "1"}}
---
apiVersion: v1
kind: Service
metadata: {name: mistral}
spec: {selector: {app: mistral}, ports: [{port: 80, targetPort: 8000}]}
"""


def test_a_manifest_whose_engine_a_shell_calls(tmp_path: Path) -> None:
    found = rendered(cell("k8s_h100x2_standalone_llama-3.1-8b"), written(tmp_path, all=SHELL))
    (engine,) = one_of(found.objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert [*engine["command"], *engine["args"]] == ["vllm", "serve", *found.engine.arguments]
    assert found.engine.arguments[0] == "meta-llama/Llama-3.1-8B-Instruct"
    assert found.engine.arguments[4:] == ("--trust-remote-code", "--max_model_len", "4096", "--tensor-parallel-size=2")
    assert found.service.port == 80


def test_an_object_of_another_namespace_is_refused(tmp_path: Path) -> None:
    elsewhere = SERVICE.replace("{name: own}", "{name: own, namespace: elsewhere}")
    found = rendered(H100, written(tmp_path, engine=OWN, service=elsewhere))
    assert placed(found, ALICE, "elsewhere", None)
    with pytest.raises(ConfigError, match=r"for the namespace 'elsewhere'; what is deployed goes to 'perf'"):
        placed(found, ALICE, "perf", None)


def test_an_accounts_namespace_is_said_where_the_api_wants_it(tmp_path: Path) -> None:
    account = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: own}\n"
    binding = (
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: own}\n"
        "roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}\n"
        "subjects: [{kind: ServiceAccount, name: own}]\n"
    )
    found = rendered(H100, written(tmp_path, engine=OWN, service=SERVICE, account=account, binding=binding))
    objects = placed(found, ALICE, "perf", None)
    (subject,) = one_of(objects, "RoleBinding")["subjects"]
    expected: Any = {"kind": "ServiceAccount", "name": one_of(objects, "ServiceAccount")["metadata"]["name"], "namespace": "perf"}
    assert subject == expected
    assert [one["kind"] for one in objects] == ["ServiceAccount", "RoleBinding", "Service", "StatefulSet"]


def test_no_secret_is_documented() -> None:
    of = cell(H100.id, env={"SOME_API_KEY": "sesame"}, engine_args={"api-key": "sesame"})
    found = rendered(of, environ={"HF_TOKEN": "sesame"})
    assert "sesame" not in "".join(documented(found.objects))
    assert "sesame" not in "".join(found.engine.arguments)
    assert len(documented(found.objects)) == 4


OWN_SECRET = """
apiVersion: v1
kind: Secret
metadata: {name: s}
stringData: {password: sesame}
data: {coded: c2VzYW1l, number: 1}
"""


def test_no_list_of_variables_shows_a_secret_and_the_cluster_gets_it(tmp_path: Path) -> None:
    shipped = {path.stem: path.read_text() for path in (manifests_directory() / "standalone").iterdir()}
    settings = written(tmp_path, **shipped, own=OWN_SECRET)
    environ = hiding({"HF_TOKEN": " sesame ", "PATH": "/bin"})
    found = rendered(H100, settings, environ, "k3x9q0ab")
    objects = placed(found, ALICE, "perf", LEASE)
    shown = repr((environ, found, found.objects, objects)) + pformat(objects)
    assert not re.search("sesame|c2VzYW1l", shown)
    assert "'PATH': '/bin'" in shown
    sent = [json.loads(json.dumps(one)) for one in objects if one["kind"] == "Secret"]
    assert [one.get("stringData") for one in sent] == [{"password": "sesame"}, {"token": "sesame"}]
    assert [one.get("data") for one in sent] == [{"coded": "c2VzYW1l", "number": 1}, None]


def test_the_patience_of_a_session_is_longer_than_the_startup_probes() -> None:
    """The probe begins when the weights are there, and ends a container that does not load them; the session comes later."""
    for of in CELLS:
        workload = one_of(rendered(of).objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]
        probe = workload["startupProbe"]
        assert probe["periodSeconds"] * probe["failureThreshold"] < KubernetesSettings.ready_timeout_s


def test_a_cell_that_cannot_be_deployed_is_refused() -> None:
    with pytest.raises(ConfigError, match="is not offered on"):
        rendered(cell("gke_l40s_standalone_llama-3.1-8b"))
    with pytest.raises(ConfigError, match="unknown variable 'LLMPERF_SIM_X'"):
        rendered(cell(H100.id, env={"LLMPERF_SIM_X": "1"}), RenderSettings(simulator_image="some/image"))
    with pytest.raises(ConfigError, match="changes the simulator only"):
        rendered(cell(H100.id, env={"LLMPERF_SIM_SLOWDOWN": "1"}))
