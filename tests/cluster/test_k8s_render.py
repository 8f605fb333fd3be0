"""What is rendered is what a real API server takes and a real kubelet runs, whatever it was rendered from."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from pytest_llmperf.deploy.kubernetes.api.kinds import Manifest
from pytest_llmperf.deploy.kubernetes.names import Identity
from pytest_llmperf.deploy.kubernetes.rendering.manifests import dump
from pytest_llmperf.deploy.kubernetes.rendering.render import Rendered, placed, render
from pytest_llmperf.deploy.kubernetes.settings import RenderSettings
from pytest_llmperf.deploy.readiness import await_ready
from pytest_llmperf.errors import ConfigError
from pytest_llmperf.experiment.catalog import builtin_directory, load_catalog, manifests_directory
from pytest_llmperf.experiment.fit import fits
from pytest_llmperf.experiment.matrix import expand
from pytest_llmperf.experiment.records import Cell
from tests.cluster.cluster import Cluster

CATALOG = load_catalog([builtin_directory()])
CELLS = [cell for cell in expand(CATALOG.matrix_named("full"), CATALOG) if fits(cell).ok]
CHART = Path(__file__).parent / "data" / "chart"
US = Identity("r3nd3r01")
KUSTOMIZATION = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"


def cell(cell_id: str) -> Cell:
    return next(one for one in CELLS if one.id == cell_id)


USER = 1000
"""The shipped manifest's."""
H100 = cell("k8s_h100_standalone_llama-3.1-8b")


def apply(cluster: Cluster, namespace: str, rendered: Sequence[Rendered], *words: str) -> list[str]:
    """What kubectl says of each object."""
    objects = [one for each in rendered for one in placed(each, US, namespace, None)]
    command = ("apply", "--server-side", f"--namespace={namespace}", "--filename=-", *words)
    return cluster.kubectl(*command, given=dump(objects)).splitlines()


@contextmanager
def applied(cluster: Cluster, namespace: str, rendered: Rendered) -> Iterator[None]:
    """The objects, and their ready pods; they go at the end, claims too."""
    apply(cluster, namespace, [rendered])
    workload = f"{rendered.engine.kind.lower()}/{rendered.engine.name}"
    try:
        cluster.kubectl("rollout", "status", workload, f"--namespace={namespace}", "--timeout=120s")
        yield
    finally:
        selector = f"--selector={US.selector(rendered.cell.id)}"
        cluster.kubectl("delete", "deployments,services,persistentvolumeclaims", selector, f"--namespace={namespace}", "--now")


def test_the_api_takes_every_cell(cluster: Cluster, namespace: str) -> None:
    settings = RenderSettings(queue="gpus")
    rendered = [render(one, settings, {"HF_TOKEN": "hf_of_nobody"}, "s1") for one in CELLS]
    said = apply(cluster, namespace, rendered, "--dry-run=server")
    assert len(said) == 4 * len(CELLS)
    assert all(line.endswith("serverside-applied (server dry run)") for line in said)


def test_a_rendered_cell_runs_and_serves_its_model(cluster: Cluster, namespace: str, simulator_image: str) -> None:
    rendered = render(H100, RenderSettings(simulator_image=simulator_image), {}, "s1")
    with applied(cluster, namespace, rendered):
        words = ("get", "service", rendered.service.name, f"--namespace={namespace}", "--output=jsonpath={.spec.clusterIP}")
        url = f"http://{cluster.kubectl(*words)}:{rendered.service.port}"
        answer = await_ready(url, model=H100.model.name, api_key=None, timeout_s=30.0, progress=print)
    assert answer.endpoint.simulated


def test_the_same_cell_stands_twice_in_a_namespace(cluster: Cluster, namespace: str, simulator_image: str) -> None:
    settings = RenderSettings(simulator_image=simulator_image, model_cache="none")
    first, second = (render(H100, settings, {}, suffix) for suffix in ("s1", "s2"))
    with applied(cluster, namespace, first), applied(cluster, namespace, second):
        for each in (first, second):
            words = ("get", "endpointslices", f"--selector=kubernetes.io/service-name={each.service.name}")
            slices = yaml.safe_load(cluster.kubectl(*words, f"--namespace={namespace}", "--output=yaml"))
            (target,) = (one["targetRef"]["name"] for each in slices["items"] for one in each["endpoints"])
            assert target.startswith(f"{each.engine.name}-")


