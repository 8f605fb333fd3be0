"""The namespace of a session: one that exists, or one that is made for it and goes with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from pytest_llmperf.deploy.kubernetes.api.kinds import (
    CRON_JOB,
    DAEMONSET,
    DEPLOYMENT,
    JOB,
    NAMESPACE,
    POD,
    PVC,
    SERVICE,
    SERVICE_ACCOUNT,
    STATEFULSET,
    Kind,
    Manifest,
)
from pytest_llmperf.deploy.kubernetes.api.refusals import ConflictError, ForbiddenError, NotFoundError
from pytest_llmperf.deploy.kubernetes.names import MANAGED_BY, MANAGER, SESSION
from pytest_llmperf.deploy.kubernetes.ownership.lease import Holder
from pytest_llmperf.deploy.kubernetes.ready.pods import epoch_s
from pytest_llmperf.errors import ConfigError, DeployError, Where, nearest

if TYPE_CHECKING:
    from pytest_llmperf.deploy.kubernetes.api.client import KubeApi

HOLDER = "llmperf.dev/holder"
"""The annotation of a namespace that says which process made it: its Lease comes a moment later."""
MAKE_S = 60.0
REMOVE_S = 120.0
"""A namespace's end takes five seconds at least: the cluster waits that long before it looks what is in it."""
_OPTION = Where(option="--llmperf-namespace")
_POLL_S = 0.5
_SHOWN = 5
USED_BY_OTHERS = (DEPLOYMENT, STATEFULSET, DAEMONSET, JOB, CRON_JOB, POD, PVC, SERVICE)
"""What tells that others use a namespace. Secrets and ConfigMaps are put into each by many a cluster itself."""


@dataclass(frozen=True)
class MadeNamespace:
    """A namespace that was made for a session."""

    name: str
    uid: str
    session: str
    holder: Holder | None
    made_s: float
    """Seconds since the epoch, by the API server's clock."""


def made_name(session: str) -> str:
    """What the namespace is called that is made for a session."""
    return f"llmperf-{session}"


def made_namespace(manifest: Manifest) -> MadeNamespace | None:
    """A namespace as a record; None for one that no session has made."""
    metadata = manifest["metadata"]
    labels = metadata.get("labels") or {}
    session = labels.get(SESSION, "")
    if labels.get(MANAGED_BY) != MANAGER or metadata["name"] != made_name(session):
        return None
    annotations = metadata.get("annotations") or {}
    made_s = epoch_s(metadata.get("creationTimestamp")) or 0.0
    return MadeNamespace(metadata["name"], metadata["uid"], session, Holder.parsed(annotations.get(HOLDER, "")), made_s)


def check_exists(api: KubeApi, name: str) -> None:
    """Raises ``ConfigError`` for a namespace that does not exist, with the nearest one's name, or that is being deleted."""
    try:
        found = api.get(NAMESPACE, name)
    except ForbiddenError:
        return  # who may use one namespace need not see which there are; whether it exists is told by what is made in it
    if found is None:
        raise ConfigError(f"there is no namespace {name!r} on {api.context}", where=_OPTION, hint=_instead(api, name))
    if _is_ending(found):
        raise ConfigError(
            f"the namespace {name!r} is being deleted", where=_OPTION, hint="Wait until it is gone, or name another."
        )


def make_namespace(api: KubeApi, session: str, holder: Holder) -> str:
    """The session's namespace, made where no other process of the session has made it, and ready to take pods.

    Raises ``DeployError``, also where somebody else has one of this name.
    """
    name, give_up = made_name(session), monotonic() + MAKE_S
    while not _is_made(api, name, session, holder):
        if monotonic() > give_up:
            hint = f"`kubectl get namespace {name} --output=yaml` says what keeps it; another session has another name."
            raise DeployError(f"a namespace {name!r} of before is being deleted, and does not go", hint=hint)
        await_namespace_gone(api, name, max(0.0, give_up - monotonic()))
    _await_account(api, name, max(1.0, give_up - monotonic()))
    return name


def remove_namespace(api: KubeApi, name: str, timeout_s: float = REMOVE_S) -> None:
    """Delete a namespace that was made, and see that it is gone. Raises ``DeployError`` that says what keeps it."""
    if not delete_namespace(api, name):
        return
    left = await_namespace_gone(api, name, timeout_s)
    if left is not None:
        raise DeployError(
            f"the namespace {name!r} does not go",
            state="; ".join(_obstacles(left)) or f"its phase is {(left.get('status') or {}).get('phase', 'unknown')}",
            hint=f"The cluster goes on with it. `kubectl get namespace {name} --output=yaml` says what keeps it.",
        )


def delete_namespace(api: KubeApi, name: str) -> bool:
    """Have it deleted; False where there is none that any session has made.

    Raises ``DeployError`` where others use it too, or where nobody can say whether they do.
    """
    found = api.get(NAMESPACE, name)
    if found is None or made_namespace(found) is None:
        return False
    if not _is_ending(found):
        if others := _of_others(api, name):
            what = f"the namespace {name!r} stays: what is not of a session is in it: {', '.join(others)}"
            raise DeployError(what, hint=f"`kubectl delete namespace {name}` removes it with all that.")
        api.delete(NAMESPACE, name, uid=found["metadata"]["uid"])
    return True


