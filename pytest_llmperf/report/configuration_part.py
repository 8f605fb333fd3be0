"""How everything was set up -> the document's part."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_llmperf.report.redact import without_secrets
from pytest_llmperf.report.results_v2 import ConfigurationPart
from pytest_llmperf.report.software import package_versions, platform_name

if TYPE_CHECKING:
    from pytest_llmperf.deploy.base import DeploymentInfo
    from pytest_llmperf.report.run_context import RunContext


def configuration_part(info: DeploymentInfo, context: RunContext) -> ConfigurationPart:
    """What the session, the deployment and this machine say of themselves."""
    commit = context.commit
    return ConfigurationPart(
        settings=dict(context.settings),
        environment=dict(context.environment),
        packages=package_versions(),
        client_platform=platform_name(),
        commit=commit.hash if commit is not None else None,
        dirty=commit is not None and commit.dirty,
        engine_version=info.engine_version,
        engine_arguments=without_secrets(info.engine_arguments),
        image=info.image,
        image_digest=info.image_digest,
        gpu=info.gpu,
        driver=info.driver,
        manifests=info.manifests,
    )
