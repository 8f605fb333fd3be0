"""``python -m tests.cluster up|down|status|build``: a real Kubernetes of one node, by hand."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial

from pytest_llmperf.errors import DeployError, LlmperfError
from tests.cluster.binaries import helm_binary, kube_binaries
from tests.cluster.cluster import Cluster, remove, standing, sweep
from tests.cluster.components import GPU_LABELS, GPU_RESOURCES, NODE
from tests.cluster.images import SIMULATOR, built_simulator_archive, simulator_archive
from tests.cluster.machine import why_no_image, why_not
from tests.cluster.state import State, all_states, read_state

BY_HAND = "by-hand"
IN_TIME = "--within"


def main() -> int:
    """The exit status: 0, or 1 with the reason on standard error."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("what", choices=("up", "down", "status", "build"))
    parser.add_argument(IN_TIME, type=float, metavar="MINUTES", help="of build: give up after so long, and say so")
    given = parser.parse_args()
    actions: Mapping[str, Callable[[], None]] = {
        "up": _up,
        "down": _down,
        "status": _status,
        "build": partial(_build, given.within),
    }
    try:
        actions[given.what]()
    except LlmperfError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _up() -> None:
    cluster = standing(BY_HAND)
    if cluster is None:
        cluster = Cluster.up(BY_HAND, stays=True)
        print(f"up after {cluster.up_s:.1f} s: node {NODE} with {', '.join(f'{k}: {v}' for k, v in GPU_RESOURCES.items())}")
        _give_simulator(cluster)
    print(f"""
export KUBECONFIG={cluster.kubeconfig}
export PATH="{cluster.programs}:$PATH"    # kubectl
kubectl get nodes,pods --all-namespaces
kubectl get nodes -L {",".join(list(GPU_LABELS)[:2])}
make cluster-down                         # ends it, and removes all there is of it""")


def _give_simulator(cluster: Cluster) -> None:
    archive = built_simulator_archive()
    if archive is None:
        print("the simulator's image is not built: `python -m tests.cluster build` makes it, the next `up` has it")
    else:
        cluster.import_image(archive)
        print(f"pods can run {SIMULATOR}; other images are not pulled: pods reach nothing outside of this machine")


def _build(within_minutes: float | None) -> None:
    """Make what is made once, where this machine can use it; say why where it cannot."""
    if within_minutes is not None:
        _build_in_time(within_minutes)
        return
    reason = why_not()
    if reason is None:
        print(f"Kubernetes' programs: {kube_binaries()}")
        print(f"Helm: {helm_binary()}")
        reason = why_no_image()
    if reason is None:
        print(f"the simulator's image: {simulator_archive()}")
    else:
        print(f"not built: {reason}")


def _build_in_time(minutes: float) -> None:
    """The same in a process of its own, which is ended when the time is over. What Go has compiled until then it keeps.

    It takes only the processor's idle time: other tests may run beside it.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the build ends with this process
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    build = subprocess.Popen([sys.executable, "-m", "tests.cluster", "build"], start_new_session=True)
    try:
        status = build.wait(minutes * 60)
    except subprocess.TimeoutExpired:
        print(
            f"not built: it takes more than {minutes:g} minutes here; `make test-cluster` takes the time, and goes on from here"
        )
    else:
        if status:
            raise DeployError(f"the build ended with status {status}")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(build.pid, signal.SIGKILL)


def _down() -> None:
    dead = sweep()
    for name in dead:
        print(f"{name}: removed what a dead process had left")
    state = read_state(BY_HAND)
    if state is not None:
        print(f"{state.name}: down after {remove(state):.1f} s")
    elif not dead:
        print("no cluster to bring down")


def _status() -> None:
    states = all_states()
    for state in states:
        print(f"{state.name}: {_life(state)}; {state.folder}")
        first = {"node": state.init} if state.init is not None else {}
        for name, one in {**first, **state.components}.items():
            print(f"  {name}: process {one.pid} {'runs' if one.lives else 'has ended'}")
    if not states:
        print("no cluster")


def _life(state: State) -> str:
    if state.abandoned:
        return "nobody's any more: `down` removes it"
    return "stands" if state.stands else "is being made"


if __name__ == "__main__":
    sys.exit(main())