def await_namespace_gone(api: KubeApi, name: str, timeout_s: float) -> Manifest | None:
    """Wait until it is gone; what it is like where it is not."""
    give_up = monotonic() + timeout_s
    with _changes(api, NAMESPACE, None, name) as changed:
        while (found := api.get(NAMESPACE, name)) is not None and monotonic() < give_up:
            changed(give_up - monotonic())
    return found


def _of_others(api: KubeApi, name: str) -> list[str]:
    """What in a namespace no session has put there: what nothing else has made, and each pod, whatever made that.

    A pod may be all that is seen of a workload of a kind of the cluster's own. Those of sessions bear their label. Raises
    ``ForbiddenError`` where this cannot be seen.
    """
    found = []
    for kind in USED_BY_OTHERS:
        try:
            there = api.list(kind, name, labels=f"{MANAGED_BY}!={MANAGER}")
        except NotFoundError:
            continue  # the cluster does not know the kind
        except ForbiddenError as error:
            what = f"the namespace {name!r} stays: nobody can say whether others use it: {error.what}"
            removed = f"`kubectl delete namespace {name}` removes it with all that is in it."
            raise ForbiddenError(what, hint=" ".join(filter(None, [error.hint, removed]))) from None
        metadata = [one["metadata"] for one in there]
        found += [f"{kind.kind} {one['name']}" for one in metadata if kind == POD or not one.get("ownerReferences")]
    return found[:_SHOWN]


def _is_made(api: KubeApi, name: str, session: str, holder: Holder) -> bool:
    """Make it; False where one of before is still there, which is going."""
    labels = {MANAGED_BY: MANAGER, SESSION: session}
    metadata = {"name": name, "labels": labels, "annotations": {HOLDER: str(holder)}}
    try:
        api.create({"apiVersion": NAMESPACE.api_version, "kind": NAMESPACE.kind, "metadata": metadata})
    except ConflictError:
        found = api.get(NAMESPACE, name)
        if found is None or _is_ending(found):
            return False
        if made_namespace(found) is None:
            raise DeployError(f"there is a namespace {name!r} that is not this session's") from None
    except ForbiddenError as error:
        hint = "Name one that exists, in which you may deploy: --llmperf-namespace=NAME."
        raise ForbiddenError(f"no namespace can be made for the session: {error.what}", hint=hint) from None
    return True


def _await_account(api: KubeApi, namespace: str, timeout_s: float) -> None:
    """Until the namespace's default service account is there: a pod that comes earlier is refused."""
    give_up = monotonic() + timeout_s
    try:
        with _changes(api, SERVICE_ACCOUNT, namespace, "default") as changed:
            while api.get(SERVICE_ACCOUNT, "default", namespace) is None:
                if monotonic() > give_up:
                    hint = "The cluster's controller manager makes it: is it well?"
                    raise DeployError(f"the namespace {namespace!r} gets no default service account", hint=hint)
                changed(give_up - monotonic())
    except ForbiddenError:
        return  # who may not look has to rely on the workloads' controllers: they try again


@contextmanager
def _changes(api: KubeApi, kind: Kind, namespace: str | None, name: str) -> Iterator[Any]:
    """Something to call that returns when an object has changed, or after the seconds it is given."""
    from pytest_llmperf.deploy.kubernetes.api.watch import Watched, watching

    with watching(api, [Watched(kind, namespace, fields=f"metadata.name={name}")]) as watch:

        def changed(seconds: float) -> None:
            try:
                watch.next(max(0.0, seconds))
            except ForbiddenError:
                sleep(min(_POLL_S, max(0.0, seconds)))  # one who may look at it need not be one who may watch

        yield changed


def _instead(api: KubeApi, name: str) -> str:
    """What to do about a namespace that does not exist."""
    made = f"Create it (`kubectl create namespace {name}`), or leave the option out: one is made for the session."
    return f"{meant} {made}" if (meant := did_you_mean(api, name)) else made


def did_you_mean(api: KubeApi, name: str) -> str:
    """A question for the namespace whose name is nearest; empty where none is, or where they may not be listed."""
    try:
        close = nearest(name, [one["metadata"]["name"] for one in api.list(NAMESPACE)])
    except ForbiddenError:
        return ""
    return f"Did you mean {close!r}?" if close is not None else ""


def _is_ending(found: Mapping[str, Any]) -> bool:
    return found["metadata"].get("deletionTimestamp") is not None


def _obstacles(found: Mapping[str, Any]) -> Iterator[str]:
    """What the cluster says of what keeps a namespace."""
    for condition in (found.get("status") or {}).get("conditions") or ():
        if condition.get("status") == "True" and condition.get("message"):
            yield condition["message"]
