"""What the target reads of nodes and manifests, and how a cell that failed is told. The rest is in tests/cluster."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from pytest_llmperf.deploy.kubernetes import target
from pytest_llmperf.deploy.kubernetes.deployment import Placed
from pytest_llmperf.deploy.kubernetes.names import new_session
from pytest_llmperf.deploy.kubernetes.node_labels import accelerator, driver
from pytest_llmperf.deploy.kubernetes.rendering.render import Rendered, render
from pytest_llmperf.deploy.kubernetes.settings import KubernetesSettings, Reach, RenderSettings
from pytest_llmperf.deploy.kubernetes.target import KubernetesTarget
from pytest_llmperf.errors import ConfigError, DeployError
from pytest_llmperf.experiment.catalog import builtin_directory, load_catalog
from pytest_llmperf.experiment.matrix import expand
from pytest_llmperf.experiment.records import Cell
from tests.unit.deploy.kubernetes.kubeconfigs import shown

CATALOG = load_catalog([builtin_directory()])
FULL = {cell.id: cell for cell in expand(CATALOG.matrix_named("full"), CATALOG)}
GKE, SEVERAL = FULL["gke_h100_standalone_llama-3.1-8b"], FULL["k8s_h100x2_standalone_llama-3.1-8b"]


@pytest.mark.parametrize(
    ("cell", "labels", "simulated", "said"),
    [
        (GKE, {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"}, False, "nvidia-h100-80gb"),
        (SEVERAL, {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}, False, "2 x NVIDIA-H100-80GB-HBM3"),
        (GKE, {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}, True, "NVIDIA-H100-80GB-HBM3 (simulated)"),
        (GKE, {"nvidia.com/gpu.product": ""}, False, None),
        (GKE, {}, True, None),
    ],
)
def test_the_accelerator_is_what_the_node_calls_it(cell: Cell, labels: dict[str, str], simulated: bool, said: str | None) -> None:
    assert accelerator(cell, labels, simulated=simulated) == said


def test_the_driver_is_a_label_or_several() -> None:
    assert driver({"nvidia.com/cuda.driver-version.full": "570.86.15"}) == "570.86.15"
    parts = {f"nvidia.com/cuda.driver.{name}": value for name, value in (("major", "570"), ("minor", "86"), ("rev", "15"))}
    assert driver(parts) == "570.86.15"
    assert driver({"nvidia.com/gpu.product": "x"}) is None


def engine_with(tmp_path: Path, more: str, service: str = "") -> Rendered:
    manifest = f"""
apiVersion: apps/v1
kind: Deployment
metadata: {{name: vllm}}
spec:
  selector: {{matchLabels: {{app: vllm}}}}
  template:
    metadata: {{labels: {{app: vllm}}}}
    spec:
      containers:
        - {{name: vllm, image: "vllm:1", command: [vllm, serve], ports: [{{containerPort: 8000}}], {more}}}
