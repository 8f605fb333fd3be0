"""What sessions have left on a cluster: found by our labels, told apart into alive, kept and dead, and the dead's removed.

Read in an order that makes no living session look dead: a session's Lease is there before its objects and goes after them, so the
Leases are read last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from time import sleep
from typing import TYPE_CHECKING, Literal

from pytest_llmperf.deploy.base import Progress, say_nothing
from pytest_llmperf.deploy.kubernetes.api.kinds import LEASE, NAMESPACE, Kind
from pytest_llmperf.deploy.kubernetes.api.refusals import ForbiddenError, NotFoundError
from pytest_llmperf.deploy.kubernetes.names import OWNER, SESSION
from pytest_llmperf.deploy.kubernetes.ownership.lease import BEAT_S, DURATION_S, Here, LeaseSeen, here, is_alive, lease_seen
from pytest_llmperf.deploy.kubernetes.ownership.namespaces import (
    MadeNamespace,
    delete_namespace,
    made_namespace,
    remove_namespace,
)
from pytest_llmperf.deploy.kubernetes.ownership.teardown import (
    APPLIED,
    OURS,
    REMOVAL_S,
    begin_removal,
    gc_command,
    remove_owned,
    remove_process,
)
from pytest_llmperf.errors import DeployError

if TYPE_CHECKING:
    from pytest_llmperf.deploy.kubernetes.api.client import KubeApi, Manifests

State = Literal["alive", "kept", "dead"]
SIGN_OF_LIFE_S = 2 * BEAT_S
"""Time for one more heartbeat of who only is silent: an API server that was away was so for them too."""
LONGEST_AWAY_S = 3600.0
"""An API server is not away for longer. Who was silent for so long is not waited for."""


@dataclass(frozen=True)
class Process:
    """A session's process, as its Lease tells."""

    lease: LeaseSeen
    state: State
    silent_s: float
    """Since its last heartbeat."""
    may_return: bool = False
    """Whether nothing but that says that it is dead, and may be the API server's doing."""

    def __str__(self) -> str:
        return f"what {self.lease.owner} left in the namespace {self.lease.namespace} ({self.lease.held_by})"


@dataclass(frozen=True)
class Orphans:
    """Objects whose Lease is gone."""

    namespace: str
    owner: str
    session: str
    count: int

    def __str__(self) -> str:
        objects = "object" if self.count == 1 else "objects"
        return f"{self.count} {objects} of {self.owner} in the namespace {self.namespace}, without a Lease"


@dataclass(frozen=True)
class Survey:
    """What there is of sessions on a cluster, or in one of its namespaces."""

    processes: tuple[Process, ...] = ()
    orphans: tuple[Orphans, ...] = ()
    namespaces: tuple[MadeNamespace, ...] = ()
    """Those made for sessions; which of them may go is for ``to_remove`` to say."""

    @property
    def sessions(self) -> frozenset[str]:
        """The ids of all sessions of which there is anything."""
        return frozenset(
            [
                *(one.lease.session for one in self.processes),
                *(one.session for one in self.orphans),
                *(one.session for one in self.namespaces),
            ]
        )

    def of(self, state: State) -> tuple[LeaseSeen, ...]:
        """The Leases in a state."""
        return tuple(one.lease for one in self.processes if one.state == state)


@dataclass(frozen=True)
class Swept:
    """What a sweep did."""

    removed: tuple[str, ...]
    alive: tuple[LeaseSeen, ...]
    kept: tuple[LeaseSeen, ...]
    failed: tuple[DeployError, ...]


def sweep(
    api: KubeApi,
    namespace: str | None,
    *,
    session: str | None = None,
    kept: bool = False,
    timeout_s: float = REMOVAL_S,
    progress: Progress = say_nothing,
) -> Swept:
    """Remove what dead sessions have left in a namespace, or in all of them. Raises ``DeployError`` where nobody can look.

    ``session``: only that one, also where it was kept; ``kept``: also all that were kept. What is alive is never touched.
    """
    found = survey(api, namespace, with_orphans=False)
    chosen = to_remove(found, session=session, kept=kept)
    removed, failed = remove(api, chosen, timeout_s, progress)
    return Swept(removed, found.of("alive"), found.of("kept"), failed)


