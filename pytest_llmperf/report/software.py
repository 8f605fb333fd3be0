"""What the numbers were computed with."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = (
    "pytest-llmperf",
    "pytest",
    "pytest-xdist",
    "allure-pytest",
    "httptools",
    "httpx",
    "matplotlib",
    "numpy",
    "pandas",
    "pyarrow",
    "pydantic",
    "scipy",
    "uvloop",
)


@cache
def _versions() -> tuple[tuple[str, str], ...]:
    found = [("python", platform.python_version())]
    for package in _PACKAGES:
        try:
            found.append((package, version(package)))
        except PackageNotFoundError:  # an optional one, or a checkout that was never installed
            continue
    return tuple(found)


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that measure, compute and report; absent ones are left out."""
    return dict(_versions())


def platform_name() -> str:
    """``Linux-6.8.0-x86_64-with-glibc2.39``: the machine that made the load."""
    return platform.platform()
