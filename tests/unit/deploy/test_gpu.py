"""What this machine's driver says of its accelerators, asked by a real command."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_llmperf.deploy.gpu import NO_GPU, Gpu, gpu_here, gpu_in


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    gpu_here.cache_clear()
    yield
    gpu_here.cache_clear()


def nvidia_smi(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of that name on the path, before any other."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


def test_it_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tmp_path, f'echo "$@" >> {tmp_path}/asked; echo "NVIDIA L4, 550.54.15"', monkeypatch)
    assert gpu_here() == gpu_here() == Gpu("NVIDIA L4", "550.54.15")
    assert (tmp_path / "asked").read_text() == "--query-gpu=name,driver_version --format=csv,noheader\n"


def test_one_that_fails_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tmp_path, 'echo "NVIDIA-SMI has failed, it could not reach the driver"; exit 9', monkeypatch)
    assert gpu_here() == NO_GPU


def test_none_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_here() == NO_GPU


def test_several_are_named_by_their_kinds() -> None:
    assert gpu_in("NVIDIA H100, 550.1\nNVIDIA H100, 550.1\n") == Gpu("NVIDIA H100", "550.1")
    assert gpu_in("NVIDIA H100, 550.1\nNVIDIA L4, 550.1\n") == Gpu("NVIDIA H100, NVIDIA L4", "550.1")
    assert gpu_in("") == NO_GPU
