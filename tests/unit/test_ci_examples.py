"""The examples for CI: valid, pinned, and without an option that there is not."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_llmperf.plugin.option_table import OPTIONS
from pytest_llmperf.report.exports import FORMATS
from pytest_llmperf.report.junit import junit_properties
from tests.unit.report.exported import measured

CI = Path(__file__).parents[2] / "docs" / "ci"
EXAMPLES = ("github-actions.yml", "gitlab-ci.yml", "tekton-task.yaml")


def example(name: str) -> dict[Any, Any]:
    document: dict[Any, Any] = yaml.safe_load((CI / name).read_text())
    return document


def scripts(name: str) -> Iterator[str]:
    """What each example runs in a shell."""
    document = example(name)
    if name.startswith("github"):
        yield from (step["run"] for job in document["jobs"].values() for step in job["steps"] if "run" in step)
    elif name.startswith("gitlab"):
        yield from ("\n".join(job.get("script", ())) for job in document.values() if isinstance(job, dict))
    else:
        yield from (step["script"] for step in document["spec"]["steps"])


@pytest.mark.parametrize("path", sorted(CI.iterdir()), ids=lambda path: path.name)
def test_every_option_and_variable_exists(path: Path) -> None:
    text = path.read_text()
    flags = set(re.findall(r"--llmperf-[a-z][a-z-]*", text))
    assert flags
    assert flags <= {option.flag for option in OPTIONS}
    variables = set(re.findall(r"\bLLMPERF_[A-Z_]+", text)) - {"LLMPERF_API_KEY"}
    assert variables <= {option.env for option in OPTIONS}
    assert set(re.findall(r"--llmperf-export=([a-z-]+)=", text)) <= set(FORMATS)


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_script_is_one_that_a_shell_reads(name: str) -> None:
    found = [script for script in scripts(name) if script]
    assert any("pytest" in script for script in found)
    for script in found:
        # What the CI puts in before the shell sees it is a word to the shell.
        plain = re.sub(r"\$\{\{.*?\}\}|\$\([a-zA-Z-]+\.[\w.-]+\)", "WORD", script)
        checked = subprocess.run(["sh", "-n"], input=plain, text=True, capture_output=True, check=False)
        assert checked.returncode == 0, checked.stderr


def test_actions_are_pinned_to_a_version() -> None:
    document = example("github-actions.yml")
    # YAML 1.1 reads the key ``on`` as true.
    assert {"name", True, "jobs", "permissions"} <= set(document)
    used = [step["uses"] for job in document["jobs"].values() for step in job["steps"] if "uses" in step]
    assert used
    assert all(re.fullmatch(r"[\w-]+/[\w/-]+@v\d+\.\d+\.\d+", action) for action in used)


def test_gitlab_jobs_have_a_stage_that_exists_and_keep_what_was_measured() -> None:
    document = example("gitlab-ci.yml")
    base = document[".llm-performance"]
    assert base["stage"] in document["stages"]
    assert base["artifacts"]["when"] == "always"
    jobs = [job for name, job in document.items() if name.startswith("llm-")]
    assert jobs
    for job in jobs:
        assert job["extends"] == ".llm-performance"
        assert job["script"]
        assert f"--junitxml={base['artifacts']['reports']['junit']}" in job["script"][0]
        assert f"openmetrics={base['artifacts']['reports']['metrics']}" in job["script"][0]


def test_the_tekton_task_is_whole() -> None:
    document = example("tekton-task.yaml")
    assert (document["apiVersion"], document["kind"]) == ("tekton.dev/v1", "Task")
    spec = document["spec"]
    assert all(param["type"] == "string" and "default" in param for param in spec["params"])
    text = (CI / "tekton-task.yaml").read_text()
    assert set(re.findall(r"\$\(params\.([\w-]+)\)", text)) == {param["name"] for param in spec["params"]}
    assert set(re.findall(r"\$\(workspaces\.([\w-]+)\.path\)", text)) == {space["name"] for space in spec["workspaces"]}
    assert set(re.findall(r"\$\(results\.([\w-]+)\.path\)", text)) == {result["name"] for result in spec["results"]}
    # What the user gives is a variable of the shell, never a part of its script.
    assert all("$(params." not in step["script"] for step in spec["steps"])


def test_the_page_names_every_property() -> None:
    page = (CI / "README.md").read_text()
    assert all(f"`{name}`" in page for name, _ in junit_properties(measured(), 1))
    assert all(f"`{name}=" in page for name in FORMATS)
    assert all(f"({name})" in page for name in EXAMPLES)
