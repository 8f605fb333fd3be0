"""The first process of the node: what its namespaces hold lives as long as it does.

Run by its path with ``python -I`` as process 1 of new mount, network and process namespaces, from the standard library alone. It
makes the node's file system, prints one line, and then only collects processes that ended. When it is killed, the kernel ends
every process of the node and takes back its mounts, network devices and iptables' chains: nobody has to find them.

It ends itself when standard input is closed, as happens when whoever holds the other end dies; not after the line ``stay``.
"""

from __future__ import annotations

import argparse
import os
import selectors
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import FrameType

ROOT = Path("/mnt")
"""Where the node's folder is seen inside, whatever its place on the machine."""
COVERED = ("run", "tmp", "var/lib", "var/log")
"""Where Kubernetes, containerd and the CNI plugins write besides what their options say."""
IN_MEMORY = ("etcd", "containerd")
"""What is written most, below ``ROOT``. It goes with the namespaces, and no disk has to forget it."""
KERNEL_SETTINGS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
"""The kubelet sets these for the whole machine. Here it finds files that say they are set, and leaves the machine alone."""
MIN_CPUS = 32
MEMORY_KIB = 256 * 2**20
"""What the node says it has, as a machine with GPUs does: pods request what an engine needs; the simulator uses little of it."""
CPUS = Path("/sys/devices/system/cpu")
NUMA_NODES = Path("/sys/devices/system/node")
NETWORK_SETTINGS = {"net/ipv4/ip_forward": "1"}


def main() -> None:
    """Make the node's file system, say so, and wait."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the node's own")
    parser.add_argument("programs", type=Path, help="a folder with Kubernetes' programs")
    options = parser.parse_args()
    _make_file_system(options.folder, options.programs)
    _set_kernel()
    _look_large()
    _run("ip", "link", "set", "lo", "up")
    print("ready", flush=True)
    _wait()


def _make_file_system(folder: Path, programs: Path) -> None:
    _run("mount", "--bind", str(folder), str(ROOT))
    (ROOT / "bin").mkdir(exist_ok=True)
    _run("mount", "--bind", str(programs), str(ROOT / "bin"))
    for place in COVERED:  # last: the two folders above may lie below one of these
        (ROOT / place).mkdir(parents=True, exist_ok=True)
        _run("mount", "--bind", str(ROOT / place), f"/{place}")
    for place in IN_MEMORY:
        (ROOT / place).mkdir(exist_ok=True)
        _run("mount", "-t", "tmpfs", "-o", "mode=0700", "tmpfs", str(ROOT / place))
    _run("mount", "-t", "proc", "proc", "/proc")
    _run("mount", "--make-rshared", "/")  # what the kubelet mounts, containers see; nobody outside does


def _set_kernel() -> None:
    for name, value in KERNEL_SETTINGS.items():
        _cover(f"/proc/sys/{name}", f"{value}\n")
    for name, value in NETWORK_SETTINGS.items():  # these are the network namespace's own
        Path("/proc/sys", name).write_text(value)


def _look_large() -> None:
    """Have the kubelet find ``MIN_CPUS`` and ``MEMORY_KIB``. Only what it reads is covered; the kernel gives what there is."""
    total = f"MemTotal: {MEMORY_KIB} kB"
    _cover("/proc/meminfo", "\n".join([total, *Path("/proc/meminfo").read_text().splitlines()[1:]]) + "\n")
    cpus = [path.parent.name for path in CPUS.glob("cpu[0-9]*/topology")]
    if not NUMA_NODES.is_dir() or len(cpus) >= MIN_CPUS:
        return
    # The same CPUs on several NUMA nodes: it counts them all, and the control groups' lists of CPUs remain right.
    for number in range(-(-MIN_CPUS // len(cpus))):
        node = _covering(NUMA_NODES) / f"node{number}"
        node.mkdir(parents=True)
        (node / "hugepages").mkdir()
        (node / "distance").write_text("10\n")
        (node / "meminfo").write_text(f"Node {number} {total}\n")
        for cpu in cpus:
            (node / cpu).symlink_to(CPUS / cpu)
    _run("mount", "--bind", str(_covering(NUMA_NODES)), str(NUMA_NODES))


def _cover(file: str, text: str) -> None:
    """Have everything on the node find ``text`` in a file of the kernel's."""
    cover = _covering(Path(file))
    cover.parent.mkdir(parents=True, exist_ok=True)
    cover.write_text(text)
    _run("mount", "--bind", str(cover), file)


def _covering(place: Path) -> Path:
    return ROOT / "covered" / place.relative_to("/")


def _wait() -> None:
    woken, waker = socket.socketpair()
    waker.setblocking(False)
    signal.set_wakeup_fd(waker.fileno())
    signal.signal(signal.SIGCHLD, _nothing)  # process 1 gets no signal that it has no handler for
    with selectors.DefaultSelector() as selector:
        selector.register(woken, selectors.EVENT_READ)
        selector.register(sys.stdin, selectors.EVENT_READ)
        while True:
            ready = {key.fileobj for key, _ in selector.select()}
            if sys.stdin in ready:
                if sys.stdin.readline() != "stay\n":
                    return
                selector.unregister(sys.stdin)
            if woken in ready:
                woken.recv(4096)
                _collect()


def _collect() -> None:
    """Wait for whatever has ended: processes whose parents are gone are this one's."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def _nothing(_number: int, _frame: FrameType | None) -> None:
    """A signal that only has to wake the loop."""


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
