"""A manifest's engine and what a cell makes of it: accelerators, nodes, memory, weights, tokens."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_llmperf.deploy.kubernetes.api.kinds import Manifest
from pytest_llmperf.deploy.kubernetes.rendering.engine_container import find_engine, find_service, port_of
from pytest_llmperf.deploy.kubernetes.rendering.manifests import parse_objects
from pytest_llmperf.deploy.kubernetes.settings import RenderSettings
from pytest_llmperf.deploy.simspec import arguments_of, sim_spec
from pytest_llmperf.errors import ConfigError
from pytest_llmperf.experiment.records import Cell
from pytest_llmperf.units import parse_bytes
from tests.unit.deploy.kubernetes.cells import H100, cell, one_of, rendered, written

MODEL = "meta-llama/Llama-3.1-8B-Instruct"
GPU = "resources: {limits: {nvidia.com/gpu: 1}}"


def workload(name: str, *containers: str, more: str = "") -> str:
    listed = "".join(f"\n      - {{{container}}}" for container in containers)
    return (
        f"apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}{more}}}\n"
        f"spec:\n  template:\n    metadata: {{labels: {{app: {name}}}}}\n    spec:\n      containers:{listed}\n"
    )


def service(name: str, app: str, port: str = "{port: 80, targetPort: 8000}", more: str = "", spec: str = "") -> str:
    return (
        f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}{more}}}\n"
        f"spec: {{selector: {{app: {app}}}, ports: [{port}]{spec}}}\n"
    )


MARKED = ", annotations: {llmperf.dev/engine: server}"


@pytest.mark.parametrize(
    ("documents", "engine"),
    [
        ([workload("a", f"name: x, {GPU}")], ("a", "x")),
        ([workload("a", "name: vllm"), workload("b", "name: router")], ("a", "vllm")),
        ([workload("a", f"name: x, {GPU}", "name: proxy")], ("a", "x")),
        ([workload("a", f"name: vllm, {GPU}"), workload("b", f"name: x, {GPU}")], ("a", "vllm")),
        ([workload("a", f"name: vllm, {GPU}"), workload("b", "name: server", "name: y", more=MARKED)], ("b", "server")),
        ([workload("b", "name: only", more=", annotations: {llmperf.dev/engine: 'true'}")], ("b", "only")),
        ([workload("a", "name: x, resources: {requests: {nvidia.com/mig-1g.10gb: 1}}"), workload("b", "name: y")], ("a", "x")),
    ],
)
def test_the_engine_is_found(documents: list[str], engine: tuple[str, str]) -> None:
    found = find_engine(parse_objects("---\n".join(documents), "some.yaml"))
    assert (found.name, found.container["name"]) == engine


@pytest.mark.parametrize(
    ("documents", "said"),
    [
        (
            [workload("a", f"name: x, {GPU}"), workload("b", f"name: y, {GPU}")],
            "some.yaml:1: several containers may be the engine: x of Deployment/a, y of Deployment/b",
        ),
        ([workload("a", "name: x")], "no container is the engine (there are: x of Deployment/a)"),
        ([service("a", "a")], "no container is the engine (there are: none)"),
        ([workload("a", "name: x", "name: serve", more=MARKED)], "unknown container 'server'"),
    ],
)
def test_an_engine_that_nobody_could_tell(documents: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        find_engine(parse_objects("---\n".join(documents), "some.yaml"))


PORTS = f"name: x, {GPU}, ports: [{{name: metrics, containerPort: 9000}}, {{name: http, containerPort: 8000}}]"


@pytest.mark.parametrize(
    ("services", "expected"),
    [
        ([service("one", "a")], ("one", 80)),
        ([service("one", "a", "{port: 81, targetPort: http}")], ("one", 81)),
        ([service("one", "a", "{port: 8000}")], ("one", 8000)),
        ([service("one", "b"), service("two", "a")], ("two", 80)),
        ([service("one", "a", "{port: 9000}"), service("two", "a")], ("two", 80)),
        ([service("headless", "a", spec=", clusterIP: None"), service("two", "a")], ("two", 80)),
        ([service("one", "a"), service("a", "a")], ("a", 80)),
        ([service("one", "a", more=", annotations: {llmperf.dev/engine: 'true'}"), service("a", "a")], ("one", 80)),
    ],
)
def test_the_service_that_leads_to_the_engine(services: list[str], expected: tuple[str, int]) -> None:
    objects = parse_objects("---\n".join([workload("a", PORTS), *services]), "some.yaml")
    engine = find_engine(objects)
    assert port_of(engine) == 8000
    found, port = find_service(objects, engine, port_of(engine))
    assert (found["metadata"]["name"], port) == expected


@pytest.mark.parametrize(
    ("ports", "args", "port"),
    [
        ("{containerPort: 9000}, {containerPort: 8000}", "", 8000),
        ("{containerPort: 9000}, {containerPort: 8080}", "x, --port=8080", 8080),
        ("{containerPort: 9000}, {containerPort: 8080}", "x, --port, '7000'", 7000),
        ("{containerPort: 9000}, {containerPort: 8080}", "x", 9000),
        ("{name: metrics, containerPort: 9000}, {name: http, containerPort: 8080}", "x, --port=7000", 8080),
        ("", "x", 8000),
    ],
)
def test_the_port_at_which_the_engine_serves(ports: str, args: str, port: int) -> None:
    found = parse_objects(workload("a", f"name: x, {GPU}, ports: [{ports}], args: [{args}]"), "some.yaml")
    assert port_of(find_engine(found)) == port


@pytest.mark.parametrize(
    ("services", "said"),
    [
        ([service("one", "b")], "no Service leads to the engine's port 8000"),
        ([service("one", "a"), service("two", "a")], "one, two"),
    ],
)
def test_no_service_or_too_many(services: list[str], said: str) -> None:
    objects = parse_objects("---\n".join([workload("a", PORTS), *services]), "some.yaml")
    with pytest.raises(ConfigError, match=re.escape(said)):
        find_service(objects, find_engine(objects), 8000)


def pod_of(of: Cell = H100, settings: RenderSettings | None = None, **environ: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pod's specification and its engine, as rendered for a cell."""
    found = rendered(of, settings or RenderSettings(), environ)
    spec = one_of(found.objects, "Deployment")["spec"]["template"]["spec"]
    return spec, spec["containers"][0]


