"""``pytest-llmperf gc``: removes what sessions that died have left on a cluster, and what was kept and is not wanted any more."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_llmperf.cli.status import OK
from pytest_llmperf.errors import ConfigError, DeployError, Where, unknown
from pytest_llmperf.units import format_duration

if TYPE_CHECKING:
    from pytest_llmperf.deploy.kubernetes.api.client import KubeApi
    from pytest_llmperf.deploy.kubernetes.ownership.sweep import Survey

LEFT_OVER = 1
"""Something could not be removed."""
ALL = "all"


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare ``gc``."""
    gc = commands.add_parser(
        "gc",
        help="remove what sessions that died have left on a cluster",
        description="Shows the sessions that have something on a cluster and removes what belongs to dead ones. "
        f"What lives is never touched. Exit status: {LEFT_OVER} when something could not be removed; else {OK}.",
    )
    gc.add_argument("--kubeconfig", type=Path, metavar="FILE", help="[KUBECONFIG, else ~/.kube/config; in a pod its own account]")
    gc.add_argument("--context", metavar="NAME", help="of the kubeconfig [its current one]")
    gc.add_argument("--namespace", default=ALL, metavar="NAME", help="look only there [%(default)s of them]")
    gc.add_argument("--session", metavar="ID", help="only this session, also where it was kept")
    gc.add_argument("--kept", action="store_true", help="also all that --llmperf-keep has left standing")
    gc.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    gc.set_defaults(run=_gc)


def _gc(options: argparse.Namespace) -> int:
    from pytest_llmperf.deploy.kubernetes.api.client import KubeApi
    from pytest_llmperf.deploy.kubernetes.ownership.sweep import remove, to_remove

    with KubeApi.connect(options.kubeconfig, options.context, _tell) as api:
        found = _survey(api, options.namespace)
        if options.session is not None and options.session not in found.sessions:
            raise unknown("session", options.session, found.sessions, Where(option="--session"))
        _print_table(found)
        chosen = to_remove(found, session=options.session, kept=options.kept)
        if options.dry_run:
            for text in _texts(chosen):
                print(f"would remove {text}")
            return OK
        removed, failed = remove(api, chosen, progress=print)
    for text in removed:
        print(f"removed {text}")
    for error in failed:
        _tell(str(error))
    alive = [lease for lease in found.of("alive") if lease.session == options.session]
    for lease in alive:
        _tell(f"the session {lease.session} lives and was left alone: end {lease.held_by} first, with Ctrl-C")
    return LEFT_OVER if failed or alive else OK


def _survey(api: KubeApi, namespace: str) -> Survey:
    """What there is. Raises ``ConfigError`` for a namespace that does not exist, ``DeployError`` where nobody may look."""
    from pytest_llmperf.deploy.kubernetes.api.refusals import ForbiddenError
    from pytest_llmperf.deploy.kubernetes.ownership.sweep import survey

    if namespace != ALL:
        _check_namespace(api, namespace)
        return survey(api, namespace)
    try:
        return survey(api, None)
    except ForbiddenError as error:
        raise DeployError(error.what, hint="Name a namespace in which you may: --namespace=NAME.") from None


def _check_namespace(api: KubeApi, name: str) -> None:
    from pytest_llmperf.deploy.kubernetes.api.kinds import NAMESPACE
    from pytest_llmperf.deploy.kubernetes.api.refusals import ForbiddenError
    from pytest_llmperf.deploy.kubernetes.ownership.namespaces import did_you_mean
    from pytest_llmperf.deploy.kubernetes.settings import check_namespace

    check_namespace(name, Where(option="--namespace"))
    try:
        found = api.get(NAMESPACE, name)
    except ForbiddenError:
        return  # the Leases in it may be seen all the same
    if found is None:
        what = f"there is no namespace {name!r} on {api.context}"
        raise ConfigError(what, where=Where(option="--namespace"), hint=did_you_mean(api, name) or None)


def _texts(chosen: Survey) -> list[str]:
    namespaces = [f"the namespace {one.name}" for one in chosen.namespaces]
    return [*map(str, chosen.processes), *map(str, chosen.orphans), *namespaces]


def _print_table(found: Survey) -> None:
    from pytest_llmperf.cli.results import console
    from pytest_llmperf.report.grid import Field, grid, together

    out = console()
    rows = sorted(found.processes, key=lambda one: (one.lease.namespace, one.lease.name))
    if not rows:
        out.print("no sessions")
        return
    process = Field("process", tuple(one.lease.name for one in rows))
    before = (
        Field("state", tuple(one.state for one in rows)),
        Field("last heard of", tuple(f"{format_duration(round(one.silent_s))} ago" for one in rows), right=True),
    )
    after = (
        Field("namespace", tuple(one.lease.namespace for one in rows)),
        Field("held by", tuple(one.lease.held_by for one in rows)),
    )
    out.print(together(grid(before, process, after, out.width)))


def _tell(text: str) -> None:
    import sys

    print(f"pytest-llmperf: {text}", file=sys.stderr)
