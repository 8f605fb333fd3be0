"""What one process of a session owns on a cluster: its Lease, its heartbeat, and the namespace where one is made.

The order is what makes a kill at any moment harmless: the namespace bears its maker's name, the Lease is there and beats before
anything is applied, and goes when all it owns has gone. What a dead process has left, the next session finds (``sweep``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_llmperf.deploy.base import Progress, say_nothing
from pytest_llmperf.deploy.kubernetes.api.kinds import LEASE, NAMESPACE
from pytest_llmperf.deploy.kubernetes.api.refusals import ConflictError, ForbiddenError
from pytest_llmperf.deploy.kubernetes.names import ENDED, KEPT, SESSION, Identity
from pytest_llmperf.deploy.kubernetes.ownership.lease import (
    DURATION_S,
    Heartbeat,
    LeaseSeen,
    here,
    is_alive,
    lease_manifest,
    lease_seen,
    this_process,
)
from pytest_llmperf.deploy.kubernetes.ownership.namespaces import check_exists, made_name, make_namespace, remove_namespace
from pytest_llmperf.deploy.kubernetes.ownership.sweep import sweep
from pytest_llmperf.deploy.kubernetes.ownership.teardown import OURS, UnansweredError, gc_command, remove_process, telling_how
from pytest_llmperf.errors import DeployError

if TYPE_CHECKING:
    from pytest_llmperf.deploy.kubernetes.api.client import KubeApi
    from pytest_llmperf.deploy.kubernetes.settings import KubernetesSettings

SWEEP_S = 30.0
"""How long a session waits for what dead ones have left to go. It goes on going."""


@dataclass(frozen=True)
class Ownership:
    """Where a process deploys, in whose name, and what owns it."""

    namespace: str
    owner: Mapping[str, Any]
    """The ownerReference of everything that is applied."""
    identity: Identity


class KubeSession:
    """One process's part of a session. ``close`` (or ``keep``) ends it; if the process dies first, the next session does."""

    def __init__(self, api: KubeApi, settings: KubernetesSettings, progress: Progress = say_nothing) -> None:
        self._api = api
        self._settings = settings
        self._progress = progress
        self._identity = settings.identity
        self._namespace = settings.namespace or made_name(settings.session)
        self._ownership: Ownership | None = None
        self._heartbeat: Heartbeat | None = None
        self._has_begun = False
        self._is_unanswered = False
        """Whether the last removal ended because nobody answered."""

    def opened(self) -> Ownership:
        """The Lease, made on the first call, and its heartbeat; before it, what dead sessions have left is removed.

        One that somebody took away is made again: what is applied from here on needs an owner. Raises ``ConfigError`` for a
        namespace that does not exist, ``DeployError``; nothing is left then.
        """
        if self.lost() is not None:
            self.close()
        if self._ownership is None:
            try:
                self._ownership = self._open()
            except BaseException as error:
                self._close_after(error)
                raise
        return self._ownership

    def lost(self) -> str | None:
        """Why all that was deployed is gone, or None while the Lease is there."""
        return self._heartbeat.lost if self._heartbeat is not None else None

    def keep(self) -> str:
        """Leave everything as it stands, for somebody to remove: how. Empty where nothing was ever deployed."""
        if self._ownership is None:
            return ""
        try:
            _mark_ended(self._api, self._settings, self._identity.owner)
        finally:
            self._stop()
        self._ownership, self._has_begun = None, False
        return kept_text(self._settings)

    def close(self) -> None:
        """Remove what is left, the Lease, and the namespace that was made; of a worker that is left to ``end_session``.

        Safe to call twice. Raises ``DeployError`` that names what is left.
        """
        has_begun, self._has_begun, self._ownership = self._has_begun, False, None
        if not has_begun:
            return
        with ExitStack() as undo:
            undo.callback(self._stop)
            undo.enter_context(self.removing(f"the session {self._settings.session}"))
            remove_process(
                self._api, self._namespace, self._identity.owner, removal_command(self._settings), before_lease=self._stop
            )
            if self._settings.namespace is None and not self._settings.worker:
                remove_namespace_if_free(self._api, self._settings)

    @contextmanager
    def removing(self, what: str) -> Iterator[None]:
        """Around what removes something of the session.

        Where one before it has waited in vain for an API server, that has to answer at once: else each would wait as long.
        """
        try:
            if self._is_unanswered:
                with telling_how(what, removal_command(self._settings)):
                    type(self._api).connect(self._api.kubeconfig, self._api.named_context).close()
            yield
        except UnansweredError:
            self._is_unanswered = True
            raise
        self._is_unanswered = False

    def _close_after(self, error: BaseException) -> None:
        """Remove what an attempt has made. What cannot be removed is told with why it failed."""
        try:
            self.close()
        except DeployError as left:
            if not isinstance(error, DeployError):
                raise
            raise DeployError(f"{error.what}; then {left.what}", hint=left.hint, state=left.state) from error

    def _open(self) -> Ownership:
        given, holder = self._settings.namespace, this_process()
        if given is not None:
            check_exists(self._api, given)
        self._sweep()
        self._has_begun = True
        if given is None:
            self._progress("making a namespace")
            make_namespace(self._api, self._settings.session, holder)
        keep = self._settings.keep
        lease = self._claimed(lease_manifest(self._identity, self._namespace, holder, self._api.now(), keep=keep))
        self._heartbeat = Heartbeat(self._api, lease)
        return Ownership(self._namespace, lease.reference, self._identity)

    def _claimed(self, manifest: dict[str, Any]) -> LeaseSeen:
        """The Lease, made. One that a dead process of the same name has left goes first, with all it owned."""
        try:
            return lease_seen(self._api.create(manifest))
        except ConflictError:
            found = self._api.get(LEASE, self._identity.owner, self._namespace)
        if found is not None:
            before = lease_seen(found)
            if before.kept or is_alive(before, self._api.now(), here()):
                self._has_begun = False  # what is there is not ours to remove
                what = f"a session {self._settings.session!r} is in the namespace {self._namespace!r} already"
                raise DeployError(what, state=f"its Lease is held by {before.held_by}", hint="Two sessions need two ids.")
            remove_process(self._api, self._namespace, self._identity.owner, removal_command(self._settings), uid=before.uid)
        return lease_seen(self._api.create(manifest))

    def _sweep(self) -> None:
        """What cannot be removed is told, and does not keep this session from its work."""
        self._progress("looking for what dead sessions have left")
        try:
            swept = sweep(self._api, None, timeout_s=SWEEP_S, progress=self._progress)
        except ForbiddenError:
            # Who may not see all namespaces looks after the one that it was given.
            if self._settings.namespace is None:
                return
            swept = sweep(self._api, self._settings.namespace, timeout_s=SWEEP_S, progress=self._progress)
        for text in swept.removed:
            self._progress(f"removed {text}")
        for error in swept.failed:
            self._progress(error.what)

    def _stop(self) -> None:
        heartbeat, self._heartbeat = self._heartbeat, None
        if heartbeat is not None:
            heartbeat.stop()