@pytest.mark.parametrize(
    ("cell_id", "asked", "selector"),
    [
        ("gke_h100_standalone_llama-3.1-8b", {"nvidia.com/gpu": 1}, {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"}),
        ("eks_l40sx4_standalone_qwen3-32b", {"nvidia.com/gpu": 4}, {"nvidia.com/gpu.product": "NVIDIA-L40S"}),
        (
            "ocp_h100-mig-3g.40gb_standalone_llama-3.2-3b",
            {"nvidia.com/mig-3g.40gb": 1},
            {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"},
        ),
    ],
)
def test_the_cells_accelerators_and_nodes(cell_id: str, asked: dict[str, int], selector: dict[str, str]) -> None:
    spec, engine = pod_of(cell(cell_id))
    for part in ("requests", "limits"):
        assert {name: count for name, count in engine["resources"][part].items() if "nvidia" in name} == asked
    assert spec["nodeSelector"] == selector
    assert spec["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]


A100 = "{key: nvidia.com/gpu.product, operator: In, values: [NVIDIA-A100-SXM4-80GB]}"
POOL = "{key: pool, operator: In, values: [perf]}"


@pytest.mark.parametrize(
    ("terms", "left"),
    [
        (f"{{matchExpressions: [{A100}, {POOL}]}}", ["pool"]),
        (f"{{matchExpressions: [{A100}]}}, {{matchExpressions: [{POOL}]}}", None),
        (f"{{matchExpressions: [{POOL}]}}", ["pool"]),
    ],
)
def test_the_manifests_own_accelerator_does_not_contradict_the_cells(tmp_path: Path, terms: str, left: list[str] | None) -> None:
    required = f"requiredDuringSchedulingIgnoredDuringExecution: {{nodeSelectorTerms: [{terms}]}}"
    affinity = f"      affinity: {{nodeAffinity: {{{required}}}}}\n"
    settings = written(tmp_path, all="---\n".join([workload("a", f"name: x, {GPU}") + affinity, service("a", "a")]))
    asked = pod_of(H100, settings)[0]["affinity"]["nodeAffinity"]
    found = [one["key"] for each in asked.values() for term in each["nodeSelectorTerms"] for one in term["matchExpressions"]]
    assert (found or None) == left


def test_hardware_that_a_platform_does_not_offer() -> None:
    with pytest.raises(ConfigError, match="l40s is not offered on Google Kubernetes Engine") as caught:
        rendered(cell("gke_l40s_standalone_llama-3.1-8b"))
    assert caught.value.hint is not None
    assert "eks, eks-auto, k8s, ocp" in caught.value.hint


@pytest.mark.parametrize(("count", "request_gib", "limit_gib", "shared_gib"), [(1, 24, 48, 8), (2, 32, 64, 8), (8, 80, 160, 32)])
def test_memory_follows_the_number_of_workers(count: int, request_gib: int, limit_gib: int, shared_gib: int) -> None:
    of = cell("gke_h100_standalone_qwen3-32b")
    spec, engine = pod_of(replace(of, hardware=replace(of.hardware, count=count)))
    assert engine["resources"]["requests"]["memory"] == f"{request_gib}Gi"
    assert engine["resources"]["limits"]["memory"] == f"{limit_gib}Gi"
    (shared,) = (volume["emptyDir"] for volume in spec["volumes"] if volume["name"] == "shm")
    assert shared["sizeLimit"] == f"{shared_gib}Gi"


@pytest.mark.parametrize(("count", "cpus"), [(1, "3"), (2, "6"), (8, "18")])
def test_cpus_follow_the_number_of_workers(count: int, cpus: str) -> None:
    of = cell("gke_h100_standalone_qwen3-32b")
    _, engine = pod_of(replace(of, hardware=replace(of.hardware, count=count)))
    assert engine["resources"]["requests"]["cpu"] == cpus
    assert "cpu" not in engine["resources"]["limits"]


@pytest.mark.parametrize(
    ("asked", "becomes"),
    [
        ("requests: {cpu: 32}", {"requests": 32}),
        ("requests: {cpu: 9500m}, limits: {cpu: 12.5}", {"requests": "10", "limits": 12.5}),
        ("requests: {cpu: .5}, limits: {cpu: 8}", {"requests": "10", "limits": "10"}),
        ("limits: {}", {}),
    ],
)
def test_the_manifests_own_cpus_only_grow(tmp_path: Path, asked: str, becomes: dict[str, object]) -> None:
    engine = f"name: vllm, resources: {{{asked}}}"
    settings = written(tmp_path, all="---\n".join([workload("a", engine), service("a", "a")]))
    resources = pod_of(cell("gke_h100x4_standalone_qwen3-32b"), settings)[1]["resources"]
    assert {part: asked["cpu"] for part, asked in resources.items() if "cpu" in asked} == becomes


def test_cpus_that_cannot_be_read(tmp_path: Path) -> None:
    engine = "name: vllm, resources: {requests: {cpu: four}}"
    settings = written(tmp_path, all="---\n".join([workload("a", engine), service("a", "a")]))
    with pytest.raises(ConfigError, match=r"all\.yaml:1: the engine's cpu 'four' cannot be read"):
        rendered(cell("gke_h100x4_standalone_qwen3-32b"), settings)


ONLY_ONE = "; a cell is one engine: its price, its accelerators and its capacity are of one"
AUTOSCALER = "apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {name: more}\n"
KEDA = "apiVersion: keda.sh/v1alpha1\nkind: ScaledObject\nmetadata: {name: more}\n"
OPERATED = "apiVersion: some/v1\nkind: InferenceService\nmetadata: {name: a}\nspec:\n  predictor:\n"


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (service("a", "a"), workload("a", f"name: x, {GPU}") + "  replicas: 3\n", "6: replicas of Deployment/a is 3"),
        (service("a", "a"), workload("a", f"name: x, {GPU}") + "  replicas: 0\n", "6: replicas of Deployment/a is 0"),
        (
            service("a", "a"),
            f"{OPERATED}    minReplicas: 1\n    maxReplicas: 2\n    containers: [{{name: x, {GPU}}}]\n",
            "6: maxReplicas of InferenceService/a is 2",
        ),
        (
            service("a", "a"),
            workload("a", f"name: x, {GPU}").replace("Deployment", "DaemonSet"),
            "6: DaemonSet/a has an engine on every node",
        ),
        (
            workload("a", f"name: x, {GPU}") + "  replicas: 1\n---\n" + service("a", "a"),
            f"{AUTOSCALER}spec: {{scaleTargetRef: {{apiVersion: apps/v1, kind: Deployment, name: a}}}}\n",
            "17: HorizontalPodAutoscaler/more scales Deployment/a",
        ),
        (
            workload("a", f"name: x, {GPU}") + "---\n" + service("a", "a"),
            f"{KEDA}spec: {{scaleTargetRef: {{name: a}}}}\n",
            "16: ScaledObject/more scales Deployment/a",
        ),
    ],
)
def test_more_engines_than_one_are_refused(tmp_path: Path, first: str, second: str, said: str) -> None:
    settings = written(tmp_path, all=f"{first}---\n{second}")
    with pytest.raises(ConfigError, match=rf"all\.yaml:{re.escape(said + ONLY_ONE)}") as caught:
        rendered(H100, settings)
    assert caught.value.hint


GROUPS = "apiVersion: leaderworkerset.x-k8s.io/v1\nkind: LeaderWorkerSet\nmetadata: {name: a}\nspec:\n  leaderWorkerTemplate:\n"


@pytest.mark.parametrize("size", ["size: 2", "size: 0", ""])
def test_an_engine_in_several_pods_is_refused(tmp_path: Path, size: str) -> None:
    pods = f"{{metadata: {{labels: {{app: a}}}}, spec: {{containers: [{{name: x, {GPU}}}]}}}}"
    settings = written(tmp_path, all=f"{service('a', 'a')}---\n{GROUPS}    {size}\n    workerTemplate: {pods}\n")
    if not size:
        assert rendered(H100, settings).engine.kind == "LeaderWorkerSet"
        return
    told = rf"all\.yaml:6: {size.replace(': ', ' of LeaderWorkerSet/a is ')}: an engine in several pods"
    with pytest.raises(ConfigError, match=told):
        rendered(H100, settings)


def test_what_scales_others_is_theirs(tmp_path: Path) -> None:
    router = workload("b", "name: router") + "  replicas: 3\n"
    scaler = f"{AUTOSCALER}spec: {{scaleTargetRef: {{kind: Deployment, name: b}}}}\n"
    documents = [workload("a", f"name: x, {GPU}") + "  replicas: 1\n", service("a", "a"), router, scaler]
    found = rendered(H100, written(tmp_path, all="---\n".join(documents)))
    assert len(found.objects) == 4


def test_a_manifest_without_shared_memory_gets_some_where_workers_need_it(tmp_path: Path) -> None:
    settings = written(tmp_path, all="---\n".join([workload("a", f"name: x, {GPU}"), service("a", "a")]))
    assert "volumes" not in pod_of(H100, settings)[0]
    spec, engine = pod_of(cell("gke_h100x4_standalone_qwen3-32b"), settings)
    assert engine["volumeMounts"] == [{"name": "llmperf-shm", "mountPath": "/dev/shm"}]
    assert spec["volumes"] == [{"name": "llmperf-shm", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}}]


def test_the_variants_variables_take_the_place_of_the_manifests() -> None:
    _, engine = pod_of(cell(H100.id, env={"VLLM_CACHE_ROOT": "/x", "VLLM_LOGGING_LEVEL": "DEBUG"}))
    values = {one["name"]: one.get("value") for one in engine["env"]}
    assert (values["VLLM_CACHE_ROOT"], values["VLLM_LOGGING_LEVEL"]) == ("/x", "DEBUG")
    assert len(values) == len(engine["env"])


def test_claims_get_the_platforms_storage_class_and_room_for_the_model() -> None:
    small, large = (
        one_of(rendered(cell(f"{one}_standalone_{model}")).objects, "PersistentVolumeClaim")["spec"]
        for one, model in [("k8s_h100", "llama-3.1-8b"), ("eks_h100x4", "llama-3.3-70b")]
    )
    assert "storageClassName" not in small
    assert large["storageClassName"] == "gp3"
    assert small["resources"]["requests"]["storage"] == "60Gi"
    # 141 GB of weights, read in 16 bit.
    assert 160e9 < parse_bytes(large["resources"]["requests"]["storage"]) < 220e9


@pytest.mark.parametrize(
    ("place", "volume"),
    [
        ("pvc:weights", {"persistentVolumeClaim": {"claimName": "weights"}}),
        ("hostpath:/var/models", {"hostPath": {"path": "/var/models", "type": "Directory"}}),
        ("none", {"emptyDir": {}}),
    ],
)
def test_another_place_for_the_weights(place: str, volume: Manifest) -> None:
    found = rendered(H100, RenderSettings(model_cache=place))
    assert "PersistentVolumeClaim" not in {one["kind"] for one in found.objects}
    volumes = one_of(found.objects, "Deployment")["spec"]["template"]["spec"]["volumes"]
    assert {"name": "models", **volume} in volumes
    assert [one["name"] for one in volumes].count("models") == 1


def test_a_manifest_that_keeps_no_weights_gets_a_place_for_them(tmp_path: Path) -> None:
    settings = written(tmp_path, all="---\n".join([workload("a", f"name: x, {GPU}"), service("a", "a")]))
    spec, engine = pod_of(H100, replace(settings, model_cache="pvc:weights"))
    assert engine["volumeMounts"] == [{"name": "llmperf-models", "mountPath": "/llmperf-models"}]
    assert {"name": "HF_HOME", "value": "/llmperf-models/huggingface"} in engine["env"]
    assert spec["volumes"] == [{"name": "llmperf-models", "persistentVolumeClaim": {"claimName": "weights"}}]


@pytest.mark.parametrize("args", ["x, --download-dir=/w/hub", "x, --download-dir, /w/hub"])
def test_the_folder_that_the_engine_is_told_to_download_to(tmp_path: Path, args: str) -> None:
    mounted = f"name: x, {GPU}, args: [{args}], volumeMounts: [{{name: weights, mountPath: /w}}]"
    settings = written(tmp_path, all="---\n".join([workload("a", mounted), service("a", "a")]))
    spec, engine = pod_of(H100, replace(settings, model_cache="pvc:mine"))
    assert spec["volumes"] == [{"name": "weights", "persistentVolumeClaim": {"claimName": "mine"}}]
    assert engine["volumeMounts"] == [{"name": "weights", "mountPath": "/w"}]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (RenderSettings(model_cache="pcv:a"), "--llmperf-model-cache: unknown model cache 'pcv'"),
        (RenderSettings(model_cache="hostpath:models"), "--llmperf-model-cache: 'hostpath:models' names no folder of the node"),
        (RenderSettings(queue="my queue"), "--llmperf-queue: 'my queue' is no queue's name"),
        (RenderSettings(hf_secret="a/b/c"), "--llmperf-hf-secret: no Secret can be called that"),
    ],
)
def test_mistakes_in_options(settings: RenderSettings, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        rendered(H100, settings)


def tokens(spec: Manifest) -> list[Manifest]:
    containers = [*spec["initContainers"], *spec["containers"]]
    return [one["valueFrom"]["secretKeyRef"] for each in containers for one in each["env"] if one["name"] == "HF_TOKEN"]


def test_the_token_of_a_secret_that_exists() -> None:
    spec, _ = pod_of(H100, RenderSettings(hf_secret="mine/hub"), HF_TOKEN="hf_unused")
    assert tokens(spec) == [{"name": "mine", "key": "hub"}] * 2
    assert "Secret" not in {one["kind"] for one in rendered(H100, RenderSettings(hf_secret="mine")).objects}


def test_the_token_of_the_environment() -> None:
    found = rendered(H100, environ={"HF_TOKEN": "hf_abcdef"}, suffix="s1")
    secret = one_of(found.objects, "Secret")
    assert secret["stringData"] == {"token": "hf_abcdef"}
    spec = one_of(found.objects, "Deployment")["spec"]["template"]["spec"]
    assert tokens(spec) == [{"name": secret["metadata"]["name"], "key": "token"}] * 2


def test_the_manifests_own_token() -> None:
    assert tokens(pod_of()[0]) == [{"name": "hf-token", "key": "token", "optional": True}] * 2


def test_the_download_fetches_what_the_engine_will_read() -> None:
    of = cell(H100.id, engine_args={"revision": "main", "download-dir": "/models/here"})
    spec, _ = pod_of(of, RenderSettings(image="registry.example/vllm:1"))
    (download,) = spec["initContainers"]
    assert download["image"] == "registry.example/vllm:1"
    assert download["command"] == ["hf", "download"]
    assert download["args"] == [MODEL, "--exclude=original/*", "--revision=main", "--cache-dir=/models/here"]


@pytest.mark.parametrize(
    ("variant", "value"),
    [
        ({"engine_args": {"revision": "v2"}}, "1"),
        ({"engine_args": {"speculative_config": '{"model": "some/draft"}'}}, None),
        ({"engine_args": {"speculative-config.model": "some/draft"}}, None),
        ({"engine_args": {"spec-model": "some/draft"}}, None),
        ({"engine_args": {"download-dir": "/models/here"}}, None),
        ({"engine_args": {"tokenizer": "other/one"}, "env": {"HF_HUB_OFFLINE": "1"}}, "1"),
        ({"env": {"HF_HUB_OFFLINE": "0"}}, "0"),
    ],
)
def test_the_engine_reads_what_was_downloaded_and_nothing_else(variant: dict[str, Any], value: str | None) -> None:
    _, engine = pod_of(cell(H100.id, **variant))
    found = {one["name"]: one.get("value") for one in engine["env"]}
    assert found.get("HF_HUB_OFFLINE") == value


def test_a_manifest_without_a_download_may_be_offline_as_it_likes(tmp_path: Path) -> None:
    offline = f"name: x, {GPU}, env: [{{name: HF_HUB_OFFLINE, value: '1'}}]"
    settings = written(tmp_path, all=f"{workload('a', offline)}---\n{service('a', 'a')}")
    _, engine = pod_of(cell(H100.id, engine_args={"download-dir": "/models/here"}), settings)
    assert engine["env"] == [{"name": "HF_HUB_OFFLINE", "value": "1"}]


def test_openshift_gives_users_itself() -> None:
    spec, engine = pod_of(cell("ocp_h100_standalone_llama-3.1-8b"))
    assert spec["securityContext"] == {
        "runAsNonRoot": True,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert engine["securityContext"]["allowPrivilegeEscalation"] is False


def test_a_queue_is_named_on_workload_and_pods() -> None:
    workload = one_of(rendered(H100, RenderSettings(queue="gpus")).objects, "Deployment")
    for metadata in (workload["metadata"], workload["spec"]["template"]["metadata"]):
        assert metadata["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"


def test_the_simulator_stands_in_the_engines_place() -> None:
    settings = RenderSettings(simulator_image="localhost/simulator:1", image="registry.example/vllm:1")
    of = cell(H100.id, env={"LLMPERF_SIM_SLOWDOWN": "2"})
    spec, engine = pod_of(of, settings)
    real = pod_of()[1]
    assert engine["image"] == "localhost/simulator:1"
    assert engine["args"] == ["--spec=env:LLMPERF_SPEC", "--host=0.0.0.0", "--port=8000"]
    assert "command" not in engine
    assert "initContainers" not in spec
    for same in ("resources", "readinessProbe", "ports", "volumeMounts", "securityContext"):
        assert engine[same] == real[same]
    # Of the manifest's arguments the simulator knows nothing: its context is the one it has without a cluster.
    assert rendered(of, settings).engine.arguments == arguments_of(sim_spec(of).engine)
