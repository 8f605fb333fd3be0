"""The node's addresses, and the one cable between the machine and the node.

All lie in 198.18.0.0/15, which is reserved for benchmarks and so is nobody's network. The machine's side is a veth device with
routes to pods and services; it goes when the node's network namespace does, and the routes with it.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

from pytest_llmperf.errors import DeployError
from tests.cluster.node import ENVIRONMENT
from tests.cluster.processes import Process

MAX_CLUSTERS = 32
"""How many may stand on one machine at a time."""
INSIDE = "uplink"
"""What the node calls its end of the cable."""


@dataclass(frozen=True)
class Network:
    """The addresses of the ``index``-th cluster of this machine."""

    index: int

    @property
    def device(self) -> str:
        """The machine's end of the cable."""
        return f"llmperf{self.index}"

    @property
    def machine(self) -> str:
        """The machine, as the node sees it."""
        return f"198.18.{128 + self.index}.1"

    @property
    def node(self) -> str:
        """The node, and with it the API server."""
        return f"198.18.{128 + self.index}.2"

    @property
    def pods(self) -> str:
        """The range of the pods' addresses."""
        return f"198.18.{self.index}.0/24"

    @property
    def services(self) -> str:
        """The range of the services' addresses."""
        return f"198.19.{self.index}.0/24"

    @property
    def api_service(self) -> str:
        """The API server, as pods see it."""
        return f"198.19.{self.index}.1"

    @property
    def dns_service(self) -> str:
        """Where pods ask for names. Nobody answers, which they are told at once, unless a DNS service takes this address."""
        return f"198.19.{self.index}.10"


def connect(node: Process) -> Network:
    """Lay a cable into the network namespace of ``node``, under the first free number."""
    for index in range(MAX_CLUSTERS):
        network = Network(index)
        if _lay(network, node):
            break
    else:
        raise DeployError(
            f"{MAX_CLUSTERS} network devices called llmperf… exist already",
            hint="`python -m tests.cluster status` lists the clusters of this machine.",
        )
    inside = ("nsenter", "--target", str(node.pid), "--net", "ip")
    _ip("ip", "address", "add", f"{network.machine}/30", "dev", network.device)
    _ip("ip", "link", "set", network.device, "up")
    _ip(*inside, "address", "add", f"{network.node}/30", "dev", INSIDE)
    _ip(*inside, "link", "set", INSIDE, "up")
    for reached in (network.pods, network.services):
        _ip("ip", "route", "add", reached, "via", network.node, "dev", network.device)
    return network


def _lay(network: Network, node: Process) -> bool:
    """Whether the device could be made; False where one of that name exists, which is somebody else's cluster."""
    command = ("ip", "link", "add", network.device, "type", "veth", "peer", "name", INSIDE, "netns", str(node.pid))
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    if done.returncode != 0 and "File exists" not in done.stderr:
        raise DeployError(f"no network device can be made for the node: {done.stderr.strip()}")
    return done.returncode == 0


def _ip(*command: str) -> None:
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DeployError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
