"""Whether this machine can run the test cluster, and exactly what is missing where it cannot."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.cluster.binaries import VARIABLE, go_program, is_built
from tests.cluster.cgroups import hierarchies

BUILD_VARIABLE = "LLMPERF_CLUSTER_BUILD"
"""``no``: the tests use what is built, and build nothing that takes minutes."""
SEARCH_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
"""Where programs are looked for: Debian keeps some of them where only root's own shell looks."""
PACKAGES = {
    "etcd": "etcd-server",
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "ip": "iproute2",
    "busybox": "busybox-static",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "openssl": "openssl",
}
"""Programs that a cluster needs, and Debian's package of each."""
IMAGE_PACKAGES = {"buildah": "buildah", "mmdebstrap": "mmdebstrap"}
"""Programs that the simulator's image is built with."""
CNI_FOLDERS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))
CNI_PLUGINS = ("bridge", "host-local", "loopback", "portmap")
CNI_PACKAGE = "containernetworking-plugins"


def why_not() -> str | None:
    """The reason why no cluster can be brought up here; None where one can."""
    if sys.platform != "linux":
        return f"the test cluster needs Linux, and this is {sys.platform}"
    if os.geteuid() != 0:
        return "the test cluster needs root (namespaces, mounts, network devices)"
    if not any(hierarchies()):
        return "the test cluster needs cgroups, and none are mounted"
    missing = sorted(set(_missing_packages()))
    if missing:
        return f"missing: apt-get install --no-install-recommends {' '.join(missing)}"
    if not is_built() and go_program() is None:
        return f"neither Go to build Kubernetes with, nor a folder with its programs in {VARIABLE}"
    return None if is_built() else why_not_built("Kubernetes")


def why_not_built(what: str) -> str | None:
    """The reason why nothing is built now: there is no time for it; None where there is."""
    return f"{what} is not built yet, and {BUILD_VARIABLE}=no" if os.environ.get(BUILD_VARIABLE) == "no" else None


def why_no_image() -> str | None:
    """The reason why the simulator's image cannot be built here; None where it can."""
    missing = sorted({package for program, package in IMAGE_PACKAGES.items() if not _found(program)})
    return f"missing: apt-get install --no-install-recommends {' '.join(missing)}" if missing else None


def cni_folder() -> Path | None:
    """Where the CNI plugins are."""
    return next((folder for folder in CNI_FOLDERS if all((folder / plugin).exists() for plugin in CNI_PLUGINS)), None)


def _missing_packages() -> Iterator[str]:
    yield from (package for program, package in PACKAGES.items() if not _found(program))
    if cni_folder() is None:
        yield CNI_PACKAGE


def _found(program: str) -> bool:
    return shutil.which(program, path=SEARCH_PATH) is not None