---
apiVersion: v1
kind: Service
metadata: {{name: vllm}}
spec: {{{service}selector: {{app: vllm}}, ports: [{{port: 8000}}]}}
"""
    (tmp_path / "vllm.yaml").write_text(manifest)
    return render(GKE, RenderSettings(manifests=tmp_path), {})


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ("args: [a-model, --api-key=in-the-command]", "in-the-command"),
        ("args: [a-model], env: [{name: VLLM_API_KEY, value: in-the-environment}]", "in-the-environment"),
        ("args: [a-model], env: [{name: VLLM_API_KEY, valueFrom: {secretKeyRef: {name: k, key: k}}}]", None),
        ("args: [a-model]", None),
    ],
)
def test_the_engines_key_is_found_where_the_manifest_says_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str, key: str | None
) -> None:
    rendered = engine_with(tmp_path, more)
    assert target._key_in(rendered) == key

    def fail(*_: object) -> None:
        raise RuntimeError("nobody has foreseen this")

    monkeypatch.setattr(target, "api_key_of", fail)
    with pytest.raises(RuntimeError) as raised:
        target._key_in(rendered)
    assert "_key_in" in shown(raised.value)
    assert "in-the-" not in shown(raised.value)


def test_a_kubeconfig_that_is_not_there_is_told_without_a_cluster(tmp_path: Path) -> None:
    settings = KubernetesSettings(RenderSettings(), new_session(), kubeconfig=tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"^--llmperf-kubeconfig: the kubeconfig '.*nowhere' does not exist"):
        KubernetesTarget(settings).check()


def test_cells_that_cannot_be_rendered_are_told_before_a_cluster_is_asked(tmp_path: Path) -> None:
    settings = KubernetesSettings(RenderSettings(manifests=tmp_path / "nowhere"), new_session(), kubeconfig=tmp_path / "neither")
    with pytest.raises(ConfigError, match="nowhere"):
        KubernetesTarget(settings).check_cells([GKE])


def refused(cells: list[Cell], folder: Path, **settings: Any) -> str:
    """What is wrong with cells before a cluster is asked, which is not there."""
    render_settings = settings.pop("render", RenderSettings(manifests=settings.pop("manifests", None)))
    known = KubernetesSettings(render_settings, new_session(), kubeconfig=folder / "nowhere", **settings)
    with pytest.raises(ConfigError) as raised:
        KubernetesTarget(known).check_cells(cells)
    return str(raised.value)


def test_one_url_is_for_one_cell(tmp_path: Path) -> None:
    told = refused([GKE, SEVERAL], tmp_path, url="http://10.0.0.1:8000")
    assert told.startswith(f"--llmperf-url: one URL leads to one cell, but 2 cells are selected: {GKE.id}, {SEVERAL.id}")
    assert f"-k {GKE.id}" in told
    assert "nowhere" in refused([GKE], tmp_path, url="http://10.0.0.1:8000")  # nothing but the cluster is missing


@pytest.mark.parametrize(
    ("reach", "headless", "told"),
    [
        ("ingress", "", "--llmperf-reach: no Ingress and no Route among the objects leads to the Service"),
        ("load-balancer", "", "--llmperf-reach: no Service of type LoadBalancer is among the objects"),
        ("service", "clusterIP: None, ", "is headless: it has no address of its own"),
        ("service", "", "nowhere"),
        ("auto", "clusterIP: None, ", "nowhere"),
    ],
)
def test_a_way_that_the_objects_have_not_is_told_before_they_are_applied(
    tmp_path: Path, reach: Reach, headless: str, told: str
) -> None:
    engine_with(tmp_path, "args: [a-model]", headless)
    assert told in refused([GKE], tmp_path, manifests=tmp_path, reach=reach)


FP8 = replace(GKE, variant=CATALOG.variant_named("fp8"))


def with_ingress(folder: Path, rule: str) -> Path:
    """Manifests of which one leads to the engine."""
    engine_with(folder, "args: [a-model]")
    paths = "http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: vllm, port: {number: 8000}}}}]}"
    made = "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: vllm}\n"
    (folder / "ingress.yaml").write_text(f"{made}spec: {{rules: [{{{rule}{paths}}}]}}\n")
    return folder


@pytest.mark.parametrize(("rule", "address"), [("host: llm.example, ", "llm.example"), ("", "an Ingress without a host")])
@pytest.mark.parametrize("more", [{"worker": "gw0"}, {"keep": True}])
def test_cells_of_one_ingress_do_not_stand_at_the_same_time(
    tmp_path: Path, rule: str, address: str, more: dict[str, Any]
) -> None:
    ways: dict[str, Any] = {"manifests": with_ingress(tmp_path, rule), "reach": "ingress"}
    told = refused([GKE, FP8], tmp_path, **ways, **more)
    assert told.startswith(f"--llmperf-reach=ingress: {address} leads to one cell, but 2 that can stand at the same time have it")
    assert f"{GKE.id}, {FP8.id}" in told
    assert "one after another (without -n and --llmperf-keep)" in told
    # One after another they have it in turn; and one cell, or another way, is nobody's trouble. Only the cluster is missing.
    assert "nowhere" in refused([GKE, FP8], tmp_path, **ways)
    assert "nowhere" in refused([GKE], tmp_path, **ways, **more)
    assert "nowhere" in refused([GKE, FP8], tmp_path, manifests=tmp_path, **more)


def test_an_object_of_another_namespace_is_told_before_it_is_applied(tmp_path: Path) -> None:
    engine_with(tmp_path, "args: [a-model]")
    elsewhere = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: elsewhere}\n"
    (tmp_path / "config.yaml").write_text(elsewhere)
    told = refused([GKE], tmp_path, manifests=tmp_path)
    assert "is for the namespace 'elsewhere'; what is deployed goes to 'llmperf-" in told
    assert "nowhere" in refused([GKE], tmp_path, manifests=tmp_path, namespace="elsewhere")


@pytest.mark.parametrize(
    ("render", "told"),
    [
        (
            RenderSettings(model_cache="pvc:weights"),
            "--llmperf-model-cache: the claim 'weights'",
        ),
        (RenderSettings(hf_secret="hub/key"), "--llmperf-hf-secret: the Secret 'hub'"),
    ],
)
def test_what_only_a_namespace_of_the_users_can_have(tmp_path: Path, render: RenderSettings, told: str) -> None:
    said = refused([GKE], tmp_path, render=render)
    assert said.startswith(f"{told} is in a namespace of yours: name it with --llmperf-namespace")
    assert "nowhere" in refused([GKE], tmp_path, render=render, namespace="perf")  # nothing but the cluster is missing
    KubernetesTarget(KubernetesSettings(render, new_session())).check()  # it can be rendered without


@pytest.mark.parametrize("place", ["hostpath:/models", "none"])
def test_other_caches_need_no_namespace(tmp_path: Path, place: str) -> None:
    assert "nowhere" in refused([GKE], tmp_path, render=RenderSettings(model_cache=place))


@pytest.mark.parametrize(("brought", "told"), [("hub", "nowhere"), ("other", "the Secret 'hub' is in a namespace of yours")])
def test_a_secret_that_the_manifests_bring_needs_no_namespace(tmp_path: Path, brought: str, told: str) -> None:
    secret = f"apiVersion: v1\nkind: Secret\nmetadata: {{name: {brought}}}\nstringData: {{key: a-token}}\n"
    (tmp_path / "own.yaml").write_text(secret)
    engine_with(tmp_path, "args: [a-model]")
    assert told in refused([GKE], tmp_path, render=RenderSettings(manifests=tmp_path, hf_secret="hub/key"))


@pytest.mark.parametrize(("url", "told"), [("10.0.0.1", "no http(s) URL"), ("http://h:8000/v1", "the URL ends in /v1")])
def test_what_is_no_servers_url_is_told_without_a_cluster(url: str, told: str) -> None:
    with pytest.raises(ConfigError) as raised:
        KubernetesTarget(KubernetesSettings(RenderSettings(), new_session(), url=url)).check()
    assert str(raised.value).startswith(f"--llmperf-url: {told}")


class Stuck:
    """A cell that does not go."""

    def remove(self) -> None:
        raise DeployError("not everything could be removed", state="left: Pod x", hint="Try gc.")


def test_what_failed_is_told_first_where_it_cannot_be_taken_away_either() -> None:
    leave = target._removing(cast(Placed, Stuck()))
    error = DeployError("the image cannot be pulled", state="waiting", log_tail="the log")
    with pytest.raises(DeployError) as caught:
        leave(DeployError, error, None)
    assert caught.value.what == "the image cannot be pulled; and it could not be taken away: not everything could be removed"
    assert (caught.value.state, caught.value.hint) == ("waiting; left: Pod x", "Try gc.")
    assert caught.value.log_tail == "the log"
    with pytest.raises(DeployError, match=r"^not everything"):
        leave(KeyboardInterrupt, KeyboardInterrupt(), None)
