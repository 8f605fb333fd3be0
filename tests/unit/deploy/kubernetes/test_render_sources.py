"""Where objects come from: folders, files, kustomizations and charts, and what no session may own."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_llmperf.deploy.kubernetes.rendering.render import render_all
from pytest_llmperf.deploy.kubernetes.rendering.sources import check_values, read_source
from pytest_llmperf.deploy.kubernetes.settings import RenderSettings
from pytest_llmperf.errors import ConfigError
from tests.unit.deploy.kubernetes.cells import H100, written

MAP = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one}\n"


def titles(settings: RenderSettings) -> list[str]:
    return [one.title for one in read_source(H100, settings, {})]


def test_the_shipped_manifests_are_the_methods() -> None:
    assert titles(RenderSettings()) == [
        "Deployment/llama-3-1-8b",
        "PersistentVolumeClaim/llama-3-1-8b-models",
        "Service/llama-3-1-8b",
    ]


def test_a_folder_a_file_and_a_folder_for_the_method(tmp_path: Path) -> None:
    settings = written(tmp_path, a=MAP, b=MAP.replace("one", "two"))
    (tmp_path / "README.md").write_text("not YAML: [")
    assert titles(settings) == ["ConfigMap/one", "ConfigMap/two"]
    assert titles(RenderSettings(manifests=tmp_path / "b.yaml")) == ["ConfigMap/two"]
    of_method = tmp_path / "standalone"
    of_method.mkdir()
    (of_method / "c.json").write_text('{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "three"}}')
    assert titles(settings) == ["ConfigMap/three"]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"a": MAP, "b": MAP}, "b.yaml:1: ConfigMap/one is there twice (first in "),
        ({"a": "# nothing\n"}, "holds no Kubernetes objects"),
        (
            {"a": f"{MAP}---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: x}}\n"},
            "a.yaml:5: Namespace/x belongs to the whole cluster",
        ),
    ],
)
def test_what_cannot_be_deployed(tmp_path: Path, files: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        titles(written(tmp_path, **files))


POD = "apiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\nspec: {{containers: [{{name: vllm, {}}}]}}\n"
OF_VLLM = r"a\.yaml:1: a pod's spec\.containers\[vllm\]\."


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (POD.format("resources: 4"), rf"{OF_VLLM}resources of Pod/a must be a mapping"),
        (POD.format("resources: {limits: [1]}"), rf"{OF_VLLM}resources\.limits of Pod/a must be a mapping"),
        (POD.format("env: {A: b}"), rf"{OF_VLLM}env of Pod/a must be a list of mappings"),
        (POD.format("ports: [8000]"), rf"{OF_VLLM}ports of Pod/a must be a list of mappings"),
        (POD.format("volumeMounts: [{name: a}]"), rf"{OF_VLLM}volumeMounts\[a\]\.mountPath of Pod/a must be text"),
        ("apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{}]}", r"spec\.ports\[0\]\.port of .* a number"),
        ("apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {selector: [a]}", r"spec\.selector of .* a mapping"),
    ],
)
def test_a_value_of_another_shape(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        titles(written(tmp_path, a=text))


def test_what_is_not_said_has_any_shape(tmp_path: Path) -> None:
    assert titles(written(tmp_path, a=POD.format("resources: null, env: "))) == ["Pod/a"]


def test_the_same_name_of_another_group_is_another_object(tmp_path: Path) -> None:
    service = "apiVersion: {}\nkind: Service\nmetadata: {{name: one}}\n"
    assert len(titles(written(tmp_path, a=service.format("v1"), b=service.format("serving.knative.dev/v1")))) == 2


def test_places_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--llmperf-manifests: there is no "):
        titles(RenderSettings(manifests=tmp_path / "nothing"))
    method = replace(H100.method, manifests="nothing")
    with pytest.raises(ConfigError, match=r"method standalone\.manifests: there is no 'nothing' .*"):
        read_source(replace(H100, method=method), RenderSettings(), {})


@pytest.mark.parametrize(
    ("file", "program"), [("kustomization.yaml", "kubectl"), ("Chart.yaml", "helm")], ids=["kustomization", "chart"]
)
def test_a_program_that_is_missing_is_named(tmp_path: Path, file: str, program: str) -> None:
    (tmp_path / file).write_text("resources: []\n")
    with pytest.raises(ConfigError, match=f"the program '{program}' is not on this machine's PATH"):
        read_source(H100, RenderSettings(manifests=tmp_path), {"PATH": str(tmp_path)})


def test_values_are_refused_only_where_no_cell_is_made_from_a_chart(tmp_path: Path) -> None:
    plain, chart = tmp_path / "standalone", tmp_path / "charted"
    plain.mkdir()
    chart.mkdir()
    (plain / "map.yaml").write_text(MAP)
    (chart / "Chart.yaml").write_text("name: c\n")
    settings = RenderSettings(manifests=tmp_path, helm_values=(tmp_path / "values.yaml",))
    charted = replace(H100, method=replace(H100.method, manifests="charted"))
    check_values([H100, charted], settings)
    check_values([], settings)
    assert titles(settings) == ["ConfigMap/one"]
    said = r"--llmperf-helm-values: .*standalone: no chart is deployed, and nothing else takes values"
    with pytest.raises(ConfigError, match=said):
        check_values([H100], settings)
    with pytest.raises(ConfigError, match=said):
        render_all([H100], settings, {})
