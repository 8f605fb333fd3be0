"""The few requests that bringing a cluster up needs, with an administrator's certificate."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx

from pytest_llmperf.errors import DeployError


@dataclass(frozen=True)
class Api:
    """The API server at ``url``; ``pki`` holds the administrator's certificate."""

    url: str
    pki: Path

    @cached_property
    def _client(self) -> httpx.Client:
        context = ssl.create_default_context(cafile=str(self.pki / "ca.crt"))
        context.load_cert_chain(self.pki / "admin.crt", self.pki / "admin.key")
        return httpx.Client(base_url=self.url, verify=context, trust_env=False, timeout=10.0)

    def close(self) -> None:
        """Close the connections to it, if there are any."""
        if "_client" in self.__dict__:
            self._client.close()

    def is_ready(self) -> bool:
        """Whether it answers, and says that it is ready."""
        try:
            return self._client.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def find(self, path: str) -> dict[str, Any] | None:
        """The object at ``path``; None where there is none."""
        answer = self._client.get(path)
        return None if answer.status_code == 404 else _object(answer)

    def patch(self, path: str, change: Mapping[str, object]) -> None:
        """Merge ``change`` into the object at ``path``."""
        _object(self._client.patch(path, json=change, headers={"Content-Type": "application/merge-patch+json"}))

    def post(self, path: str, new: Mapping[str, object]) -> None:
        """Make an object."""
        _object(self._client.post(path, json=new))

    def node_is_ready(self, name: str) -> bool:
        """Whether the node has the condition Ready."""
        node = self.find(f"/api/v1/nodes/{name}")
        conditions = node["status"].get("conditions", []) if node is not None else []
        return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def _object(answer: httpx.Response) -> dict[str, Any]:
    if not answer.is_success:
        raise DeployError(f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text[:300]}")
    found: dict[str, Any] = answer.json()
    return found
