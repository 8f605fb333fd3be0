"""From settings to the target that runs the cells."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pytest_llmperf.errors import ConfigError, Where
from pytest_llmperf.plugin.option_table import DEFAULT_API_KEY_ENV
from pytest_llmperf.plugin.options import Settings
from pytest_llmperf.secrets import Hidden

if TYPE_CHECKING:
    from pytest_llmperf.deploy.base import Target
    from pytest_llmperf.deploy.kubernetes.names import Identity
    from pytest_llmperf.deploy.kubernetes.settings import KubernetesSettings, RenderSettings


READY_S = 600.0
ENDPOINT_READY_S = 30.0
"""A server that already runs answers soon."""
DEPLOYMENTS = "deployments"
"""Below the storage: logs and events of deployments that failed."""


def target_of(settings: Settings, ready_paths: tuple[str, ...] = (), *, identity: Identity | None = None) -> Target:
    """The target the settings name, which options have checked. Raises ``ConfigError`` for a secret that is not there.

    ``ready_paths``: where a service that only templates ask must answer to be ready; empty where an OpenAI-compatible one is
    asked. The simulator is always such a one. ``identity``: who deploys on a cluster; None makes a new one.
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
    if settings.target == "kubernetes":
        return _kubernetes(settings, ready_paths, identity)
    from pytest_llmperf.deploy.sim import SimTarget

    return SimTarget(ready_timeout_s=_ready_timeout_s(settings, READY_S), seed=settings.seed)


def render_settings(settings: Settings) -> RenderSettings:
    """What the options say of what is applied."""
    from pytest_llmperf.deploy.kubernetes.settings import RenderSettings

    asked = settings.kubernetes
    return RenderSettings(
        manifests=asked.manifests,
        helm_values=asked.helm_values,
        image=asked.image,
        simulator_image=asked.simulator_image,
        model_cache=asked.model_cache,
        hf_secret=asked.hf_secret,
        queue=asked.queue,
    )


def kubernetes_settings(settings: Settings, identity: Identity) -> KubernetesSettings:
    """What the options say of the cluster, and who deploys there."""
    from pytest_llmperf.deploy.kubernetes.settings import KubernetesSettings

    asked = settings.kubernetes
    return KubernetesSettings(
        render=render_settings(settings),
        session=identity.session,
        worker=identity.worker,
        kubeconfig=asked.kubeconfig,
        context=asked.context,
        namespace=asked.namespace,
        reach=asked.reach or "auto",
        url=settings.url,
        keep=asked.keep,
        ready_timeout_s=_ready_timeout_s(settings, KubernetesSettings.ready_timeout_s),
        unschedulable_grace_s=_or(asked.unschedulable_grace_s, KubernetesSettings.unschedulable_grace_s),
        queue_timeout_s=_or(asked.queue_timeout_s, KubernetesSettings.queue_timeout_s),
        log_directory=settings.storage / DEPLOYMENTS,
    )


def _kubernetes(settings: Settings, ready_paths: tuple[str, ...], identity: Identity | None) -> Target:
    from pytest_llmperf.deploy.kubernetes.names import Identity, new_session
    from pytest_llmperf.deploy.kubernetes.target import KubernetesTarget

    return KubernetesTarget(
        settings=kubernetes_settings(settings, identity or Identity(new_session())),
        # The default variable may hold another server's token: it goes only to a server that the user names it for.
        api_key=_api_key(settings.api_key_env) if settings.api_key_env != DEFAULT_API_KEY_ENV else None,
        ca_file=str(settings.ca_file) if settings.ca_file is not None else None,
        verify=not settings.insecure,
        ready_paths=ready_paths,
    )


def _ready_timeout_s(settings: Settings, default_s: float) -> float:
    return _or(settings.ready_timeout_s, default_s)


def _or(given: float | None, default: float) -> float:
    return given if given is not None else default


def _api_key(variable: str) -> Hidden | None:
    """The token; only the variable that nobody named may be unset. Raises ``ConfigError``."""
    key = Hidden(os.environ.get(variable, "")) or None
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
    environ = {name: Hidden(value) for name, value in os.environ.items()}
    return tuple(read_header(text, environ, place) for text in settings.header)
