"""After a cluster nothing of it is left on the machine, whatever ended it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster import cgroups
from tests.cluster.cluster import Cluster, sweep
from tests.cluster.init import KERNEL_SETTINGS
from tests.cluster.node import await_end
from tests.cluster.processes import PROC, Process, process
from tests.cluster.state import State, read_state

pytestmark = pytest.mark.usefixtures("able_machine")

ROOT = Path(__file__).parents[2]
OWNER = """
import sys
from tests.cluster.cluster import Cluster

class Watched(Cluster):
    def await_true(self, what, check, timeout_s=120.0):
        if what == sys.argv[2]:
            tell()
        super().await_true(what, check, timeout_s)

def tell():
    print("here", flush=True)
    sys.stdin.read()

cluster = Watched.up(sys.argv[1])
cluster.kubectl("run", "pod", "--image=localhost/llmperf-busybox:1", "--", "sleep", "infinity")
cluster.kubectl("wait", "pod/pod", "--for=condition=Ready", "--timeout=60s")
tell()
"""
"""Brings a cluster up, says how far it has come, and waits to be killed."""


@dataclass(frozen=True)
class Machine:
    """What a cluster might leave behind on it."""

    mounts: str
    devices: str
    routes: str
    packet_filter: str
    kernel: tuple[str, ...]
    covered: tuple[str, ...]


def machine_now() -> Machine:
    return Machine(
        mounts=Path("/proc/self/mounts").read_text(),
        devices=said("ip", "-brief", "link"),
        routes=said("ip", "route", "show", "table", "all"),
        packet_filter=said("iptables-save"),
        kernel=tuple(Path("/proc/sys", name).read_text() for name in KERNEL_SETTINGS),
        covered=tuple(name for place in ("/opt", "/var/lib", "/run/containerd", "/run/netns") for name in names_in(Path(place))),
    )


def said(*command: str) -> str:
    environment = os.environ | {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


def names_in(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir()) if place.is_dir() else []


@pytest.fixture
def before() -> Machine:
    """The machine, with what earlier sessions may have left cleaned away."""
    sweep()
    return machine_now()


def test_down_leaves_nothing(before: Machine) -> None:
    cluster = Cluster.up(f"leftovers-{os.getpid()}")
    state = cluster.state
    inside = processes_of(state)
    assert {one.pid for one in state.components.values()} < {one.pid for one in inside}
    down_s = cluster.down()
    print(f"cluster: up after {cluster.up_s:.1f} s, down after {down_s:.1f} s")
    assert_nothing_is_left(state, inside, before)


@pytest.mark.parametrize("when", ["containerd answers", "the API server is ready", "the node is ready", "up, with a pod"])
def test_what_a_killed_owner_leaves_is_swept(before: Machine, when: str) -> None:
    name = f"killed-{os.getpid()}"
    command = [sys.executable, "-c", OWNER, name, when]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "here\n"
        state = read_state(name)
        assert state is not None
        inside = processes_of(state)
        owner.kill()
    assert await_end(inside, timeout_s=20.0) == [], "the node ends with its owner"
    assert sweep() == [name]
    assert_nothing_is_left(state, inside, before)


def processes_of(state: State) -> list[Process]:
    """Every process of the node, pods' included, as the kernel tells it."""
    assert state.init is not None
    own = os.readlink(PROC / str(state.init.pid) / "ns" / "pid")
    return [one for one in all_processes() if namespace_of(one) == own]


def all_processes() -> Iterator[Process]:
    for entry in PROC.iterdir():
        if entry.name.isdecimal():
            try:
                yield process(int(entry.name))
            except ProcessLookupError:  # it ended meanwhile
                continue


def namespace_of(one: Process) -> str | None:
    try:
        return os.readlink(PROC / str(one.pid) / "ns" / "pid")
    except OSError:  # it ended meanwhile, or is a zombie
        return None


def assert_nothing_is_left(state: State, inside: list[Process], before: Machine) -> None:
    assert [one for one in (*inside, *state.helpers) if one.lives] == []
    assert cgroups.existing(state.control_group) == []
    assert not state.folder.exists()
    assert machine_now() == before
