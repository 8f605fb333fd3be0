"""The helm that tests get renders charts, and knows its version."""

from __future__ import annotations

import subprocess
from pathlib import Path

import yaml

from tests.cluster.binaries import HELM


def said(helm: Path, *words: str | Path) -> str:
    return subprocess.run([helm, *words], check=True, capture_output=True, text=True).stdout


def test_helm_renders_a_chart(helm: Path, tmp_path: Path) -> None:
    said(helm, "create", tmp_path / "chart")
    objects = list(yaml.safe_load_all(said(helm, "template", "one", tmp_path / "chart", "--set", "replicaCount=3")))
    (deployment,) = (one for one in objects if one["kind"] == "Deployment")
    assert deployment["spec"]["replicas"] == 3


def test_helm_has_the_pinned_version(helm: Path) -> None:
    assert said(helm, "version", "--template={{.Version}}") == HELM.version
