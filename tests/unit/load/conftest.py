"""The paced server, one for a test session (one for each xdist worker)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from pytest_llmperf.deploy.base import Endpoint


class PacedServer:
    """A running paced server."""

    def __init__(self, port: int, scheme: str = "http") -> None:
        self.port = port
        self.scheme = scheme

    def endpoint(self, behaviour: str, *, api_key: str | None = None) -> Endpoint:
        """The server, behaving so: ``ok/20/5``."""
        return Endpoint(f"{self.scheme}://127.0.0.1:{self.port}/{behaviour}", "m", api_key)

    def truth(self, behaviour: str) -> list[dict[str, Any]]:
        """The requests it has seen under that behaviour, in order."""
        with urlopen(f"http://127.0.0.1:{self.port}/truth") as answer:
            seen: list[dict[str, Any]] = json.load(answer)
        return [each for each in seen if each["path"].startswith(f"/{behaviour}/")]


@contextmanager
def running_server(*arguments: str) -> Iterator[PacedServer]:
    """A paced server that lives as long as the block."""
    script = Path(__file__).with_name("paced_server.py")
    process = subprocess.Popen([sys.executable, str(script), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield PacedServer(int(process.stdout.readline()), "https" if arguments else "http")
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


@pytest.fixture(scope="session")
def server() -> Iterator[PacedServer]:
    with running_server() as running:
        yield running


@pytest.fixture
def capture() -> Callable[[str], bytes]:
    """Reads a file captured from vLLM 0.32; skips where the captures are not at hand."""
    shared = os.environ.get("LLMPERF_SHARED")
    folder = (Path(shared) if shared else Path(__file__).resolve().parents[4] / "shared") / "wire" / "vllm-0.32"

    def read(name: str) -> bytes:
        if not folder.is_dir():
            pytest.skip("no captures of a real vLLM here; LLMPERF_SHARED names the folder that holds wire/")
        return (folder / name).read_bytes()

    return read
