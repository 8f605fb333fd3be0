"""What a port-forward's process is told and tells: one JSON object a line, in both directions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

HOST = "127.0.0.1"
"""Where a port-forward listens."""


@dataclass(frozen=True)
class Order:
    """What is to be forwarded, and the way there. It goes through a pipe, since it holds a key."""

    server: str
    """The API server's URL."""
    namespace: str
    port: int
    """The pods'."""
    spares: int = 0
    """How many tunnels are kept open for connections to come."""
    server_name: str | None = None
    """By which the server's certificate is checked, where it is not the URL's host."""
    proxy: str | None = field(default=None, repr=False)
    authorities: str = field(default="", repr=False)
    """The certificates to trust, as PEM."""
    certificate: str = field(default="", repr=False)
    """The client's certificate with its key, as PEM; empty for who has none."""
    verify: bool = True

    def line(self) -> bytes:
        """As it is told."""
        return json_line(asdict(self))

    @classmethod
    def read(cls, line: bytes) -> Self:
        """As it is heard."""
        return cls(**json.loads(line))


@dataclass(frozen=True)
class Aim:
    """Where connections are to go now: the pods that are ready, and the headers that say who asks."""

    pods: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    certificate: str = field(default="", repr=False)
    """As in the order; one from a plugin lasts for an hour, and another follows."""
    error: str = ""
    """Why nobody knows."""

    def line(self) -> bytes:
        """As it is told."""
        return json_line(asdict(self))

    @classmethod
    def read(cls, line: bytes) -> Self:
        """As it is heard."""
        said = json.loads(line)
        return cls(**{**said, "pods": tuple(said["pods"])})


def json_line(message: Mapping[str, Any]) -> bytes:
    """A message as it is told."""
    return json.dumps(message).encode() + b"\n"
