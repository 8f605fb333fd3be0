"""Where a cell's objects come from: a file or a folder of YAML, a kustomization, a chart."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

from pytest_llmperf.deploy.kubernetes.api.kinds import Manifest
from pytest_llmperf.deploy.kubernetes.rendering.manifests import Sourced, copied, parse_objects, read_objects
from pytest_llmperf.deploy.kubernetes.rendering.shape import check_shape
from pytest_llmperf.deploy.kubernetes.settings import RenderSettings
from pytest_llmperf.errors import ConfigError, Where
from pytest_llmperf.experiment.catalog import manifests_directory
from pytest_llmperf.experiment.records import Cell
from pytest_llmperf.experiment.yaml_source import shown
from pytest_llmperf.secrets import masked_text

OPTION = "--llmperf-manifests"
VALUES_OPTION = "--llmperf-helm-values"
RELEASE = "llmperf"
RELEASE_NAMESPACE = "llmperf-release-namespace"
"""What a chart is told to be its namespace, which is known only when the objects are placed."""

_SUFFIXES = (".yaml", ".yml", ".json")
_KUSTOMIZATIONS = ("kustomization.yaml", "kustomization.yml", "Kustomization")
_CHART = "Chart.yaml"
_TIMEOUT_S = 120
_HOOK = "helm.sh/hook"
_CLUSTER_WIDE = {
    "APIService",
    "CSIDriver",
    "ClusterQueue",
    "ClusterRole",
    "ClusterRoleBinding",
    "ClusterServingRuntime",
    "ClusterStorageContainer",
    "CustomResourceDefinition",
    "DeviceClass",
    "GatewayClass",
    "IngressClass",
    "MutatingWebhookConfiguration",
    "Namespace",
    "Node",
    "PersistentVolume",
    "PriorityClass",
    "ResourceFlavor",
    "RuntimeClass",
    "SecurityContextConstraints",
    "StorageClass",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "ValidatingWebhookConfiguration",
    "VolumeSnapshotClass",
}
"""Kinds that are no namespace's: a session that made one would leave it behind, or take away somebody else's."""


def read_source(cell: Cell, settings: RenderSettings, environ: Mapping[str, str]) -> list[Sourced]:
    """The objects of a cell as they were written: copies, to be changed. Raises ``ConfigError``."""
    path = source_of(cell, settings)
    objects = _read(path.absolute(), settings.helm_values, environ.get("PATH"))
    return [Sourced(copied(one.manifest), one.where) for one in objects]


def source_of(cell: Cell, settings: RenderSettings) -> Path:
    """The file or folder that a cell is made from: the user's, in which a method may have a folder of its own, or the method's.

    Raises ``ConfigError`` where it does not exist.
    """
    chosen = settings.manifests
    if chosen is None:
        path = manifests_directory() / cell.method.manifests
        if not path.exists():
            where = Where(key=f"method {cell.method.name}.manifests")
            raise ConfigError(
                f"there is no {cell.method.manifests!r} among the shipped manifests", where=where, hint=f"{OPTION} names others."
            )
        return path
    if not chosen.exists():
        raise ConfigError(f"there is no {str(chosen)!r}", where=Where(option=OPTION))
    of_method = chosen / cell.method.manifests
    return of_method if of_method.exists() else chosen


def check_values(cells: Sequence[Cell], settings: RenderSettings) -> None:
    """Raises ``ConfigError`` for a chart's values where none of the cells is made from a chart."""
    sources = dict.fromkeys(source_of(cell, settings) for cell in cells)
    if settings.helm_values and sources and not any(map(_is_chart, sources)):
        problem = f"{' and '.join(map(shown, sources))}: no chart is deployed, and nothing else takes values"
        raise ConfigError(problem, where=Where(option=VALUES_OPTION))


@cache
def _read(path: Path, helm_values: tuple[Path, ...], programs: str | None) -> tuple[Sourced, ...]:
    """Read once in a session: all cells are made from the same, also when a file is edited meanwhile."""
    if _is_chart(path):
        objects = _chart(path, helm_values, programs)
    elif path.is_dir() and any((path / name).is_file() for name in _KUSTOMIZATIONS):
        text = _said(("kubectl", "kustomize", str(path)), "a kustomization", path, programs)
        objects = parse_objects(text, f"kubectl kustomize {shown(path)}")
    elif path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES and file.is_file())
        objects = [one for file in files for one in read_objects(file)]
    else:
        objects = read_objects(path)
    _check(objects, path)
    return tuple(objects)


def _is_chart(path: Path) -> bool:
    return path.is_dir() and (path / _CHART).is_file()


def _chart(path: Path, helm_values: Iterable[Path], programs: str | None) -> list[Sourced]:
    values = []
    for file in helm_values:
        if not file.is_file():
            raise ConfigError(f"there is no file {str(file)!r}", where=Where(option=VALUES_OPTION))
        values.append(f"--values={file}")
    command = ("helm", "template", RELEASE, str(path), f"--namespace={RELEASE_NAMESPACE}", "--skip-tests", *values)
    objects = parse_objects(_said(command, "a chart", path, programs), f"helm template {shown(path)}")
    for one in objects:
        if _HOOK in (one.manifest["metadata"].get("annotations") or {}):
            raise ConfigError(
                f"{one.title} is a hook, which only an installation by Helm runs",
                where=one.where,
                hint="Switch it off in the chart's values, or deploy the chart yourself and use --llmperf-target=endpoint.",
            )
        if one.manifest["metadata"].get("namespace") == RELEASE_NAMESPACE:
            del one.manifest["metadata"]["namespace"]
    return objects


def _said(command: tuple[str, ...], what: str, path: Path, programs: str | None) -> str:
    """What a program prints. Raises ``ConfigError`` where it is missing or fails."""
    where = Where(file=shown(path))
    program = shutil.which(command[0], path=programs)
    if program is None:
        hint = f"Install {command[0]}, or render it yourself and name the YAML file with {OPTION}."
        raise ConfigError(f"is {what}, and the program {command[0]!r} is not on this machine's PATH", where=where, hint=hint)
    try:
        done = subprocess.run(
            (program, *command[1:]), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(f"`{' '.join(command[:2])}` did not end within {_TIMEOUT_S} s", where=where) from None
    if done.returncode != 0:
        problem = re.sub(r"\s+", " ", masked_text(done.stderr)).strip().removeprefix("error: ").removeprefix("Error: ")
        raise ConfigError(f"`{' '.join(command[:2])}` refuses it: {problem}", where=where)
    return done.stdout


def _check(objects: list[Sourced], path: Path) -> None:
    """Whether a session may own these objects. Raises ``ConfigError`` for the first that it may not."""
    if not objects:
        raise ConfigError("holds no Kubernetes objects", where=Where(file=shown(path)))
    seen: dict[tuple[str, str, str], Sourced] = {}
    for one in objects:
        check_shape(one)
        if one.manifest["kind"] in _CLUSTER_WIDE:
            raise ConfigError(
                f"{one.title} belongs to the whole cluster and not to a namespace: it is not a session's to make or to remove",
                where=one.where,
                hint="Make it by hand, once, and take it out of what is deployed for each cell.",
            )
        before = seen.setdefault(_identity(one.manifest), one)
        if before is not one:
            first = f"{before.where.file}:{before.where.line}"
            raise ConfigError(f"{one.title} is there twice (first in {first})", where=one.where)


def _identity(manifest: Manifest) -> tuple[str, str, str]:
    """What tells one object from another: its group, kind and name."""
    return manifest["apiVersion"].rpartition("/")[0], manifest["kind"], manifest["metadata"]["name"]
