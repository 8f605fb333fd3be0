"""Rendered cells as files: what a person applies, without secrets and without what an earlier call has left."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pytest_llmperf.deploy.kubernetes.rendering.manifests import read_manifests
from pytest_llmperf.deploy.kubernetes.rendering.rendered_files import write_rendered
from pytest_llmperf.deploy.kubernetes.rendering.sources import RELEASE_NAMESPACE
from pytest_llmperf.errors import ConfigError
from tests.unit.deploy.kubernetes.cells import H100, rendered


def test_a_folder_for_each_cell_and_a_file_for_each_object(tmp_path: Path) -> None:
    found = rendered()
    files = write_rendered(tmp_path, found)
    assert [path.name[:2] for path in files] == ["01", "02", "03"]
    assert {path.parent for path in files} == {tmp_path / H100.id}
    assert [one for path in files for one in read_manifests(path)] == list(found.objects)


def test_a_secret_is_left_to_be_filled_in(tmp_path: Path) -> None:
    files = write_rendered(tmp_path, rendered(environ={"HF_TOKEN": "hf_sesame"}))
    texts = [path.read_text() for path in files]
    assert not any("sesame" in text for text in texts)
    assert "token: '***'" in texts[0]
    assert ["*** stands for a secret" in text for text in texts] == [True, False, False, False]


def test_a_charts_namespace_is_left_to_be_filled_in(tmp_path: Path) -> None:
    found = rendered()
    manifest = {**found.objects[0], "data": {"url": f"http://vllm.{RELEASE_NAMESPACE}.svc/"}}
    (path,) = write_rendered(tmp_path, replace(found, objects=(manifest,)))
    assert f"# {RELEASE_NAMESPACE} stands for the namespace" in path.read_text()


def test_an_earlier_calls_files_go_and_a_persons_stay(tmp_path: Path) -> None:
    write_rendered(tmp_path, rendered(environ={"HF_TOKEN": "hf_sesame"}))
    mine = tmp_path / H100.id / "01-mine.yaml"
    mine.write_text("# mine\n")
    files = write_rendered(tmp_path, rendered())
    assert set((tmp_path / H100.id).iterdir()) == {mine, *files}


def test_a_place_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(ConfigError, match="taken"):
        write_rendered(tmp_path / "taken", rendered())
