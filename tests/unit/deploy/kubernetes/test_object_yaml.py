"""YAML to objects and back: what kubectl would read, where a mistake stands, and what is never written."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmperf.deploy.kubernetes.rendering.manifests import copied, dump, hidden, parse_objects, read_manifests
from pytest_llmperf.errors import ConfigError
from pytest_llmperf.secrets import masked_text
from tests.unit.deploy.kubernetes.kubeconfigs import shown

HEAD = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one}\n"


def read(text: str) -> list[dict[str, Any]]:
    return [one.manifest for one in parse_objects(text, "some.yaml")]


def test_documents_and_lists_are_taken_apart_and_empty_documents_are_passed_over() -> None:
    pod = "{apiVersion: v1, kind: Pod, metadata: {name: two}}"
    text = f"---\n# nothing\n---\n{HEAD}---\napiVersion: v1\nkind: List\nitems:\n- {pod}\n---\n"
    found = parse_objects(text, "some.yaml")
    assert [(one.title, str(one.where)) for one in found] == [("ConfigMap/one", "some.yaml:4"), ("Pod/two", "some.yaml:11")]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("0644", 420),
        ("yes", True),
        ("off", False),
        ("~", None),
        ("1e3", 1000.0),
        ("-7", -7),
        ("2026-07-20", "2026-07-20"),
        ("8000:8000", "8000:8000"),
        ("1.2.3", "1.2.3"),
        ("'0644'", "0644"),
        ("1_000", "1_000"),
    ],
)
def test_scalars_are_what_kubectl_takes_them_for(written: str, value: object) -> None:
    (found,) = read(f"{HEAD}data: {{x: {written}}}\n")
    assert found["data"]["x"] == value
    assert type(found["data"]["x"]) is type(value)


def test_an_alias_is_a_copy() -> None:
    (found,) = read(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: one\n  labels: &l {a: b}\nspec: {labels: *l, more: {<<: *l, c: d}}\n"
    )
    found["metadata"]["labels"]["a"] = "changed"
    assert found["spec"] == {"labels": {"a": "b"}, "more": {"a": "b", "c": "d"}}


def test_what_only_a_cluster_writes_is_left_out() -> None:
    metadata = "{name: one, uid: x, resourceVersion: '7', creationTimestamp: null}"
    exported = f"apiVersion: v1\nkind: Pod\nmetadata: {metadata}\nstatus: {{a: b}}\n"
    assert read(exported) == [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}}]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", "some.yaml:3: the key 'a' is given twice (first on line 1)"),
        ("kind: Pod\nmetadata: {name: x}\n", "some.yaml:1: is no Kubernetes object: it has no 'apiVersion'"),
        (f"{HEAD}---\n- just\n- a list\n", "some.yaml:5: is no Kubernetes object"),
        (f"{HEAD}---\napiVersion: v1\nkind: Pod\nmetadata: {{}}\n", "some.yaml:5: the Pod has no 'metadata.name'"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {generateName: x-}\n", "give it 'name', not 'generateName'"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: x, labels: [a]}\n", "'metadata.labels' of Pod/x must be a mapping"),
        ("a: [1\nb: 2\n", "some.yaml:2: not YAML:"),
        ("a: !Ref b\n", "some.yaml:1: not YAML: could not determine a constructor"),
        ("a: &a {b: *a}\n", "some.yaml:1: the alias refers to what it is part of"),
        ("? [a, b]\n: c\n", "some.yaml:1: a key must be plain text"),
        ("a: \x00\n", "some.yaml: not YAML:"),
    ],
)
def test_a_mistake_is_told_with_its_line(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        read(text)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.yaml: the file cannot be read: No such file"):
        read_manifests(tmp_path / "nothing.yaml")


PLAIN_TEXT = st.text().filter(lambda text: masked_text(text) == text)


@given(st.dictionaries(st.sampled_from(["x", "on", "2", "a/b"]), PLAIN_TEXT | st.integers() | st.booleans() | st.none()))
def test_what_is_written_is_read_again(data: dict[str, object]) -> None:
    manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}, "data": data}
    assert read(dump([manifest, manifest])) == [manifest, manifest]


@pytest.mark.parametrize(
    "text", ["y", "No", "08", "0o17", "12345e6", "1.5", "~", "", "a: b", "two\nlines\n", "2026-01-01", "\x85", "a\r\nb"]
)
def test_text_that_looks_like_something_else_is_quoted(text: str) -> None:
    manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}, "data": {"x": text}}
    assert read(dump([manifest])) == [manifest]
    assert f"x: {text}\n" not in dump([manifest])


INLINE = """\
apiVersion: v1
kind: Pod
metadata: {name: b}
spec:
  containers:
  - name: vllm
    args: [serve, --api-key, sesame, --header=X-Auth=sesame, --max-num-seqs=8]
    command: [sh, -c, "exec vllm serve m --api-key=sesame"]
    env: [{name: HF_TOKEN, value: sesame}, {name: HF_HOME, value: /models}]
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: c}, data: {password: sesame, x: "1"}}
---
{apiVersion: v1, kind: Secret, metadata: {name: d}, stringData: {x: sesame}}
"""


def test_no_list_of_variables_shows_a_secret_and_the_cluster_is_given_it() -> None:
    found = read(INLINE)
    assert "sesame" not in repr([found, [copied(one) for one in found]])
    assert [word in repr(found) for word in ("serve", "--api-key", "--max-num-seqs=8", "/models", "'1'")] == [True] * 5
    assert found == list(yaml.safe_load_all(INLINE))
    assert json.loads(json.dumps(found)) == found
    assert dump(found) == dump(list(yaml.safe_load_all(INLINE)))
    assert "--header=X-Auth=***" in dump(found)


def test_a_mistake_that_nobody_has_foreseen_shows_no_manifest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("nobody has foreseen this")

    (tmp_path / "objects.yaml").write_text(INLINE)
    monkeypatch.setattr("pytest_llmperf.deploy.kubernetes.rendering.manifests._Loader", fail)
    with pytest.raises(RuntimeError) as raised:
        read_manifests(tmp_path / "objects.yaml")
    assert "parse_objects" in shown(raised.value)
    # The one that broke was given the text.
    assert "sesame" not in shown(raised.value).partition("\nfail\n")[0]


def test_no_secret_is_written() -> None:
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "a"},
        "data": {"x": "c2VjcmV0"},
        "stringData": {"y": "sesame"},
    }
    container = {
        "name": "vllm",
        "args": ["--api-key", "sesame", "--max-num-seqs=8"],
        "env": [{"name": "HF_TOKEN", "value": "sesame"}, {"name": "HF_HOME", "value": "/models"}],
    }
    reference = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "hf-token", "key": "token"}}}
    container["env"].append(reference)  # type: ignore[attr-defined]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "b"}, "spec": {"containers": [container]}}
    files = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "c"},
        "data": {"password": "sesame", "url": "http://u:sesame@h/"},
    }
    before = [copied(one) for one in (secret, pod, files)]
    text = dump([secret, pod, files])
    assert "sesame" not in text
    assert "c2VjcmV0" not in text
    assert hidden(pod)["spec"]["containers"][0]["args"] == ["--api-key", "***", "--max-num-seqs=8"]
    assert hidden(pod)["spec"]["containers"][0]["env"][1:] == [{"name": "HF_HOME", "value": "/models"}, reference]
    assert [secret, pod, files] == before
