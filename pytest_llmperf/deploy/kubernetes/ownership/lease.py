"""The Lease that owns all a process puts on a cluster: its heartbeat says whether the process lives, and who need not be asked.

On the machine (and in the container) where it was made, the process itself tells; elsewhere a Lease that was not renewed for
``DURATION_S``, by the API server's clock, is a dead one's.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_llmperf.deploy.base import say_nothing
from pytest_llmperf.deploy.kubernetes.api.kinds import LEASE, Manifest
from pytest_llmperf.deploy.kubernetes.api.refusals import NotFoundError
from pytest_llmperf.deploy.kubernetes.names import ENDED, KEPT, OWNER, SESSION, WHEN_ENDED, Identity
from pytest_llmperf.deploy.kubernetes.ready.pods import epoch_s
from pytest_llmperf.errors import DeployError
from pytest_llmperf.secrets import masked_text

if TYPE_CHECKING:
    from pytest_llmperf.deploy.kubernetes.api.client import KubeApi

BEAT_S = 10.0
DURATION_S = 90
"""Nine beats: longer than an API server takes to restart and a network to come back."""
STOP_S = 5.0
_PROC = Path("/proc")
_STATE, _START = 0, 19
"""Fields of ``/proc/PID/stat``, counted from the one after the program's name."""


@dataclass(frozen=True)
class Holder:
    """Who holds a Lease: one process, never its successor under the same id."""

    host: str
    pid: int
    start: int
    """When it started, in the kernel's ticks since the boot."""
    place: str
    """The boot and the PID namespace in which ``pid`` and ``start`` mean something; empty where that is not known."""

    def __str__(self) -> str:
        return f"{self.host}/{self.pid}/{self.start}/{self.place}"

    @classmethod
    def parsed(cls, text: str) -> Holder | None:
        """The holder that ``HOST/PID/START/PLACE`` names; None for the identity of something else."""
        parts = text.split("/")
        if len(parts) != 4 or not (parts[1].isdecimal() and parts[2].isdecimal()):
            return None
        return cls(parts[0], int(parts[1]), int(parts[2]), parts[3])


@dataclass(frozen=True)
class Here:
    """What can be known about processes without the cluster."""

    host: str
    place: str
    lives: Callable[[int, int], bool | None]
    """Whether the process with this id and start lives; None where that cannot be seen."""

    def knows(self, holder: Holder | None) -> bool | None:
        """Whether the holder lives; None where it is somewhere else."""
        if holder is None or not holder.place or (holder.host, holder.place) != (self.host, self.place):
            return None
        return self.lives(holder.pid, holder.start)


def here() -> Here:
    """This machine, or this container of it."""
    return Here(socket.gethostname(), _place(), _lives)


def this_process() -> Holder:
    """The process that asks, as a holder."""
    stat = _stat(os.getpid())
    return Holder(socket.gethostname(), os.getpid(), int(stat[_START]) if stat else 0, _place())


@dataclass(frozen=True)
class LeaseSeen:
    """A session's Lease as the cluster has it."""

    name: str
    namespace: str
    uid: str
    session: str
    owner: str
    holder: Holder | None
    renewed_s: float | None
    """Seconds since the epoch, by the API server's clock."""
    duration_s: float
    kept: bool
    """Whether what it owns outlives its process, until somebody asks for its removal."""
    has_ended: bool = False
    """Whether it was said that the process of one that is kept has ended: nobody need ask whether it lives."""

    @property
    def held_by(self) -> str:
        """Its process, for people."""
        return f"process {self.holder.pid} on {self.holder.host}" if self.holder is not None else "an unknown process"

    @property
    def reference(self) -> Mapping[str, Any]:
        """The ownerReference for what its process applies. It goes with the Lease, and does not keep the Lease from going."""
        return {
            "apiVersion": LEASE.api_version,
            "kind": LEASE.kind,
            "name": self.name,
            "uid": self.uid,
            "blockOwnerDeletion": False,
        }


def lease_seen(manifest: Manifest) -> LeaseSeen:
    """A Lease as a record."""
    metadata, spec = manifest["metadata"], manifest.get("spec") or {}
    labels = metadata.get("labels") or {}
    return LeaseSeen(
        name=metadata["name"],
        namespace=metadata["namespace"],
        uid=metadata["uid"],
        session=labels.get(SESSION, ""),
        owner=labels.get(OWNER, metadata["name"]),
        holder=Holder.parsed(spec.get("holderIdentity") or ""),
        renewed_s=epoch_s(spec.get("renewTime")),
        duration_s=float(spec.get("leaseDurationSeconds") or DURATION_S),
        kept=labels.get(KEPT) in {WHEN_ENDED, ENDED},
        has_ended=labels.get(KEPT) == ENDED,
    )


