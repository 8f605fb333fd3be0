"""What is kept of a deployment that failed: its containers' logs, what the cluster said of it, its objects; no secrets."""

from __future__ import annotations

import os
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_llmperf.deploy.kubernetes.api.kinds import (
    CONFIG_MAP,
    DEPLOYMENT,
    EVENT,
    JOB,
    NODE,
    POD,
    PVC,
    REPLICASET,
    SECRET,
    SERVICE,
    STATEFULSET,
    Kind,
    Manifest,
)
from pytest_llmperf.deploy.kubernetes.api.refusals import RefusedError, UnreachableError
from pytest_llmperf.deploy.kubernetes.api.transport import BUSY
from pytest_llmperf.deploy.kubernetes.names import Identity
from pytest_llmperf.deploy.kubernetes.ready.container_log import whole_log
from pytest_llmperf.deploy.kubernetes.ready.pods import Pod, pod_of
from pytest_llmperf.deploy.kubernetes.ready.seen import Event, LogOf, event_of
from pytest_llmperf.deploy.kubernetes.rendering.manifests import dump
from pytest_llmperf.deploy.secrets import LEAST_CHARACTERS, longest_first, masked, secret_values
from pytest_llmperf.errors import DeployError
from pytest_llmperf.experiment.records import Cell
from pytest_llmperf.secrets import Hidden, masked_text

if TYPE_CHECKING:
    from pytest_llmperf.deploy.kubernetes.api.client import KubeApi

MOST_PODS = 16
"""Of how many pods logs are kept."""
DIAGNOSIS, EVENTS, OBJECTS = "diagnosis.txt", "events.txt", "objects.yaml"
_KINDS = (DEPLOYMENT, STATEFULSET, JOB, REPLICASET, POD, PVC, SERVICE, CONFIG_MAP)


def keep_evidence(
    api: KubeApi,
    identity: Identity,
    cell: Cell,
    namespace: str,
    folder: Path,
    diagnosis: str = "",
    events: Sequence[Event] = (),
    kinds: Iterable[Kind] = (),
) -> Path:
    """Write all there is of a cell's deployment below ``folder``, and return where.

    ``events`` are those that were heard of before: of objects that are gone; ``kinds`` are those of what was applied. What cannot
    be read is said where it would be. Raises ``OSError`` where nothing can be written, ``DeployError`` for whatever else goes
    wrong: none of it is to be told in the place of why the deployment failed.
    """
    try:
        return _kept(api, identity, cell, namespace, folder, diagnosis, events, kinds)
    except (DeployError, OSError):
        raise
    except Exception as error:  # noqa: BLE001  (what it says may have a secret of the text that it is about)
        raise DeployError(type(error).__name__) from None


def _kept(
    api: KubeApi,
    identity: Identity,
    cell: Cell,
    namespace: str,
    folder: Path,
    diagnosis: str,
    events: Sequence[Event],
    kinds: Iterable[Kind],
) -> Path:
    place = folder / f"{cell.id}_{datetime.now(UTC):%Y%m%d-%H%M%S-%f}_{os.getpid()}"
    place.mkdir(parents=True)
    troubles: list[str] = []
    objects: list[Manifest] = []
    hide = masking(())
    # A server that is away is waited for once, not with each question.
    with suppress(UnreachableError):
        for found in _objects(api, kinds, identity.selector(cell.id), namespace, troubles):
            objects += found
        pods = [pod_of(one) for one in objects if one["kind"] == POD.kind]
        hide = masking(pods, _secrets(api, identity.selector(cell.id), namespace))
        for pod in _chosen(pods, troubles):
            for name, text in _logs(api, pod, troubles):
                _write(place / name, hide(text))
        with _noting(troubles):
            events = _with_latest(events, [event_of(one) for one in api.list(EVENT, namespace)], objects)
        objects += _nodes(api, pods, troubles)
    _write(place / EVENTS, hide(table(events)))
    _write(place / OBJECTS, hide(dump([_bare(one) for one in objects])))
    _write(place / DIAGNOSIS, hide("\n".join(filter(None, [diagnosis, *(f"not kept: {one}" for one in troubles)])) + "\n"))
    return place


def _write(file: Path, text: str) -> None:
    """Whatever a program has written, and whatever the locale is: half of a surrogate pair stands there as an escape."""
    file.write_text(text, encoding="utf-8", errors="backslashreplace")


