"""Which CI runs the session, told by the variables that the CI sets; and where its pages are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class CiRun:
    """One run of a CI; what it does not tell is empty. ``order`` counts the runs of the same job."""

    type: str
    """As Allure knows it: ``github``, ``gitlab``, ``jenkins``, ``tekton``."""
    name: str
    url: str
    """Of the CI itself."""
    run_name: str
    run_url: str
    order: int | None
    commit: str = ""
    commit_url: str = ""


def ci_run(environ: Mapping[str, str]) -> CiRun | None:
    """The run that these variables tell of; None outside a CI that is known.

    Tekton sets none by itself: a Task passes ``TEKTON_TASK_RUN`` (``$(context.taskRun.name)``), and ``TEKTON_PIPELINE_RUN``,
    ``TEKTON_DASHBOARD_URL`` and ``TEKTON_NAMESPACE`` where they are known.
    """
    for name, read in _READERS.items():
        if environ.get(name):
            return read(environ)
    return None


def links_of(run: CiRun | None) -> tuple[tuple[str, str], ...]:
    """(name, URL) of the run's page and of the commit's, those that are known."""
    if run is None:
        return ()
    links = ((f"{run.name}: {run.run_name}", run.run_url), (f"commit {run.commit[:10]}", run.commit_url))
    return tuple((name, url) for name, url in links if url)


def _github(env: Mapping[str, str]) -> CiRun:
    repository = "/".join(filter(None, (env.get("GITHUB_SERVER_URL", ""), env.get("GITHUB_REPOSITORY", ""))))
    known = repository.startswith("http")
    run, commit = env.get("GITHUB_RUN_ID", ""), env.get("GITHUB_SHA", "")
    return CiRun(
        "github",
        "GitHub Actions",
        f"{repository}/actions" if known else "",
        f"{env.get('GITHUB_WORKFLOW') or 'run'} #{env.get('GITHUB_RUN_NUMBER') or run}",
        f"{repository}/actions/runs/{run}" if known and run else "",
        _whole(env.get("GITHUB_RUN_NUMBER")),
        commit,
        f"{repository}/commit/{commit}" if known and commit else "",
    )


def _gitlab(env: Mapping[str, str]) -> CiRun:
    project, commit = env.get("CI_PROJECT_URL", ""), env.get("CI_COMMIT_SHA", "")
    return CiRun(
        "gitlab",
        "GitLab CI",
        f"{project}/-/pipelines" if project else "",
        f"{env.get('CI_JOB_NAME') or 'pipeline'} #{env.get('CI_PIPELINE_IID', '')}".rstrip(" #"),
        env.get("CI_JOB_URL") or env.get("CI_PIPELINE_URL", ""),
        _whole(env.get("CI_PIPELINE_IID")),
        commit,
        f"{project}/-/commit/{commit}" if project and commit else "",
    )


def _jenkins(env: Mapping[str, str]) -> CiRun:
    name = f"{env.get('JOB_NAME') or 'build'} #{env.get('BUILD_NUMBER', '')}".rstrip(" #")
    commit = env.get("GIT_COMMIT", "")
    return CiRun(
        "jenkins", "Jenkins", env["JENKINS_URL"], name, env.get("BUILD_URL", ""), _whole(env.get("BUILD_NUMBER")), commit
    )


def _tekton(env: Mapping[str, str]) -> CiRun:
    dashboard, space = env.get("TEKTON_DASHBOARD_URL", "").rstrip("/"), env.get("TEKTON_NAMESPACE", "")
    task, pipeline = env["TEKTON_TASK_RUN"], env.get("TEKTON_PIPELINE_RUN", "")
    kind, name = ("pipelineruns", pipeline) if pipeline else ("taskruns", task)
    run_url = f"{dashboard}/#/namespaces/{space}/{kind}/{name}" if dashboard and space else ""
    return CiRun("tekton", "Tekton", dashboard, name, run_url, None)


_READERS = {"GITHUB_ACTIONS": _github, "GITLAB_CI": _gitlab, "JENKINS_URL": _jenkins, "TEKTON_TASK_RUN": _tekton}


def _whole(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None