def lease_manifest(identity: Identity, namespace: str, holder: Holder, now_s: float, *, keep: bool = False) -> Manifest:
    """The Lease of a process; ``now_s`` is by the API server's clock.

    With ``keep`` it says from the first moment that what it owns is to stay: a process that is killed says nothing any more.
    """
    kept = {KEPT: WHEN_ENDED} if keep else {}
    return {
        "apiVersion": LEASE.api_version,
        "kind": LEASE.kind,
        "metadata": {"name": identity.owner, "namespace": namespace, "labels": {**identity.labels(), **kept}},
        "spec": {
            "holderIdentity": str(holder),
            "leaseDurationSeconds": DURATION_S,
            "acquireTime": micro_time(now_s),
            "renewTime": micro_time(now_s),
        },
    }


def is_alive(lease: LeaseSeen, now_s: float, at: Here) -> bool:
    """Whether the process that holds a Lease lives, seen from ``at`` when the API server's clock says ``now_s``."""
    if lease.has_ended:
        return False
    known = at.knows(lease.holder)
    if known is not None:
        return known
    return lease.renewed_s is not None and now_s < lease.renewed_s + lease.duration_s


def micro_time(seconds: float) -> str:
    """Seconds since the epoch -> the API's MicroTime: ``2026-03-01T09:30:00.250000Z``."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Heartbeat:
    """Renews a Lease from a thread of its own until it is stopped, and tells when somebody took the Lease away."""

    def __init__(self, api: KubeApi, lease: LeaseSeen, beat_s: float = BEAT_S) -> None:
        """Start it, with connections of its own."""
        self._api = api.new(say_nothing)  # nobody waits for a beat
        self._lease = lease
        self._beat_s = beat_s
        self._stopped = threading.Event()
        self._lost: str | None = None
        self._thread = threading.Thread(target=self._run, name=f"heartbeat of {lease.name}", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> str | None:
        """What happened to the Lease, and so to all that it owned; None while it is there."""
        return self._lost

    def stop(self) -> None:
        """End it, also where it waits for an API server that is gone."""
        self._stopped.set()
        self._api.close()
        self._thread.join(STOP_S)

    def _run(self) -> None:
        try:
            while self._lost is None and not self._stopped.wait(self._beat_s):
                self._lost = self._beat()
        except Exception as error:
            # It beats no more, and would soon look dead: nobody is to go on as if it lived.
            self._lost = f"the heartbeat of its Lease broke off: {type(error).__name__}: {masked_text(str(error))}"
            raise
        finally:
            self._api.close()

    def _beat(self) -> str | None:
        try:
            self._renew()
        except NotFoundError:
            return self._taken()
        except DeployError:
            # Trouble that may pass: an API server that restarts, a Lease that somebody has changed in this instant.
            return self._taken_meanwhile()
        return None

    def _renew(self) -> None:
        # With its uid: a Lease that was deleted and made again is another's.
        change = {"metadata": {"uid": self._lease.uid}, "spec": {"renewTime": micro_time(self._api.now())}}
        self._api.patch(LEASE, self._lease.name, self._lease.namespace, change)

    def _taken_meanwhile(self) -> str | None:
        try:
            found = self._api.get(LEASE, self._lease.name, self._lease.namespace)
        except DeployError:
            return None
        return None if found is not None and found["metadata"]["uid"] == self._lease.uid else self._taken()

    def _taken(self) -> str | None:
        if self._stopped.is_set():
            return None
        return (
            f"somebody deleted its Lease {self._lease.namespace}/{self._lease.name}, and with it all that this session deployed: "
            "another session or `pytest-llmperf gc`, to which it looked dead, or a person"
        )


def _place() -> str:
    """The boot and the PID namespace: a container's ids are not the machine's. Empty where the kernel does not tell."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}.{os.stat(_PROC / 'self/ns/pid').st_ino}"
    except OSError:
        return ""


def _lives(pid: int, start: int) -> bool | None:
    if (stat := _stat(pid)) is not None:
        return int(stat[_START]) == start and stat[_STATE] not in "ZX"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return None  # somebody else's, and /proc does not show those
    return None  # it began in this instant: what it is will be told next time


def _stat(pid: int) -> list[str] | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    return text.rpartition(")")[2].split()  # a program's name may hold blanks and brackets
