"""Kubeconfigs as people have them, and what an error would show of what they hold."""

from __future__ import annotations

import stat
import traceback
from pathlib import Path

import yaml

SERVER = "https://10.1.2.3:6443"
TOKEN = "t0ken-0123456789"


def kubeconfig(
    file: Path, context: str = "prod", user: object = None, cluster: object = None, current: str | None = "same"
) -> Path:
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": context if current == "same" else current,
        "clusters": [{"name": "c", "cluster": {"server": SERVER} if cluster is None else cluster}],
        "users": [{"name": f"{context}-user", "user": {"token": TOKEN} if user is None else user}],
        "contexts": [{"name": context, "context": {"cluster": "c", "user": f"{context}-user"}}],
    }
    file.write_text(yaml.safe_dump(content))
    return file


def plugin(folder: Path, text: str, **more: object) -> dict[str, object]:
    """A user whose credentials a program gives."""
    program = folder / "login-helper"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    api_version = "client.authentication.k8s.io/v1"
    return {"exec": {"apiVersion": api_version, "command": str(program), "args": [], "interactiveMode": "Never", **more}}


def shown(error: BaseException) -> str:
    """What pytest shows of an error with ``--showlocals``, its test left out."""
    told = [f"{error}"]
    for found in (error, *(one for one in (error.__cause__, error.__context__) if one and not error.__suppress_context__)):
        for frame, _ in traceback.walk_tb(found.__traceback__):
            if not frame.f_code.co_name.startswith("test_"):
                told += [frame.f_code.co_name, *(f"{name} = {value!r}" for name, value in frame.f_locals.items())]
    return "\n".join(told)
