"""A real Kubernetes of one node on this machine: up, down, and what tests do with it in between."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Self

from pytest_llmperf.errors import ConfigError, DeployError
from tests.cluster import cgroups
from tests.cluster.api import Api
from tests.cluster.binaries import kube_binaries
from tests.cluster.cache import locked
from tests.cluster.components import GPU_RESOURCES, NODE, Component, api_url, components, write_configuration
from tests.cluster.images import busybox_archive
from tests.cluster.machine import cni_folder, why_not
from tests.cluster.network import Network, connect
from tests.cluster.node import Launched, await_end, launch, let_stay, make_node, run, tail
from tests.cluster.processes import Process, process
from tests.cluster.state import State, all_states, folders_without_state, read_state

UP_TIMEOUT_S = 120.0
"""Far more than it takes; on a machine that is busy with other things it may take long."""
END_TIMEOUT_S = 20.0
_PAUSE_S = 0.05
CONTAINERD_NAMESPACE = "k8s.io"
_CLAIMS = "claims"


@dataclass
class Cluster:
    """One that stands. ``kubeconfig`` holds an administrator's credentials and works from anywhere on this machine."""

    state: State
    network: Network
    programs: Path
    up_s: float = 0.0
    _waiting: list[subprocess.Popen[str]] = field(default_factory=list, repr=False)

    @property
    def kubeconfig(self) -> Path:
        """For ``KUBECONFIG`` and ``--kubeconfig``."""
        return self.state.folder / "etc" / "admin.kubeconfig"

    @cached_property
    def api(self) -> Api:
        """The API server, asked as an administrator."""
        return Api(api_url(self.network), self.state.folder / "pki")

    @property
    def environment(self) -> Mapping[str, str]:
        """This process's environment for a program that is to use the cluster: kubectl, or a session of pytest."""
        path = f"{self.programs}:{os.environ.get('PATH', '')}"
        return os.environ | {
            "KUBECONFIG": str(self.kubeconfig),
            "PATH": path,
            "NO_PROXY": f"{self.network.node},127.0.0.1,localhost",
        }

    def kubectl(self, *words: str, given: str | None = None) -> str:
        """What kubectl says. Raises ``DeployError`` with its complaint where it fails."""
        command = [str(self.programs / "kubectl"), *words]
        done = subprocess.run(command, input=given, env=self.environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise DeployError(f"`kubectl {' '.join(words)}` failed: {done.stderr.strip()}")
        return done.stdout

    def import_image(self, archive: Path) -> None:
        """Give the node the images of an archive, as ``docker save`` and ``buildah push oci-archive:`` write them."""
        with archive.open("rb") as content:
            run(self._init, ["ctr", f"--namespace={CONTAINERD_NAMESPACE}", "images", "import", "-"], content)

    def stop(self, component: str, number: signal.Signals = signal.SIGKILL) -> None:
        """End a component and wait until it has ended, as a crash or an upgrade would."""
        one = self.state.components[component]
        one.send(number)
        if await_end([one], END_TIMEOUT_S):
            raise DeployError(f"{component} (process {one.pid}) does not end")

    def start(self, component: str) -> None:
        """Start a component that was stopped; its clients find it again by themselves."""
        (known,) = (one for one in components(self.network) if one.name == component)
        self._launch(known)

    def log(self, component: str) -> Path:
        """The log of a component."""
        return self.state.folder / "log" / f"{component}.log"

    def await_true(self, what: str, check: Callable[[], bool], timeout_s: float = UP_TIMEOUT_S) -> None:
        """Wait until ``check`` holds. A component that has ended is told at once."""
        give_up = time.monotonic() + timeout_s
        while not check():
            for name, one in self.state.components.items():
                if not one.lives:
                    raise DeployError(f"{name} has ended while waiting until {what}", log_tail=tail(self.log(name)))
            if time.monotonic() > give_up:
                tails = (f"{name}: {line}" for name in self.state.components for line in tail(self.log(name), 4).splitlines())
                raise DeployError(f"waited {timeout_s:.0f} s in vain until {what}", log_tail="\n".join(tails))
            time.sleep(_PAUSE_S)

    def down(self) -> float:
        """End it and remove all there is of it. The seconds that it took."""
        self.api.close()
        took_s = remove(self.state)
        for waiting in self._waiting:
            waiting.wait(END_TIMEOUT_S)
            for stream in (waiting.stdin, waiting.stdout):
                if stream is not None:
                    stream.close()
        return took_s

    @classmethod
    def up(cls, name: str, *, stays: bool = False) -> Self:
        """Bring one up. It ends with this process unless it ``stays``; what is left of dead ones is removed before."""
        reason = why_not()
        if reason is not None:
            raise ConfigError(reason)
        programs = kube_binaries()
        started = time.monotonic()
        sweep()
        with ExitStack() as undo:
            state = _claim(name)
            undo.callback(remove, state)
            cluster = cls._on_new_node(state, programs)
            undo.pop_all()
            undo.callback(cluster.down)
            cluster._bring_up()
            if stays:
                cluster._keep(replace(cluster.state, stays=True))
                let_stay(Launched(cluster._init, cluster._waiting[0]))
            undo.pop_all()
        cluster.up_s = time.monotonic() - started
        return cluster

    @classmethod
    def _on_new_node(cls, state: State, programs: Path) -> Self:
        node = make_node(state.folder, programs)
        state = replace(state, init=node.process, helpers=(node.helper,))
        state.write()
        network = connect(node.process)
        state = replace(state, network_index=network.index)
        state.write()
        return cls(state, network, programs, _waiting=[node.waiting])

    @property
    def _init(self) -> Process:
        assert self.state.init is not None
        return self.state.init

    def _bring_up(self) -> None:
        cni = cni_folder()
        assert cni is not None
        cgroups.make(self.state.control_group)
        write_configuration(self.state.folder, self.network, self.state.control_group, cni)
        everything = components(self.network)
        for one in everything:
            if not one.client:
                self._launch(one)
        self.await_true("containerd answers", self._containerd_answers)
        self.import_image(busybox_archive())
        self.await_true("the API server is ready", self.api.is_ready)
        for one in everything:
            if one.client:
                self._launch(one)
        self.await_true("the node is registered", lambda: self.api.find(f"/api/v1/nodes/{NODE}") is not None)
        resources = {"capacity": GPU_RESOURCES, "allocatable": GPU_RESOURCES}
        self.api.patch(f"/api/v1/nodes/{NODE}/status", {"status": resources})
        self.api.post("/apis/storage.k8s.io/v1/storageclasses", _STORAGE_CLASS)
        self.await_true("the node is ready", lambda: self.api.node_is_ready(NODE))
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        self.await_true("the default service account is made", lambda: self.api.find(account) is not None)

    def _containerd_answers(self) -> bool:
        try:
            run(self._init, ["ctr", "version"])
        except DeployError:
            return False
        return True

    def _launch(self, component: Component) -> None:
        launched = launch(self._init, component.command, self.log(component.name))
        self._waiting.append(launched.waiting)
        running = {**self.state.components, component.name: launched.process}
        self._keep(replace(self.state, helpers=(*self.state.helpers, launched.helper), components=running))

    def _keep(self, state: State) -> None:
        self.state = state
        state.write()


_STORAGE_CLASS: Mapping[str, object] = {
    "apiVersion": "storage.k8s.io/v1",
    "kind": "StorageClass",
    "metadata": {"name": "standard", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
    "provisioner": "kubernetes.io/host-path",
}


def standing(name: str) -> Cluster | None:
    """The cluster of this name, if it stands."""
    state = read_state(name)
    if state is None or not state.stands or state.network_index is None:
        return None
    return Cluster(state, Network(state.network_index), kube_binaries())


def sweep() -> list[str]:
    """Remove what is left of clusters whose owner died; their names."""
    with locked(_CLAIMS):
        dead = [state for state in all_states() if state.abandoned]
        for state in dead:
            remove(state)
        for folder in folders_without_state():  # its maker died between two steps of ``_claim``
            shutil.rmtree(folder)
    return [state.name for state in dead]


def remove(state: State) -> float:
    """End a cluster, dead or alive, and remove all there is of it. The seconds that it took."""
    started = time.monotonic()
    state = read_state(state.name) or state
    if state.init is not None:
        state.init.send(
            signal.SIGKILL
        )  # and with it the kernel ends everything in its namespaces, and takes their mounts and devices
    left = await_end([one for one in (state.init, *state.components.values(), *state.helpers) if one is not None], END_TIMEOUT_S)
    if left:
        raise DeployError(f"process {left[0].pid} of the cluster {state.name} does not end")
    cgroups.remove(state.control_group)
    shutil.rmtree(state.folder)
    return time.monotonic() - started


def _claim(name: str) -> State:
    """Make the cluster's folder, with its state in it before anybody else looks."""
    state = State(name, owner=process(os.getpid()))
    with locked(_CLAIMS):
        if state.folder.exists():
            raise ConfigError(f"a cluster {name!r} stands already", hint=f"{sys.executable} -m tests.cluster down")
        state.folder.mkdir(mode=0o700, parents=True)  # an administrator's key will lie in it
        (state.folder / "log").mkdir()
        state.write()
    return state
