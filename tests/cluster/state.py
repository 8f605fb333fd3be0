"""What is on disk about a cluster, so that another process can tell whose it is, and end it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.cluster.cache import cache_folder
from tests.cluster.processes import Process

_FILE = "state.json"


@dataclass(frozen=True)
class State:
    """One cluster. ``init`` is its node's first process; ``helpers`` stand outside of the node's namespaces and end with it."""

    name: str
    owner: Process
    stays: bool = False
    """Whether it outlives its owner: brought up by hand."""
    init: Process | None = None
    helpers: tuple[Process, ...] = ()
    components: Mapping[str, Process] = field(default_factory=dict)
    network_index: int | None = None

    @property
    def folder(self) -> Path:
        """Everything that the cluster has on disk."""
        return clusters_folder() / self.name

    @property
    def control_group(self) -> str:
        """The group below which its pods are."""
        return f"llmperf-{self.name}"

    @property
    def stands(self) -> bool:
        """Whether its node runs."""
        return self.init is not None and self.init.lives

    @property
    def abandoned(self) -> bool:
        """Whether nobody will end it any more, or its node is dead."""
        return not self.owner.lives and not (self.stays and self.stands)

    def write(self) -> None:
        """Replace what is on disk, at once."""
        unfinished = self.folder / f"{_FILE}.unfinished"
        unfinished.write_text(json.dumps(asdict(self), indent=1))
        os.replace(unfinished, self.folder / _FILE)


def clusters_folder() -> Path:
    """Where the clusters of this user are."""
    return cache_folder() / "nodes"


def read_state(name: str) -> State | None:
    """The cluster of this name; None where there is none."""
    try:
        written: dict[str, Any] = json.loads((clusters_folder() / name / _FILE).read_text())
    except FileNotFoundError:
        return None
    processes = {key: Process(**value) for key, value in written["components"].items()}
    init = written["init"]
    return State(
        name=written["name"],
        owner=Process(**written["owner"]),
        stays=written["stays"],
        init=Process(**init) if init is not None else None,
        helpers=tuple(Process(**helper) for helper in written["helpers"]),
        components=processes,
        network_index=written["network_index"],
    )


def all_states() -> list[State]:
    """Every cluster of this user, dead or alive."""
    return [state for folder in _folders() if (state := read_state(folder.name)) is not None]


def folders_without_state() -> list[Path]:
    """Clusters' folders in which there is no cluster."""
    return [folder for folder in _folders() if not (folder / _FILE).exists()]


def _folders() -> list[Path]:
    folder = clusters_folder()
    return sorted(folder.iterdir()) if folder.is_dir() else []
