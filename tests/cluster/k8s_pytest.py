"""Sessions of pytest on the cluster, as a user starts them: a process of their own, in a folder with a suite and a catalog."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.cluster import Cluster

TIMEOUT_S = 300.0
GKE, K8S = "gke_h100_standalone_llama-3.1-8b", "k8s_h100_standalone_llama-3.1-8b"
MATRIX = """
one: {platforms: [gke], hardware: [h100], models: [llama-3.1-8b]}
two: {platforms: [gke, k8s], hardware: [h100], models: [llama-3.1-8b]}
whole-nodes: {platforms: [gke, k8s], hardware: [h100x8], models: [llama-3.1-8b]}
"""
"""Cells that the test cluster's node can run."""


@dataclass(frozen=True)
class PytestSessions:
    """The folder in which they are run, and the cluster that they use."""

    folder: Path
    cluster: Cluster
    image: str
    namespace: str | None
    """Where they deploy. With None each makes one of its own; Kubernetes takes 5 s to remove such a one."""
    kubeconfig: Path | None = None
    """Whose they are; None: the administrator's."""

    def write(self, **files: str) -> None:
        """Put files of Python into the folder."""
        for name, text in files.items():
            (self.folder / f"{name}.py").write_text(text)

    def command(self, *more: str, matrix: str = "one") -> list[str]:
        """pytest with the cluster as its target."""
        target = ["--llmperf-target=kubernetes", f"--llmperf-simulator-image={self.image}", "--llmperf-model-cache=none"]
        if self.namespace is not None:
            target.append(f"--llmperf-namespace={self.namespace}")
        return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *target, f"--llmperf-matrix={matrix}", *more]

    @property
    def environment(self) -> Mapping[str, str]:
        """As a person has it who uses the cluster."""
        strange = ("LLMPERF_", "PYTEST_", "GITHUB_")
        kept = {name: value for name, value in self.cluster.environment.items() if not name.startswith(strange)}
        if self.kubeconfig is not None:
            kept["KUBECONFIG"] = str(self.kubeconfig)
        # What these tests measure is nobody's concern; a busy machine is.
        return {**kept, "COLUMNS": "80", "LLMPERF_INVALID": "skip"}

    def run(self, *more: str, matrix: str = "one") -> subprocess.CompletedProcess[str]:
        """One session, to its end."""
        return self._run(self.command(*more, matrix=matrix))

    def gc(self, *more: str) -> subprocess.CompletedProcess[str]:
        """``pytest-llmperf gc``."""
        return self._run([sys.executable, "-m", "pytest_llmperf.cli", "gc", *more])

    def start(self, *more: str, matrix: str = "one", **environment: str) -> Running:
        """One session that goes on, in a group of processes of its own."""
        output = self.folder / "output.txt"
        with output.open("w") as file:
            process = subprocess.Popen(
                self.command(*more, matrix=matrix),
                cwd=self.folder,
                env={**self.environment, **environment},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return Running(process, output)

    def runs(self) -> list[Path]:
        """What was measured and kept."""
        return sorted(self.folder.glob(".llmperf/runs/*/run.json"))

    def _run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )


@dataclass(frozen=True)
class Running:
    """A session that goes on, and what it writes."""

    process: subprocess.Popen[bytes]
    output: Path

    @property
    def said(self) -> str:
        """All that it has written until now."""
        return self.output.read_text()

    def await_true(self, what: str, check: Callable[[], bool]) -> None:
        """Wait until ``check`` holds, while it lives."""
        give_up = time.monotonic() + TIMEOUT_S
        while not check():
            assert self.process.poll() is None, f"it ended before {what}:\n{self.said}"
            assert time.monotonic() < give_up, f"waited in vain until {what}:\n{self.said}"
            time.sleep(0.02)

    def end(self) -> int:
        """Its exit status, when it has ended."""
        return self.process.wait(TIMEOUT_S)

    def kill(self) -> None:
        """End it, with all of its group, where a test has left it."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, 9)
        self.process.wait()


def prepared(folder: Path, cluster: Cluster, image: str, namespace: str) -> PytestSessions:
    """A folder with the catalog above."""
    (folder / "fixtures").mkdir()
    (folder / "fixtures" / "matrix.yaml").write_text(MATRIX)
    return PytestSessions(folder, cluster, image, namespace)