def masking(pods: Iterable[Pod], secrets: Iterable[str] = ()) -> Callable[[str], str]:
    """What takes the secrets of these pods' commands and environments, and those given, out of a text."""
    values = [*map(Hidden, secrets)]
    for pod in pods:
        for one in pod.containers:
            values += map(Hidden, secret_values(one.command, dict(one.environment)))
    known = tuple(map(Hidden, longest_first(values, LEAST_CHARACTERS)))

    def hide(text: str) -> str:
        text = Hidden(text)
        return masked(Hidden(masked_text(text)), known)

    return hide


def secrets_in_objects(objects: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """The values of Secrets among the objects."""
    for one in objects:
        if one.get("kind") != SECRET.kind:
            continue
        yield from map(Hidden, (one.get("stringData") or {}).values())
        for value in map(Hidden, (one.get("data") or {}).values()):
            with suppress(ValueError):  # no base64, no text
                yield Hidden(b64decode(value).decode())


def table(events: Iterable[Event]) -> str:
    """Events as a table, the oldest first, as kubectl would show them."""
    rows = [("LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE")]
    for one in sorted(events, key=lambda one: one.last_s):
        times = f" (x{one.count})" if one.count > 1 else ""
        kind = "Warning" if one.is_warning else "Normal"
        at = f"{datetime.fromtimestamp(one.last_s, UTC):%H:%M:%S}"
        rows.append((at, kind, one.reason, f"{one.kind.lower()}/{one.name}", " ".join(one.message.split()) + times))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ("   ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]) for row in rows)
    return "\n".join(lines) + "\n"


@contextmanager
def _noting(troubles: list[str]) -> Iterator[None]:
    """Keeps trouble with the cluster from ending what is being gathered, and notes it. Raises ``UnreachableError``."""
    try:
        yield
    except DeployError as error:
        troubles.append(error.what)
        if isinstance(error, RefusedError) and error.status in BUSY:
            raise UnreachableError(error.what) from None
        if isinstance(error, UnreachableError):
            raise


def _objects(
    api: KubeApi, applied: Iterable[Kind], selector: str, namespace: str, troubles: list[str]
) -> Iterator[list[Manifest]]:
    for kind in dict.fromkeys((*_KINDS, *(one for one in applied if one != SECRET))):
        with _noting(troubles):
            yield api.list(kind, namespace, selector)


def _secrets(api: KubeApi, selector: str, namespace: str) -> list[str]:
    """The values of the cell's Secrets; who may not read them cannot have put them there either."""
    with _noting([]):
        return [*secrets_in_objects(api.list(SECRET, namespace, selector))]
    return []


def _chosen(pods: Sequence[Pod], troubles: list[str]) -> Sequence[Pod]:
    """Those whose logs are kept: of many, the first that are not ready."""
    if (rest := len(pods) - MOST_PODS) > 0:
        troubles.append(f"the logs of {rest} of {len(pods)} pods")
    return sorted(pods, key=lambda pod: pod.is_ready)[:MOST_PODS]


def _logs(api: KubeApi, pod: Pod, troubles: list[str]) -> Iterator[tuple[str, str]]:
    """The files of a pod's logs: name and text."""
    for one in pod.containers:
        for previous in (False, True) if one.restarts else (False,):
            try:
                if text := Hidden(whole_log(api, pod.namespace, LogOf(pod.name, one.name, previous))):
                    yield f"{pod.name}_{one.name}{'_previous' if previous else ''}.log", text
            except DeployError as error:  # a node that is away keeps nobody from what others have
                troubles.append(error.what)


def _with_latest(before: Sequence[Event], now: Iterable[Event], objects: Iterable[Manifest]) -> list[Event]:
    """Events of the cell's objects, and those that were heard of before: each as it is now."""
    names = {(one["kind"], one["metadata"]["name"]) for one in objects}
    known = {(one.kind, one.name, one.reason, one.message): one for one in before}
    known.update({(one.kind, one.name, one.reason, one.message): one for one in now if (one.kind, one.name) in names})
    return list(known.values())


def _nodes(api: KubeApi, pods: Iterable[Pod], troubles: list[str]) -> Iterator[Manifest]:
    """The nodes that the pods are on."""
    for name in sorted({pod.node for pod in pods if pod.node}):
        with _noting(troubles):
            if (node := api.get(NODE, name)) is not None:
                yield node


def _bare(found: Manifest) -> Manifest:
    """Without what only the API server needs."""
    meta = {key: value for key, value in found["metadata"].items() if key != "managedFields"}
    return {**found, "metadata": meta}
