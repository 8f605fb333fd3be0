"""Kubernetes' programs and Helm: built once by Go from the modules that the ``go.mod`` beside pin, or the user's own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_llmperf.errors import ConfigError, DeployError, Where
from tests.cluster.cache import cache_folder, digest_of_files, once

VARIABLE = "LLMPERF_KUBE_BIN"
COMPONENTS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl")
_GO_INSTALLED = Path("/usr/local/go/bin/go")


@dataclass(frozen=True)
class Source:
    """A program to build: the package it is made of, the module whose version it has, and the names that it goes by."""

    name: str
    package: str
    pinned: str
    version_variables: Mapping[str, str]
    programs: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Where the modules are pinned."""
        return Path(__file__).with_name(self.name)

    @property
    def version(self) -> str:
        """The version that is pinned, as ``v1.2.3``."""
        match = re.search(
            rf"^\s*(?:require )?{re.escape(self.pinned)} (v\S+)", (self.folder / "go.mod").read_text(), re.MULTILINE
        )
        if match is None:
            raise ConfigError(f"{self.pinned} is not required", where=Where(file=str(self.folder / "go.mod")))
        return match[1]

    @property
    def built_name(self) -> str:
        """Its name in the cache: another one after each change of what it is made of."""
        parts = [*(self.folder.glob("go.*")), *self.folder.glob("*.go")]
        return f"{self.name}-{digest_of_files(self.folder, parts)}"

    @property
    def linker_flags(self) -> str:
        """Without a version set here clients refuse the server, and charts the client."""
        major, minor, _ = self.version.removeprefix("v").split(".", 2)
        values = {"version": self.version, "major": major, "minor": minor}
        return " ".join(["-s -w", *(f"-X {variable}={values[part]}" for part, variable in self.version_variables.items())])


_BASE = "k8s.io/component-base/version"
KUBE = Source(
    name="kube",
    package=".",
    pinned="k8s.io/kubernetes",
    version_variables={"version": f"{_BASE}.gitVersion", "major": f"{_BASE}.gitMajor", "minor": f"{_BASE}.gitMinor"},
    programs=COMPONENTS,
)
HELM = Source(
    name="helm",
    package="helm.sh/helm/v4/cmd/helm",
    pinned="helm.sh/helm/v4",
    version_variables={"version": "helm.sh/helm/v4/internal/version.version"},
    programs=("helm",),
)


def kube_binaries() -> Path:
    """A folder with a program for each component. Builds them where they are not there yet, which takes minutes."""
    given = os.environ.get(VARIABLE)
    return _given(Path(given).expanduser().absolute()) if given else _built(KUBE)


def helm_binary() -> Path:
    """The program ``helm``, built where it is not there yet."""
    return _built(HELM) / "helm"


def go_program() -> str | None:
    """Go, from the PATH or where its own archive installs it."""
    return shutil.which("go") or (str(_GO_INSTALLED) if _GO_INSTALLED.is_file() else None)


def is_built(source: Source = KUBE) -> bool:
    """Whether there is nothing to build of it."""
    return (source == KUBE and bool(os.environ.get(VARIABLE))) or (cache_folder() / source.built_name).is_dir()


def _given(folder: Path) -> Path:
    missing = [name for name in COMPONENTS if not os.access(folder / name, os.X_OK)]
    if missing:
        raise ConfigError(f"no program {', '.join(missing)} in {folder}", where=Where(option=VARIABLE))
    return folder


def _built(source: Source) -> Path:
    return once(source.built_name, lambda folder: _build(source, folder))


def _build(source: Source, folder: Path) -> None:
    """One program, and a link to it for each other name that it goes by."""
    go = go_program()
    if go is None:
        raise ConfigError(f"Go is needed to build {source.name}", hint=f"Install Go 1.26, or set {VARIABLE}.")
    started = time.monotonic()
    print(f"cluster: building {source.pinned} {source.version} with {go}; the first time takes minutes", flush=True)
    command = [go, "build", "-trimpath", "-mod=readonly", "-ldflags", source.linker_flags, "-o", str(folder / source.name)]
    environment = os.environ | {"CGO_ENABLED": "0", "GOWORK": "off"}
    command = ["nice", "-n", "19", *command, source.package]
    done = subprocess.run(command, cwd=source.folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DeployError(f"{source.pinned} cannot be built", log_tail=done.stderr[-4000:])
    for other in source.programs:
        if other != source.name:
            (folder / other).symlink_to(source.name)
    print(f"cluster: {source.pinned} is built after {time.monotonic() - started:.0f} s", flush=True)
