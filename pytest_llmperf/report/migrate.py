"""Older documents of results, brought up to the current version before they are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

CURRENT = "2"

_Raw = dict[str, Any]


def migrated(document: object) -> object:
    """A parsed document of a run or a session in the current version; anything else as it is.

    Raises ``ValueError`` for one of a newer version.
    """
    if not isinstance(document, dict):
        return document
    raw: _Raw = document
    while (version := raw.get("schema_version", CURRENT)) != CURRENT:
        if version not in _STEPS:
            raise ValueError(
                f"of version {version!r}, which this pytest-llmperf does not know: it reads versions up to {CURRENT}"
            )
        raw = _STEPS[version](raw)
    return raw


def _run_from_1(raw: _Raw) -> _Raw:
    """Version 2 gathers how everything was set up in ``configuration``, and knows more of it."""
    packages, platform = raw.get("packages"), raw.get("client_platform")
    kept = {name: value for name, value in raw.items() if name not in {"packages", "client_platform"}}
    configuration: _Raw = {"settings": {}, "environment": {}, "packages": packages, "client_platform": platform}
    return {**kept, "schema_version": "2", "configuration": configuration}


def _from_1(raw: _Raw) -> _Raw:
    if raw.get("kind") != "session":
        return _run_from_1(raw)
    runs = raw.get("runs")
    # A list of anything else is for the reader to refuse.
    newer = [_run_from_1(run) if isinstance(run, dict) else run for run in runs] if isinstance(runs, list) else runs
    return {**raw, "schema_version": "2", "runs": newer}


_STEPS: dict[str, Callable[[_Raw], _Raw]] = {"1": _from_1}