def survey(api: KubeApi, namespace: str | None, *, with_orphans: bool = True, at: Here | None = None) -> Survey:
    """What there is, in a namespace or in all. Raises ``ForbiddenError`` where the Leases may not be listed."""
    owned = _owned(api, namespace) if with_orphans else {}
    namespaces = _made_namespaces(api, namespace)
    leases = [lease_seen(one) for one in api.list(LEASE, namespace, labels=f"{OURS},{SESSION}")]
    now_s, place = api.now(), at or here()
    known = {(lease.namespace, lease.owner) for lease in leases}
    with_lease = {(lease.namespace, lease.session) for lease in leases}
    return Survey(
        processes=tuple(_process(lease, now_s, place) for lease in leases),
        orphans=tuple(one for key, one in owned.items() if key not in known),
        # One whose maker has not come as far as its Lease is no less its maker's.
        namespaces=tuple(
            one for one in namespaces if (one.name, one.session) in with_lease or not _is_being_begun(one, now_s, place)
        ),
    )


def to_remove(found: Survey, *, session: str | None = None, kept: bool = False) -> Survey:
    """Of what was found, that which is to go."""

    def is_asked(one_session: str) -> bool:
        return session is None or one_session == session

    def goes(one: Process) -> bool:
        return is_asked(one.lease.session) and (one.state == "dead" or (one.state == "kept" and (kept or session is not None)))

    # A session may have been given the namespace that was made for another.
    stays = {one.lease.namespace for one in found.processes if not goes(one)}
    return Survey(
        processes=tuple(one for one in found.processes if goes(one)),
        orphans=tuple(one for one in found.orphans if is_asked(one.session)),
        namespaces=tuple(one for one in found.namespaces if is_asked(one.session) and one.name not in stays),
    )


def remove(
    api: KubeApi, chosen: Survey, timeout_s: float = REMOVAL_S, progress: Progress = say_nothing
) -> tuple[tuple[str, ...], tuple[DeployError, ...]]:
    """Remove it: what was removed, and what could not be. Trouble with one does not keep the others."""
    removed: list[str] = []
    failed: list[DeployError] = []
    if any(one.may_return for one in chosen.processes):
        progress(f"waiting {SIGN_OF_LIFE_S:.0f} s for a sign of life of sessions that run elsewhere, and are silent")
        sleep(SIGN_OF_LIFE_S)
    for what, action in _actions(api, chosen, timeout_s):
        if what:
            progress(f"removing {what}")
        try:
            if action():
                removed.append(what)
        except DeployError as error:
            failed.append(error)
    return tuple(removed), tuple(failed)


def _actions(api: KubeApi, chosen: Survey, timeout_s: float) -> Iterator[tuple[str, Callable[[], bool]]]:
    """What is done, one after another: all is told to go before the first is waited for, and the namespaces go last."""
    for process in chosen.processes:
        yield "", partial(_begin_process_removal, api, process.lease)
    for process in chosen.processes:
        yield str(process), partial(_remove_process, api, process.lease, timeout_s)
    for orphans in chosen.orphans:
        yield str(orphans), partial(_remove_orphans, api, orphans, timeout_s)
    for one in chosen.namespaces:
        yield "", partial(_begin_namespace_removal, api, one)
    for one in chosen.namespaces:
        yield f"the namespace {one.name}", partial(_end_namespace_removal, api, one.name, timeout_s)


def _begin_process_removal(api: KubeApi, lease: LeaseSeen) -> bool:
    if _is_as_it_was(api, lease):
        begin_removal(api, lease.namespace, lease.name)
    return False


