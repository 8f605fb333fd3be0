"""What of a session on Kubernetes belongs to all of its processes: its id, what xdist's crashed workers left, its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llmperf.errors import LlmperfError
from pytest_llmperf.plugin.options import Settings, settings_of

if TYPE_CHECKING:
    from pytest_llmperf.deploy.kubernetes.names import Identity

SESSION_ID = "llmperf_session"
"""In a worker's input: the session's id, which the controller has made."""
BEGUN, KEPT, LEFT = "llmperf_begun", "llmperf_kept", "llmperf_left"
"""In a worker's output: whether it deployed anything, what it left standing as it was asked to, what it could not remove."""
_WORKER = "workerid"
_IDENTITY = pytest.StashKey["Identity"]()
_MAY_HAVE_BEGUN = pytest.StashKey[set[str]]()
_TOLD = pytest.StashKey[dict[str, list[str]]]()


def identity_of(config: pytest.Config, settings: Settings) -> Identity | None:
    """Who this process is to the cluster: the same session in all workers. None for another target."""
    if settings.target != "kubernetes":
        return None
    if _IDENTITY not in config.stash:
        from pytest_llmperf.deploy.kubernetes.names import Identity, new_session

        given = getattr(config, "workerinput", {})
        config.stash[_IDENTITY] = Identity(given.get(SESSION_ID) or new_session(), given.get(_WORKER, ""))
    return config.stash[_IDENTITY]


def tell_worker(node: Any) -> None:
    """In the controller: give a worker the session's id."""
    identity = identity_of(node.config, settings_of(node.config))
    node.workerinput[SESSION_ID] = identity.session if identity is not None else None
    if identity is not None:
        node.config.stash.setdefault(_MAY_HAVE_BEGUN, set()).add(node.workerinput[_WORKER])


def tell_begun(config: pytest.Config, begun: bool) -> None:
    """In a worker that ends: whether it deployed anything."""
    config.workeroutput[BEGUN] = begun  # type: ignore[attr-defined]


def tell(config: pytest.Config, what: str, text: str) -> None:
    """Remember what was ``KEPT`` or ``LEFT`` for the session's end; a worker leaves it where the controller finds it."""
    if not text:
        return
    if hasattr(config, "workerinput"):
        config.workeroutput[what] = text  # type: ignore[attr-defined]
        return
    told = config.stash.setdefault(_TOLD, {}).setdefault(what, [])
    if text not in told:
        told.append(text)


def told(config: pytest.Config, what: str) -> Sequence[str]:
    """What was ``KEPT`` or ``LEFT``, by any process of the session."""
    return config.stash.get(_TOLD, {}).get(what, ())


def hear_worker(node: Any, error: object) -> None:
    """In the controller: a worker has ended. What one that crashed had deployed is removed, or told where it is to be kept."""
    config = node.config
    if settings_of(config).target != "kubernetes":
        return
    output = getattr(node, "workeroutput", {})
    if output.get(BEGUN) is False:
        config.stash[_MAY_HAVE_BEGUN].discard(node.workerinput[_WORKER])
    for what in (KEPT, LEFT):
        tell(config, what, output.get(what, ""))
    if error is not None:
        try:
            _end(config, node.workerinput[_WORKER])
        except LlmperfError as trouble:
            tell(config, LEFT, str(trouble))


def end_session(config: pytest.Config) -> None:
    """In the controller, its workers gone: see that nothing of the session is left. Raises ``LlmperfError``."""
    # One that crashed or was cut off has said nothing: only where all have said that they deployed nothing is nothing there.
    if config.stash.get(_MAY_HAVE_BEGUN, None):
        _end(config, None)


def _end(config: pytest.Config, worker: str | None) -> None:
    from pytest_llmperf.deploy.kubernetes.api.client import KubeApi
    from pytest_llmperf.deploy.kubernetes.ownership.session import end_session, removal_command
    from pytest_llmperf.deploy.kubernetes.ownership.teardown import telling_how
    from pytest_llmperf.plugin.targets import kubernetes_settings

    settings = settings_of(config)
    identity = identity_of(config, settings)
    assert identity is not None
    known = kubernetes_settings(settings, identity)
    with (
        telling_how(f"the session {known.session}", removal_command(known)),
        KubeApi.connect(known.kubeconfig, known.context) as api,
    ):
        tell(config, KEPT, end_session(api, known, worker))
