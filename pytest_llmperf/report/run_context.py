"""What of a run's configuration only its session knows: settings, environment, the state of the source code."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_llmperf.deploy.secrets import masked, secret_values
from pytest_llmperf.report.redact import without_secrets
from pytest_llmperf.secrets import is_secret, masked_text

if TYPE_CHECKING:
    from pytest_llmperf.report.commit import Commit

VARIABLES = (
    "CI",
    "GITHUB_REPOSITORY",
    "GITHUB_WORKFLOW",
    "GITHUB_JOB",
    "GITHUB_RUN_ID",
    "GITHUB_RUN_NUMBER",
    "GITHUB_RUN_ATTEMPT",
    "GITHUB_REF",
    "GITHUB_SHA",
    "RUNNER_NAME",
    "CI_PROJECT_PATH",
    "CI_PIPELINE_ID",
    "CI_JOB_ID",
    "CI_JOB_NAME",
    "CI_COMMIT_REF_NAME",
    "CI_COMMIT_SHA",
    "CI_RUNNER_ID",
    "JOB_NAME",
    "BUILD_NUMBER",
    "GIT_BRANCH",
    "GIT_COMMIT",
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
    "PYTHONHASHSEED",
)
"""The variables of the client's environment that documents keep: which CI run it was, and what changes how engines run.

Those whose names begin with one of ``PREFIXES`` are kept too, but for secrets. Everything else is nobody's business.
"""
PREFIXES = ("VLLM_", "LLMPERF_")


@dataclass(frozen=True)
class RunContext:
    """What a session knows of each of its runs. ``settings`` and ``environment`` hold no secret."""

    settings: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    commit: Commit | None = None


NO_SESSION = RunContext()
"""Of a run that no session made."""


def kept_environment(environ: Mapping[str, str], secret_variables: Collection[str] = ()) -> dict[str, str]:
    """The variables that a document keeps, in order of their names.

    ``secret_variables`` hold a secret by what they are used for, whatever their names say. None that holds one is kept, and a
    secret of any other variable reads ``***`` where a value repeats it.
    """
    hidden = {name: value for name, value in environ.items() if name in secret_variables or is_secret(name)}
    secrets = secret_values((), {f"{name}_token": value for name, value in hidden.items()})
    names = sorted(name for name in environ if name not in hidden and (name in VARIABLES or name.startswith(PREFIXES)))
    return {name: masked(_shown(environ[name]), secrets) for name in names}


def kept_settings(given: Mapping[str, str]) -> dict[str, str]:
    """Settings by name as they were written, without secrets.

    Of ``header`` nothing is hidden: it names where a value comes from and never holds one.
    """
    return {name: printable(text) if name == "header" else _shown(text) for name, text in given.items()}


def _shown(text: str) -> str:
    return printable(masked_text(without_secrets((text,))[0]))


def printable(text: str) -> str:
    """A text of the operating system, which may hold bytes that are no UTF-8: no document could be written with them."""
    return text.encode(errors="backslashreplace").decode()