def test_a_folder_of_the_node_is_written_to_by_the_pods_user(cluster: Cluster, namespace: str, simulator_image: str) -> None:
    models = cluster.state.folder / "tmp" / namespace  # the node's /tmp
    models.mkdir()
    os.chown(models, USER, USER)
    rendered = render(H100, RenderSettings(simulator_image=simulator_image, model_cache=f"hostpath:/tmp/{namespace}"), {}, "s1")
    with applied(cluster, namespace, rendered):
        write = "open('/models/weights', 'w').write('all')"
        engine = (f"deployment/{rendered.engine.name}", f"--namespace={namespace}", "--", "python3", "-c", write)
        cluster.kubectl("exec", *engine)
    assert (models / "weights").read_text() == "all"
    assert (models / "weights").stat().st_uid == USER


@pytest.fixture
def overlay(tmp_path: Path) -> Path:
    """The shipped manifests as a base, and a kustomization on top of them."""
    base, top = tmp_path / "base", tmp_path / "top"
    shutil.copytree(manifests_directory() / "standalone", base)
    files = sorted(path.name for path in base.iterdir())
    (base / "kustomization.yaml").write_text(f"{KUSTOMIZATION}resources: [{', '.join(files)}]\n")
    top.mkdir()
    patch = {"op": "add", "path": "/spec/template/spec/priorityClassName", "value": "system-cluster-critical"}
    more = {"resources": ["../base"], "patches": [{"target": {"kind": "Deployment"}, "patch": yaml.safe_dump([patch])}]}
    (top / "kustomization.yaml").write_text(KUSTOMIZATION + yaml.safe_dump(more))
    return top


def with_programs(cluster: Cluster) -> dict[str, str]:
    """An environment that has kubectl, and no token."""
    return {"PATH": cluster.environment["PATH"]}


def workload_of(rendered: Rendered) -> Manifest:
    return next(one for one in rendered.objects if one["kind"] == "Deployment")


def test_a_kustomization(cluster: Cluster, namespace: str, overlay: Path) -> None:
    rendered = render(H100, RenderSettings(manifests=overlay), with_programs(cluster))
    plain = render(H100, RenderSettings(), {})
    assert workload_of(rendered)["spec"]["template"]["spec"].pop("priorityClassName") == "system-cluster-critical"
    assert workload_of(rendered)["spec"] == workload_of(plain)["spec"]
    assert len(apply(cluster, namespace, [rendered], "--dry-run=server")) == 3


def test_a_kustomization_that_kubectl_refuses(cluster: Cluster, overlay: Path) -> None:
    (overlay / "kustomization.yaml").write_text(f"{KUSTOMIZATION}resources: [nothing.yaml]\n")
    with pytest.raises(ConfigError, match=r"`kubectl kustomize` refuses it: .*nothing\.yaml"):
        render(H100, RenderSettings(manifests=overlay), with_programs(cluster))


@pytest.fixture
def programs(helm: Path) -> dict[str, str]:
    """An environment that has Helm."""
    return {"PATH": f"{helm.parent}{os.pathsep}{os.environ['PATH']}"}


def test_a_chart(cluster: Cluster, namespace: str, programs: dict[str, str], tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text("logLevel: DEBUG\n")
    tp2 = cell("k8s_h100x2_standalone_llama-3.1-8b")
    rendered = render(tp2, RenderSettings(manifests=CHART, helm_values=(values,)), programs)
    settings, service, workload = placed(rendered, US, namespace, None)
    assert settings["data"] == {
        "VLLM_LOGGING_LEVEL": "DEBUG",
        "own-url": f"http://{rendered.service.name}.{namespace}.svc:80/health",
    }
    (engine,) = workload["spec"]["template"]["spec"]["containers"]
    assert engine["args"] == [
        "--model=meta-llama/Llama-3.1-8B-Instruct",
        "--served-model-name=llama-3.1-8b",
        "--host=0.0.0.0",
        "--port=8080",
        "--disable-log-requests",
        "--tensor-parallel-size=2",
    ]
    assert engine["envFrom"] == [{"configMapRef": {"name": settings["metadata"]["name"]}}]
    assert (rendered.service.port, service["spec"]["ports"][0]["targetPort"]) == (80, 8080)
    assert len(apply(cluster, namespace, [rendered], "--dry-run=server")) == 3


def test_a_chart_that_needs_an_installation(programs: dict[str, str], tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text("migrate: true\n")
    with pytest.raises(ConfigError, match=r"Job/llmperf-migrate is a hook, which only an installation by Helm runs"):
        render(H100, RenderSettings(manifests=CHART, helm_values=(values,)), programs)


def test_values_that_helm_refuses(programs: dict[str, str], tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text("logLevel: [\n")
    with pytest.raises(ConfigError, match=r"`helm template` refuses it: .*values\.yaml"):
        render(H100, RenderSettings(manifests=CHART, helm_values=(values,)), programs)
    missing = replace(RenderSettings(manifests=CHART), helm_values=(tmp_path / "nothing.yaml",))
    with pytest.raises(ConfigError, match="--llmperf-helm-values: there is no file"):
        render(H100, missing, programs)
