"""The images that pods of the test cluster run, made without a registry: busybox, and the simulator by the ``Dockerfile``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from pytest_llmperf.errors import DeployError
from tests.cluster.cache import cache_folder, digest, digest_of_files, locked, once, remove_older
from tests.cluster.components import PAUSE_IMAGE
from tests.cluster.machine import SEARCH_PATH
from tests.cluster.oci import SmallImage

SIMULATOR = "localhost/llmperf-simulator:local"
ROOT = Path(__file__).parents[2]
APPLETS = (
    "sh",
    "sleep",
    "cat",
    "echo",
    "false",
    "true",
    "env",
    "httpd",
    "wget",
    "nc",
    "head",
    "tail",
    "id",
    "ls",
    "mkdir",
    "test",
    "timeout",
    "touch",
)
DEPENDENCIES = ("httptools", "prometheus-client", "uvloop")
"""What the Dockerfile installs beside the project itself."""
_BUILD_BACKEND = "hatchling"
_BASE = "localhost/llmperf-base:local"
_BASE_PACKAGES = ("python3", "python3-venv")
_SOURCES = Path("/etc/apt/sources.list.d/debian.sources")
_OS_RELEASE = Path("/etc/os-release")
_ARCHIVE = "image.tar"
_APART = ("setpriv", "--pdeathsig=KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
"""For programs that mount: they, all that they started and what they mounted are gone as soon as this process is."""
_CONTEXT = ("Dockerfile", ".dockerignore", "pyproject.toml", "README.md", "LICENSE", "pytest_llmperf", "fixtures", "manifests")


def busybox_archive() -> Path:
    """An image with a shell and small tools; it is also what holds a pod's namespaces open."""
    program = Path(shutil.which("busybox", path=SEARCH_PATH) or "busybox")
    recipe = digest([program.read_bytes(), *APPLETS, Path(__file__).with_name("oci.py").read_bytes()])
    image = SmallImage(
        name=PAUSE_IMAGE,
        programs={"bin/busybox": program},
        links={f"bin/{applet}": "busybox" for applet in APPLETS},
        command=("sleep", "infinity"),
    )
    return once(f"busybox-{recipe}", lambda folder: image.write(folder / _ARCHIVE)) / _ARCHIVE


def simulator_archive() -> Path:
    """The project's Dockerfile on a base of Debian packages. The first time takes minutes, a change of sources seconds."""
    base = once(_base_name(), _make_base)
    built = once(_simulator_name(), lambda folder: _build_simulator(base, folder / _ARCHIVE))
    remove_older(built)
    return built / _ARCHIVE


def built_simulator_archive() -> Path | None:
    """The same if it is there already, for the sources as they are now."""
    archive = cache_folder() / _simulator_name() / _ARCHIVE
    return archive if archive.is_file() else None


def _simulator_name() -> str:
    return f"simulator-{digest([_base_name(), digest_of_files(ROOT, _context())])}"


def _context() -> Iterator[Path]:
    """What the Dockerfile is given."""
    for name in _CONTEXT:
        place = ROOT / name
        files = place.rglob("*") if place.is_dir() else [place]
        yield from (file for file in files if file.is_file() and "__pycache__" not in file.parts)


def _base_name() -> str:
    return f"base-{digest([_release(), *_base_options(), *DEPENDENCIES, _BUILD_BACKEND])}"


def _release() -> str:
    """This machine's release of Debian, whose mirror it can reach."""
    lines = dict(line.partition("=")[::2] for line in _OS_RELEASE.read_text().splitlines())
    return lines.get("VERSION_CODENAME", "stable").strip('"')


def _make_base(folder: Path) -> None:
    """A storage of buildah's with the base image in it, and the wheels that the Dockerfile's pip will find."""
    started = time.monotonic()
    print(f"cluster: making a base image of {_release()}'s packages", flush=True)
    archive = folder / "base.tar"
    mirror = [str(_SOURCES)] if _SOURCES.is_file() else []
    _run([*_APART, "mmdebstrap", *_base_options(), _release(), str(archive), *mirror], folder)
    (folder / "Dockerfile").write_text("FROM scratch\nADD base.tar /\n")
    _run([*_buildah(folder), "bud", "--isolation=chroot", f"--tag={_BASE}", str(folder)], folder)
    wheels = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", f"--dest={folder / 'wheels'}"]
    _run([*wheels, f"--python-version={_python_of(archive)}", *DEPENDENCIES, _BUILD_BACKEND], folder)
    archive.unlink()
    print(f"cluster: the base image is made after {time.monotonic() - started:.0f} s", flush=True)


def _base_options() -> list[str]:
    unread = [f"--dpkgopt=path-exclude=/usr/share/{place}/*" for place in ("doc", "man", "locale", "info")]
    return ["--variant=minbase", f"--include={','.join(_BASE_PACKAGES)}", *unread]


def _python_of(archive: Path) -> str:
    """The version of the Python in a root file system: what ``/usr/bin/python3`` leads to."""
    with tarfile.open(archive) as tar:
        return tar.getmember("./usr/bin/python3").linkname.removeprefix("python")


def _build_simulator(base: Path, archive: Path) -> None:
    started = time.monotonic()
    print("cluster: building the simulator's image", flush=True)
    buildah = _buildah(base)
    arguments = [f"--build-arg=BASE={_BASE}", "--build-arg=PIP_ARGS=--no-index --find-links=/wheels"]
    with locked("buildah"):
        _run([*buildah, "rm", "--all"], archive.parent)  # what a build that was killed has left
        build = ["bud", "--isolation=chroot", "--pull-never", f"--volume={base / 'wheels'}:/wheels:ro", *arguments]
        _run([*buildah, *build, f"--tag={SIMULATOR}", str(ROOT)], archive.parent)
        _run([*buildah, "push", "--disable-compression", SIMULATOR, f"oci-archive:{archive}:{SIMULATOR}"], archive.parent)
        _run([*buildah, "rmi", "--force", SIMULATOR], archive.parent)
    print(f"cluster: the simulator's image is built after {time.monotonic() - started:.0f} s", flush=True)


def _buildah(base: Path) -> list[str]:
    """buildah with a storage of its own."""
    run = cache_folder() / ".buildah-run"
    return [*_APART, "buildah", f"--root={base / 'storage'}", f"--runroot={run}", "--storage-driver=overlay"]


def _run(command: Sequence[str], temporary: Path) -> None:
    environment = os.environ | {"PATH": SEARCH_PATH, "TMPDIR": str(temporary)}
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DeployError(f"`{' '.join(command[:6])} …` failed", log_tail=(done.stdout + done.stderr)[-3000:])
