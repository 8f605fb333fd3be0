"""The cluster's certificates and kubeconfig files, by ``openssl``: elliptic curves, which take no time to make."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import yaml

from pytest_llmperf.errors import DeployError

VALID_DAYS = 30
CLIENT_AUTHORITY = "ca"
PROXY_AUTHORITY = "front-proxy-ca"
"""Another one than the clients': the API server refuses to start where one signs for both."""
_CONFIG = "[req]\ndistinguished_name = subject\n[subject]\n"
"""Nothing of the machine's own openssl.cnf is to get into the certificates."""


@dataclass(frozen=True)
class Identity:
    """Who a certificate says its holder is: ``subject`` as openssl writes it, ``names`` as ``IP:`` and ``DNS:`` entries."""

    name: str
    subject: str
    authority: str = CLIENT_AUTHORITY
    names: tuple[str, ...] = ()


def make_pki(folder: Path, identities: Iterable[Identity]) -> None:
    """Write ``NAME.crt`` and ``NAME.key`` of both authorities and each identity, and ``sa.key`` and ``sa.pub`` for tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "openssl.cnf"
    config.write_text(_CONFIG)
    for authority in (CLIENT_AUTHORITY, PROXY_AUTHORITY):
        _certificate(folder, authority, f"/CN={authority}", "basicConstraints=critical,CA:TRUE")
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda identity: _signed(folder, identity), identities))
    _openssl(folder, "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "sa.key")
    _openssl(folder, "pkey", "-in", "sa.key", "-pubout", "-out", "sa.pub")


def kubeconfig(folder: Path, identity: str, server: str) -> str:
    """A kubeconfig file that holds all it needs, so that it works wherever it is copied to."""
    parts: Mapping[str, object] = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "llmperf",
        "clusters": [
            {
                "name": "llmperf",
                "cluster": {"server": server, "certificate-authority-data": _data(folder / f"{CLIENT_AUTHORITY}.crt")},
            }
        ],
        "users": [
            {
                "name": identity,
                "user": {
                    "client-certificate-data": _data(folder / f"{identity}.crt"),
                    "client-key-data": _data(folder / f"{identity}.key"),
                },
            }
        ],
        "contexts": [{"name": "llmperf", "context": {"cluster": "llmperf", "user": identity}}],
    }
    return yaml.safe_dump(parts, sort_keys=False)


def _signed(folder: Path, identity: Identity) -> None:
    extensions = ["basicConstraints=critical,CA:FALSE"]
    if identity.names:
        extensions.append(f"subjectAltName={','.join(identity.names)}")
    _certificate(folder, identity.name, identity.subject, *extensions, authority=identity.authority)


def _certificate(folder: Path, name: str, subject: str, *extensions: str, authority: str | None = None) -> None:
    words = ["req", "-x509", "-config", "openssl.cnf", "-days", str(VALID_DAYS), "-subj", subject, "-nodes"]
    words += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-keyout", f"{name}.key", "-out", f"{name}.crt"]
    if authority is not None:
        words += ["-CA", f"{authority}.crt", "-CAkey", f"{authority}.key"]
    _openssl(folder, *words, *(word for extension in extensions for word in ("-addext", extension)))


def _openssl(folder: Path, *words: str) -> None:
    done = subprocess.run(["openssl", *words], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DeployError(f"`openssl {words[0]}` failed: {done.stderr.strip()}")


def _data(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()
