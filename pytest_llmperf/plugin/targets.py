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


def target_of(settings: Settings, ready_paths: tuple[str, ...] = ()) -> Target:
    """The target the settings name, which options have checked. Raises ``ConfigError`` for a secret that is not there.

    ``ready_paths``: where a service that only templates ask must answer to be ready; empty where an OpenAI-compatible one is
    asked. The simulator is always such a one.
    """
    if settings.target == "endpoint":
        from pytest_llmperf.deploy.endpoint import EndpointTarget

        return EndpointTarget(
            url=settings.url or "",
            served_model=settings.served_model,
            api_key=_api_key(settings.api_key_env),
            ready_timeout_s=_ready_timeout_s(settings, ENDPOINT_READY_S),
            headers=_headers(settings),
            ca_file=str(settings.ca_file) if settings.ca_file is not None else None,
            verify=not settings.insecure,
            ready_paths=ready_paths,
        )
    if settings.target == "process":
        from pytest_llmperf.deploy.process import ProcessTarget

        return ProcessTarget(
            command=settings.engine_command,
            ready_timeout_s=_ready_timeout_s(settings, READY_S),
            log_directory=settings.storage / "engines",
            ready_paths=ready_paths,
        )
    from pytest_llmperf.deploy.sim import SimTarget

    return SimTarget(ready_timeout_s=_ready_timeout_s(settings, READY_S), seed=settings.seed)


def _ready_timeout_s(settings: Settings, default_s: float) -> float:
    return settings.ready_timeout_s if settings.ready_timeout_s is not None else default_s


def _api_key(variable: str) -> str | None:
    """The token; only the variable that nobody named may be unset. Raises ``ConfigError``."""
    key = os.environ.get(variable) or None
    if key is None and variable != DEFAULT_API_KEY_ENV:
        raise ConfigError(f"the environment variable {variable!r} is not set", where=Where(option="--llmperf-api-key-env"))
    return key


def _headers(settings: Settings) -> tuple[tuple[str, str], ...]:
    """Name and value of every header. Raises ``ConfigError`` for one whose value is not there."""
    from pytest_llmperf.deploy.headers import read_header

    place = settings.where("header")
    for text in settings.header:
        name, _, source = text.partition("=")
        if source.startswith("env:") and "," in source:
            # What follows the comma is not shown: it may be another header, with its value where that must not stand.
            raise ConfigError(
                f"the header {name!r} names a variable with a comma", where=place, hint="Write the option once for each header."
            )
    return tuple(read_header(text, os.environ, place) for text in settings.header)
