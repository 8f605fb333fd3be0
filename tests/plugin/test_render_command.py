"""``pytest-llmperf render``: files for kubectl, without a cluster and without secrets; and what is said to a mistake."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_llmperf.deploy.kubernetes.rendering.manifests import read_manifests
from tests.plugin.test_cli import cli

H100 = "gke_h100_standalone_llama-3.1-8b"


def test_a_cells_objects_are_files_in_the_order_of_applying(tmp_path: Path) -> None:
    done = cli("render", "-k", "h100 and gke", str(tmp_path / "out"), HF_TOKEN="")
    assert done.returncode == 0, done.stderr
    files = [Path(line) for line in done.stdout.splitlines()]
    assert files == sorted((tmp_path / "out" / H100).iterdir())
    kinds = [one["kind"] for path in files for one in read_manifests(path)]
    assert kinds == ["PersistentVolumeClaim", "Service", "Deployment"]


def test_a_token_is_not_written(tmp_path: Path) -> None:
    done = cli("render", "-k", H100, str(tmp_path), HF_TOKEN="hf_sesame")
    assert done.stdout.splitlines()[-1] == ("*** stands for a secret in 1 of these files: put it in, or make the object by hand.")
    assert "sesame" not in done.stdout + done.stderr + "".join(path.read_text() for path in tmp_path.rglob("*.yaml"))


def test_cells_that_cannot_run_are_told(tmp_path: Path) -> None:
    done = cli("render", "--matrix", "full", "-k", "gke_l4_", str(tmp_path))
    assert done.returncode == 0
    assert "gke_l4_standalone_llama-3.3-70b  (skipped: " in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"gke_l4_standalone_llama-3.2-3b", "gke_l4_standalone_llama-3.1-8b"}


MINE = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: mine}
spec:
  template:
    metadata: {labels: {app: mine}}
    spec: {containers: [{name: vllm, image: mine:1, args: [some/model]}]}
---
apiVersion: v1
kind: Service
metadata: {name: mine}
spec: {selector: {app: mine}, ports: [{port: 8000}]}
"""


def test_manifests_of_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(MINE)
    options = ("--manifests", str(tmp_path / "mine.yaml"), "--image", "other:2", "--queue", "gpus", "--hf-secret", "hub/key")
    done = cli("render", "-k", H100, *options, "--model-cache", "hostpath:/models", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    service, workload = (read_manifests(path)[0] for path in sorted((tmp_path / "out" / H100).iterdir()))
    assert service["spec"]["selector"].items() <= workload["spec"]["template"]["metadata"]["labels"].items()
    spec = workload["spec"]["template"]["spec"]
    assert spec["containers"][0]["image"] == "other:2"
    assert spec["volumes"] == [{"name": "llmperf-models", "hostPath": {"path": "/models", "type": "Directory"}}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-k", "gke_h100_standalone_lama"), rf"-k: .* is in the id of no cell of the matrix 'default'\n  The nearest: {H100}\."),
        (("-k", "h100 and"), "-k: 'h100 and' cannot be read"),
        (("--matrix", "ful"), r"Did you mean 'full'\?"),
        (("--model-cache", "pv:x"), "--model-cache: unknown model cache 'pv'"),
        (("--hf-secret", "a/b/c"), "--hf-secret: no Secret can be called that"),
        (("--manifests", "/nowhere/at/all"), "--manifests: there is no '/nowhere/at/all'"),
        (("--helm-values", "/dev/null"), "--helm-values: .*standalone: no chart is deployed, and nothing else takes values"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = cli("render", *arguments, str(tmp_path / "out"))
    assert done.returncode == 4
    assert re.search(message, done.stderr)
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