def end_session(api: KubeApi, settings: KubernetesSettings, worker: str | None = None) -> str:
    """What xdist's controller does: remove what workers have left, and the namespace that was made for all of them.

    To be called when all of them have ended; with ``worker`` when that one has crashed, for its part alone. What is to be kept
    stays: how it is removed, empty where nothing is. Raises ``DeployError`` that names what is left.
    """
    namespace = settings.namespace or made_name(settings.session)
    leases = leases_of(api, namespace, settings.session)
    mine = Identity(settings.session, worker).owner if worker is not None else None
    with ExitStack() as every:
        if settings.namespace is None and worker is None:
            every.callback(remove_namespace_if_free, api, settings)
        ended = [lease for lease in leases if mine in {None, lease.name}]
        for lease in ended:
            if not lease.kept:
                every.callback(remove_process, api, namespace, lease.name, removal_command(settings), uid=lease.uid)
            elif not lease.has_ended:
                every.callback(_mark_ended, api, settings, lease.name)
    return kept_text(settings) if any(lease.kept for lease in ended) else ""


def _mark_ended(api: KubeApi, settings: KubernetesSettings, owner: str) -> None:
    """Say on the Lease of what is kept that its process has ended: whoever asks may remove it. Raises ``DeployError``."""
    namespace = settings.namespace or made_name(settings.session)
    try:
        api.patch(LEASE, owner, namespace, {"metadata": {"labels": {KEPT: ENDED}}})
    except DeployError as error:
        what = f"what stands in the namespace {namespace!r} could not be marked as kept by a session that has ended: {error.what}"
        hint = f"What stands stays; `{removal_command(settings)}` removes it {DURATION_S} s after {owner} was last heard of."
        raise DeployError(what, hint=hint) from None


def kept_text(settings: KubernetesSettings) -> str:
    """Where what a session has kept stands, and how it is removed."""
    namespace = settings.namespace or made_name(settings.session)
    return f"kept in the namespace {namespace}; `{removal_command(settings)}` removes it"


def leases_of(api: KubeApi, namespace: str, session: str) -> tuple[LeaseSeen, ...]:
    """The Leases of a session's processes."""
    return tuple(lease_seen(one) for one in api.list(LEASE, namespace, labels=f"{OURS},{SESSION}={session}"))


def remove_namespace_if_free(api: KubeApi, settings: KubernetesSettings) -> None:
    """Remove the namespace that was made for a session, unless a process of any session still is in there, or what was kept."""
    name = made_name(settings.session)
    with telling_how(f"the namespace {name}", removal_command(settings)):
        if api.get(NAMESPACE, name) is not None and not api.list(LEASE, name, labels=f"{OURS},{SESSION}"):
            remove_namespace(api, name)


def removal_command(settings: KubernetesSettings) -> str:
    """The command that removes what this session has left."""
    namespace = settings.namespace or made_name(settings.session)
    return gc_command(namespace, settings.session, settings.kubeconfig, settings.context)
