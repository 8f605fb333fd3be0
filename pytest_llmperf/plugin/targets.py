"""From settings to the target that runs the cells."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pytest_llmperf.plugin.options import Settings

if TYPE_CHECKING:
    from pytest_llmperf.deploy.base import Target


def target_of(settings: Settings) -> Target:
    """The target the settings name; options have checked that it exists."""
    if settings.target == "endpoint":
        from pytest_llmperf.deploy.endpoint import EndpointTarget

        return EndpointTarget(
            url=settings.url or "",
            served_model=settings.served_model,
            api_key=os.environ.get(settings.api_key_env) or None,
            ready_timeout_s=settings.ready_timeout_s,
        )
    from pytest_llmperf.deploy.sim import SimTarget

    return SimTarget(ready_timeout_s=settings.ready_timeout_s, seed=settings.seed)