def _remove_process(api: KubeApi, lease: LeaseSeen, timeout_s: float) -> bool:
    if not _is_as_it_was(api, lease):
        return False
    again = gc_command(lease.namespace, lease.session, api.kubeconfig, api.named_context)
    before_lease = partial(_check_dead, api, lease)
    remove_process(api, lease.namespace, lease.name, again, timeout_s=timeout_s, before_lease=before_lease, uid=lease.uid)
    return True


def _check_dead(api: KubeApi, lease: LeaseSeen) -> None:
    if not _is_as_it_was(api, lease):
        raise DeployError(f"{lease.owner} in the namespace {lease.namespace} lives again ({lease.held_by}): its Lease stays")


def _is_as_it_was(api: KubeApi, lease: LeaseSeen) -> bool:
    """Whether nobody has come back to it: it may beat again (a machine that had slept), or another may have its name."""
    found = api.get(LEASE, lease.name, lease.namespace)
    return found is None or lease_seen(found) == lease


def _remove_orphans(api: KubeApi, orphans: Orphans, timeout_s: float) -> bool:
    if api.get(LEASE, orphans.owner, orphans.namespace) is not None:
        return False  # it has one again
    again = gc_command(orphans.namespace, orphans.session, api.kubeconfig, api.named_context)
    remove_owned(api, orphans.namespace, f"{OWNER}={orphans.owner}", orphans.owner, again, timeout_s)
    return True


def _begin_namespace_removal(api: KubeApi, one: MadeNamespace) -> bool:
    if not api.list(LEASE, one.name, labels=f"{OURS},{SESSION}"):
        delete_namespace(api, one.name)
    return False


def _end_namespace_removal(api: KubeApi, name: str, timeout_s: float) -> bool:
    found = api.get(NAMESPACE, name)
    if found is not None and found["metadata"].get("deletionTimestamp") is None:
        return False  # something in it could not be removed, which has been told, or somebody has come back to it
    remove_namespace(api, name, timeout_s)
    return True


def _process(lease: LeaseSeen, now_s: float, at: Here) -> Process:
    state: State = "alive" if is_alive(lease, now_s, at) else "kept" if lease.kept else "dead"
    silent_s = max(0.0, now_s - (lease.renewed_s or 0.0))
    is_silent = state != "alive" and not lease.has_ended and at.knows(lease.holder) is None
    may_return = is_silent and silent_s < LONGEST_AWAY_S
    return Process(lease, state, silent_s, may_return)


def _is_being_begun(one: MadeNamespace, now_s: float, at: Here) -> bool:
    """Whether the process that made a namespace may still be about to make its Lease."""
    known = at.knows(one.holder)
    return known if known is not None else now_s < one.made_s + DURATION_S


def _made_namespaces(api: KubeApi, namespace: str | None) -> tuple[MadeNamespace, ...]:
    """Those made for sessions; none where the caller may not look at namespaces."""
    try:
        if namespace is None:
            found = api.list(NAMESPACE, labels=f"{OURS},{SESSION}")
        else:
            found = [one for one in [api.get(NAMESPACE, namespace)] if one is not None]
    except ForbiddenError:
        return ()
    return tuple(made for made in map(made_namespace, found) if made is not None)


def _owned(api: KubeApi, namespace: str | None) -> dict[tuple[str, str], Orphans]:
    """What bears our labels, by the namespace and the name of the Lease that it should have."""
    owned: dict[tuple[str, str], Orphans] = {}
    for kind in APPLIED:
        for one in _listed(api, kind, namespace):
            metadata = one["metadata"]
            key = (metadata["namespace"], metadata["labels"][OWNER])
            before = owned.get(key) or Orphans(*key, metadata["labels"].get(SESSION, ""), 0)
            owned[key] = replace(before, count=before.count + 1)
    return owned


def _listed(api: KubeApi, kind: Kind, namespace: str | None) -> Manifests:
    try:
        return api.list(kind, namespace, labels=f"{OURS},{OWNER}")
    except (NotFoundError, ForbiddenError):
        return []  # the cluster does not know the kind, or somebody else has to look after it
