"""Which CI runs the session."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from pytest_llmperf.report.ci_run import ci_run, links_of

SHA = "0123456789abcdef"
GITHUB = {
    "GITHUB_ACTIONS": "true",
    "GITHUB_SERVER_URL": "https://github.com",
    "GITHUB_REPOSITORY": "acme/llm",
    "GITHUB_RUN_ID": "77",
    "GITHUB_RUN_NUMBER": "5",
    "GITHUB_WORKFLOW": "nightly",
    "GITHUB_SHA": SHA,
}
GITLAB = {
    "GITLAB_CI": "true",
    "CI_PROJECT_URL": "https://gitlab.example/acme/llm",
    "CI_JOB_NAME": "perf",
    "CI_JOB_URL": "https://gitlab.example/acme/llm/-/jobs/9",
    "CI_PIPELINE_IID": "12",
    "CI_COMMIT_SHA": SHA,
}
JENKINS = {"JENKINS_URL": "https://ci/", "JOB_NAME": "perf", "BUILD_NUMBER": "3", "BUILD_URL": "https://ci/job/perf/3/"}
TEKTON = {"TEKTON_TASK_RUN": "perf-x1", "TEKTON_DASHBOARD_URL": "https://tekton/", "TEKTON_NAMESPACE": "llm"}


@pytest.mark.parametrize(
    ("environ", "type_", "name", "url", "order"),
    [
        (GITHUB, "github", "nightly #5", "https://github.com/acme/llm/actions/runs/77", 5),
        (GITLAB, "gitlab", "perf #12", "https://gitlab.example/acme/llm/-/jobs/9", 12),
        (JENKINS, "jenkins", "perf #3", "https://ci/job/perf/3/", 3),
        (TEKTON, "tekton", "perf-x1", "https://tekton/#/namespaces/llm/taskruns/perf-x1", None),
        (TEKTON | {"TEKTON_PIPELINE_RUN": "all"}, "tekton", "all", "https://tekton/#/namespaces/llm/pipelineruns/all", None),
        ({"TEKTON_TASK_RUN": "perf-x1"}, "tekton", "perf-x1", "", None),
        ({"GITHUB_ACTIONS": "true", "GITHUB_RUN_ID": "77"}, "github", "run #77", "", None),
    ],
)
def test_a_ci_is_known_by_its_variables(environ: Mapping[str, str], type_: str, name: str, url: str, order: int | None) -> None:
    run = ci_run(environ)
    assert run is not None
    assert (run.type, run.run_name, run.run_url, run.order) == (type_, name, url, order)


@pytest.mark.parametrize("environ", [{}, {"CI": "true"}, {"GITHUB_ACTIONS": ""}])
def test_elsewhere_there_is_none(environ: Mapping[str, str]) -> None:
    assert ci_run(environ) is None
    assert links_of(None) == ()


def test_links_are_those_that_are_known() -> None:
    assert links_of(ci_run(GITHUB)) == (
        ("GitHub Actions: nightly #5", "https://github.com/acme/llm/actions/runs/77"),
        ("commit 0123456789", f"https://github.com/acme/llm/commit/{SHA}"),
    )
    assert [name for name, _ in links_of(ci_run(GITLAB))] == ["GitLab CI: perf #12", "commit 0123456789"]
    assert links_of(ci_run({"TEKTON_TASK_RUN": "perf-x1"})) == ()
