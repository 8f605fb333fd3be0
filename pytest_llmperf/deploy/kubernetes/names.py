"""What everything is called that a session puts on a cluster: labels by which it is found, and names that are nobody else's."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

MANAGER = "pytest-llmperf"
"""The field manager of everything applied, and the value of ``MANAGED_BY``."""
MANAGED_BY = "app.kubernetes.io/managed-by"
SESSION = "llmperf.dev/session"
"""The session's id; xdist's workers share it."""
OWNER = "llmperf.dev/owner"
"""The name of the Lease whose heartbeat says whether the process lives that made an object."""
CELL = "llmperf.dev/cell"
KEPT = "llmperf.dev/kept"
"""On the Lease of a session that was asked to leave its deployments standing: ``WHEN_ENDED``, then ``ENDED``."""
WHEN_ENDED, ENDED = "when-ended", "true"
"""As long as its process may live; and after its end, as the process itself or xdist's controller has said."""
QUEUE = "kueue.x-k8s.io/queue-name"

LONGEST_LABEL = 63
_LONGEST_NAME = 52
"""Of an object: a Deployment's pods have up to 11 characters more in their names, which are labels and host names too."""
_HASH = 8
"""Hexadecimal digits: 32 bits, so that of a thousand names two are the same once in ten thousand sessions."""
_LEAST_FRONT = 8
"""Of a name that is shortened: less would not tell what it is of."""
_SESSION = 8
_BASE_36 = "0123456789abcdefghijklmnopqrstuvwxyz"


def new_session() -> str:
    """A session's id: ``k3x9q0ab``."""
    return "".join(secrets.choice(_BASE_36) for _ in range(_SESSION))


@dataclass(frozen=True)
class Identity:
    """Who deploys: one process of one session. ``worker`` is xdist's (``gw0``), empty without xdist."""

    session: str
    worker: str = ""

    @property
    def suffix(self) -> str:
        """What tells this process's objects from those of others by their names."""
        return "-".join(filter(None, (self.session, self.worker)))

    @property
    def owner(self) -> str:
        """The name of this process's Lease."""
        return f"llmperf-{self.suffix}"

    def labels(self, cell_id: str | None = None) -> Mapping[str, str]:
        """On every object of it; with its cell's where it belongs to one."""
        labels = {MANAGED_BY: MANAGER, SESSION: self.session, OWNER: self.owner}
        return labels if cell_id is None else {**labels, CELL: label_of(cell_id)}

    def selector(self, cell_id: str | None = None) -> str:
        """The label selector of this process's objects, or of those of one of its cells."""
        return ",".join(f"{key}={value}" for key, value in self.labels(cell_id).items())


def label_of(text: str) -> str:
    """A text as a label's value: unchanged where it may be one, else shortened, with a hash that keeps it apart."""
    clean = re.sub(r"[^A-Za-z0-9_.-]", "-", text).strip("-_.")
    return clean if clean == text and len(text) <= LONGEST_LABEL else _shortened(clean, text, LONGEST_LABEL)


def name_of(*parts: str) -> str:
    """An object's name (RFC 1123 label) made of parts; two different texts have different names.

    Of a name that is too long the first part loses its end: what follows tells a cell's objects from each other.
    """
    text = "-".join(parts)
    clean = _clean(text)
    if clean == text and len(text) <= _LONGEST_NAME:
        return clean
    behind = "".join(f"-{part}" for part in map(_clean, parts[1:]) if part)
    front = _LONGEST_NAME - len(behind) - _HASH - 1
    if len(clean) <= _LONGEST_NAME - _HASH - 1 or front < _LEAST_FRONT:
        return _shortened(clean, text, _LONGEST_NAME)
    return f"{_clean(parts[0])[:front].rstrip('-')}{behind}-{_digest(text)}"


def _clean(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _shortened(clean: str, text: str, longest: int) -> str:
    return f"{clean[: longest - _HASH - 1].rstrip('-_.')}-{_digest(text)}"


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:_HASH]
