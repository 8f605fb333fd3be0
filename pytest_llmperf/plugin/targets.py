"""From settings to the target that runs the cells."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pytest_llmperf.errors import ConfigError, Where
from pytest_llmperf.plugin.options import DEFAULT_API_KEY_ENV, Settings

if TYPE_CHECKING:
    from pytest_llmperf.deploy.base import Target


READY_S = 600.0
ENDPOINT_READY_S = 30.0
"""A server that already runs answers soon."""


def target_of(settings: Settings) -> Target:
    """The target the settings name; options have checked that it exists. Raises ``ConfigError`` for a token that is not there."""
    if settings.target == "endpoint":
        from pytest_llmperf.deploy.endpoint import EndpointTarget

        return EndpointTarget(
            url=settings.url or "",
            served_model=settings.served_model,
            api_key=_api_key(settings.api_key_env),
            ready_timeout_s=settings.ready_timeout_s or ENDPOINT_READY_S,
        )
    from pytest_llmperf.deploy.sim import SimTarget

    return SimTarget(ready_timeout_s=settings.ready_timeout_s or READY_S, seed=settings.seed)


def _api_key(variable: str) -> str | None:
    """The token; only the variable that nobody named may be unset. Raises ``ConfigError``."""
    key = os.environ.get(variable) or None
    if key is None and variable != DEFAULT_API_KEY_ENV:
        raise ConfigError(f"the environment variable {variable!r} is not set", where=Where(option="--llmperf-api-key-env"))
    return key
