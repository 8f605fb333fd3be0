"""A kubeconfig's plugin: a program that gives the token, or the certificate, by which the API server is asked.

The library's own runner waits for one without end, and lets it ask questions in the terminal, which shows the tests' report.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pytest_llmperf.deploy.kubernetes.api.refusals import LoginError
from pytest_llmperf.errors import ConfigError
from pytest_llmperf.secrets import Hidden, HiddenBytes, hiding, masked_text

PLUGIN_S = 60.0
"""How long a plugin may take. It renews a login over the network; what waits longer waits for somebody who is not there."""
_KIND = "ExecCredential"
_CONFIG_OF_PLUGINS = "client.authentication.k8s.io/exec"
"""The cluster's extension that is meant for plugins."""


@dataclass(frozen=True)
class ExecPlugin:
    """What a user's ``exec`` says. ``server`` is the API server's URL."""

    server: str
    settings: Mapping[str, Any] = field(repr=False)
    cluster: Mapping[str, Any] = field(repr=False)
    folder: str
    """The kubeconfig's, from which a relative path to the program leads."""
    login: str
    """How to log in by hand."""

    def status(self) -> Mapping[str, Any]:
        """Its answer: ``token``, or ``clientCertificateData`` and ``clientKeyData``; perhaps ``expirationTimestamp``.

        Raises ``ConfigError`` for settings that say no program, and ``LoginError`` for one that fails or takes ``PLUGIN_S``.
        """
        words, env = self._words(), self._environment()
        try:
            code, answer, complaint = _run(words, env, self.folder)
        except OSError as error:
            raise self._failed(f"cannot be run: {error.strerror}") from None
        except subprocess.TimeoutExpired as error:
            raise self._failed(f"did not end within {PLUGIN_S:g} s", _last_line(error.stderr or b"")) from None
        if code:
            raise self._failed(f"failed with status {code}", _last_line(complaint))
        try:
            said = json.loads(answer)
        except ValueError:
            raise self._failed("has given no JSON") from None
        return self._checked(said)

    def _words(self) -> list[Hidden]:
        command, args = self.settings.get("command"), self.settings.get("args") or []
        if not isinstance(command, str) or not command or not isinstance(args, list):
            raise ConfigError("the kubeconfig's exec has no 'command' with a list of 'args'", hint=self.login)
        if not isinstance(self.settings.get("apiVersion"), str):
            raise ConfigError(f"the kubeconfig's exec of {command!r} has no 'apiVersion'", hint=self.login)
        return [Hidden(word) for word in (command, *args)]

    def _environment(self) -> Mapping[str, str]:
        named = [one for one in self.settings.get("env") or () if isinstance(one, Mapping) and "name" in one]
        told: dict[str, Any] = {"interactive": False}
        if self.settings.get("provideClusterInfo"):
            extensions = self.cluster.get("extensions") or ()
            config = [one.get("extension") for one in extensions if one.get("name") == _CONFIG_OF_PLUGINS]
            told["cluster"] = {**self.cluster, **({"config": config[0]} if config else {})}
        info = {"apiVersion": self.settings["apiVersion"], "kind": _KIND, "spec": told}
        given = {str(one["name"]): Hidden(one.get("value", "")) for one in named}
        return {**hiding(os.environ), **given, "KUBERNETES_EXEC_INFO": Hidden(json.dumps(info, default=str))}

    def _checked(self, said: Any) -> Mapping[str, Any]:
        status = said.get("status") if isinstance(said, dict) else None
        if not isinstance(status, dict) or said.get("kind") != _KIND:
            raise self._failed(f"has given no {_KIND} with a status")
        if said.get("apiVersion") != self.settings["apiVersion"]:
            raise self._failed(f"speaks {said.get('apiVersion')!r}, and the kubeconfig says {self.settings['apiVersion']!r}")
        wanted = ("token",) if "token" in status else ("clientCertificateData", "clientKeyData")
        if not all(isinstance(status.get(key), str) and status[key] for key in wanted):
            raise self._failed("has given neither a token nor a certificate with its key")
        return status

    def _failed(self, how: str, line: str = "") -> LoginError:
        what = f"no credentials for {self.server}: the kubeconfig's plugin {self.settings['command']!r} {how}"
        hint = f"{self.login} It is asked without a terminal, and must not need one."
        return LoginError(f"{what}: {line}" if line else what, hint=hint)


def _run(words: list[Hidden], env: Mapping[str, str], folder: str) -> tuple[int, HiddenBytes, bytes]:
    """Its status, its answer and what it says besides. Raises ``OSError`` and ``subprocess.TimeoutExpired``."""
    # A session of its own has no terminal, and ends with all that the program has started.
    with subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder or None,
        env=env,
        start_new_session=True,
    ) as process:
        try:
            answer, complaint = process.communicate(timeout=PLUGIN_S)
        except BaseException:
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, HiddenBytes(answer), complaint


def _last_line(complaint: bytes) -> str:
    lines = complaint.decode(errors="replace").strip().splitlines()
    return masked_text("".join(filter(str.isprintable, lines[-1]))) if lines else ""
