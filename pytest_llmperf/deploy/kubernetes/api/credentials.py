"""Where the API server is and who asks it: from a kubeconfig, or from the pod that this process runs in.

The library ``kubernetes`` reads kubeconfigs, runs exec plugins and renews tokens. The connection itself is made elsewhere: what
the library writes to disk for it (keys, certificates) is read into memory and removed at once.
"""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock, get_ident
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import yaml

from pytest_llmperf.deploy.kubernetes.api.refusals import LoginError
from pytest_llmperf.errors import ConfigError, Where, unknown
from pytest_llmperf.secrets import masked_text

IN_CLUSTER = "in-cluster"
"""The name of the context that a pod has without any kubeconfig."""
_SERVICE_HOST = "KUBERNETES_SERVICE_HOST"
_DEFAULT = "~/.kube/config"
_LOADER = "kube_config"
"""The library's module that reads kubeconfigs and runs their plugins."""
_HOW = "Name a kubeconfig by an option or the variable KUBECONFIG; a pod needs none."


@dataclass(frozen=True)
class Credentials:
    """What a connection to the API server needs. Nothing of it is ever shown."""

    server: str
    context: str
    in_cluster: bool
    tls: ssl.SSLContext | None = field(repr=False)
    """None of a server that speaks plain HTTP."""
    server_name: str | None
    """By which the server's certificate is checked, where it is not the URL's host."""
    proxy: str | None = field(repr=False)
    login: str
    """How to log in again."""
    configuration: Any = field(repr=False, compare=False)
    """The library's; it renews what expires."""
    certificate: str = field(default="", repr=False)
    """The client's certificate and its key as PEM, for a process of its own; empty where there is a token."""
    _turn: Lock = field(default_factory=Lock, repr=False, compare=False)

    def headers(self) -> dict[str, str]:
        """What says who asks; empty for who has a certificate. It may run the kubeconfig's plugin, for seconds."""
        with self._turn, _complaints() as complaints:
            setting = self.configuration.auth_settings().get("BearerToken", {})
        if complaints:
            raise LoginError(f"no credentials for {self.server}: {complaints[-1]}", hint=self.login)
        return {"Authorization": setting["value"]} if setting.get("value") else {}


def load_credentials(kubeconfig: Path | None, context: str | None) -> Credentials:
    """Those of the kubeconfig (of KUBECONFIG, of the home directory) and its context; in a pod without any, the pod's own.

    Raises ``ConfigError`` for a file that is not there or cannot be read, and a context that it does not have.
    """
    files = _files(kubeconfig)
    if files:
        return _from_files(files, context)
    if kubeconfig is None and os.environ.get(_SERVICE_HOST):
        return _of_pod(context)
    missing = kubeconfig or os.environ.get("KUBECONFIG") or _DEFAULT
    raise ConfigError("there is no such kubeconfig", where=Where(file=str(missing)), hint=_HOW)


def _files(kubeconfig: Path | None) -> list[Path]:
    if kubeconfig is not None:
        return [kubeconfig] if kubeconfig.is_file() else []
    named = os.environ.get("KUBECONFIG") or _DEFAULT
    files = (Path(part).expanduser() for part in named.split(os.pathsep) if part)
    return [file for file in files if file.is_file()]


_LOADING = Lock()
"""The library keeps what it loads in files that all threads share."""


@dataclass(frozen=True)
class _Context:
    """What a kubeconfig says that the library does not hand on."""

    name: str
    proxy: str | None
    plugin: str | None


def _from_files(files: Sequence[Path], context: str | None) -> Credentials:
    from kubernetes.client import Configuration
    from kubernetes.config import ConfigException, load_kube_config

    place = Where(file=os.pathsep.join(map(str, files)))
    chosen = _chosen(files, context, place)
    configuration = Configuration()
    login = f"Log in again, as you do for `kubectl --context={chosen.name} get pods`"
    login += f" (its credentials come from {chosen.plugin})." if chosen.plugin else "."
    with _LOADING, TemporaryDirectory(prefix="llmperf-") as folder, _complaints() as complaints:
        try:
            load_kube_config(str(place.file), chosen.name, configuration, temp_file_path=folder)
            tls = _tls(configuration, configuration.host)
            pair = [Path(file).read_text(encoding="ascii") for file in (configuration.cert_file, configuration.key_file) if file]
        except (ConfigException, OSError, ValueError, KeyError, TypeError) as error:
            what = f"its context {chosen.name!r} cannot be used: {masked_text(str(error))}"
            raise ConfigError(what, where=place) from None
    if complaints:
        raise LoginError(f"no credentials for {configuration.host}: {complaints[-1]}", hint=login)
    proxy = _proxy(configuration.host, chosen.proxy, place)
    name = getattr(configuration, "tls_server_name", None)
    return Credentials(configuration.host, chosen.name, False, tls, name, proxy, login, configuration, "\n".join(pair))


def _of_pod(context: str | None) -> Credentials:
    from kubernetes.client import Configuration
    from kubernetes.config import ConfigException, load_incluster_config

    if context is not None:
        raise ConfigError(f"there is no context {context!r} without a kubeconfig", hint=_HOW)
    configuration = Configuration()
    try:
        load_incluster_config(client_configuration=configuration)
    except ConfigException as error:
        raise ConfigError(f"this pod has no service account's credentials: {error}", hint=_HOW) from None
    login = "The pod's service account token does not count: was the service account deleted?"
    tls = _tls(configuration, configuration.host)
    return Credentials(configuration.host, IN_CLUSTER, True, tls, None, None, login, configuration)


def _chosen(files: Sequence[Path], context: str | None, place: Where) -> _Context:
    """The context to be used, read from files as kubectl merges them: who comes first has it."""
    read = [_read(file) for file in files]
    contexts = _named(read, "contexts", "context")
    name = context or next((one["current-context"] for one in read if one.get("current-context")), None)
    if name is None:
        raise ConfigError("has no current context", where=place, hint=f"Name one of: {', '.join(sorted(contexts))}.")
    if name not in contexts:
        raise unknown("context", name, contexts, place)
    cluster = _named(read, "clusters", "cluster").get(contexts[name].get("cluster", ""), {})
    user = _named(read, "users", "user").get(contexts[name].get("user", ""), {})
    return _Context(name, cluster.get("proxy-url"), (user.get("exec") or {}).get("command"))


def _read(file: Path) -> Mapping[str, Any]:
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", where=Where(file=str(file))) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = Where(file=str(file), line=mark.line + 1 if mark is not None else None)
        raise ConfigError(
            f"is no YAML: {getattr(error, 'problem', None) or 'it has bytes that no text has'}", where=place
        ) from None
    if not isinstance(found, Mapping):
        raise ConfigError("is no kubeconfig", where=Where(file=str(file)), hint=_HOW)
    return found


def _named(read: Sequence[Mapping[str, Any]], plural: str, singular: str) -> dict[str, Mapping[str, Any]]:
    entries = [entry for one in reversed(read) for entry in one.get(plural) or () if isinstance(entry, Mapping)]
    return {entry["name"]: entry[singular] for entry in entries if "name" in entry and isinstance(entry.get(singular), Mapping)}


def _tls(configuration: Any, server: str) -> ssl.SSLContext | None:
    if not server.startswith("https:"):
        return None
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    # Clusters' own authorities often lack an extension that Python 3.13 wants and nobody else does.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, configuration.key_file)
    return context


def _proxy(server: str, named: str | None, place: Where) -> str | None:
    """The kubeconfig's ``proxy-url``, else the environment's proxy, unless ``NO_PROXY`` has the server."""
    url = urlsplit(server)
    proxies = getproxies()
    proxy = named or (None if _is_direct(url.hostname or "", proxies.get("no", "")) else proxies.get(url.scheme))
    if proxy is not None and urlsplit(proxy).scheme not in {"http", "https"}:
        what = f"the API server's proxy is neither http:// nor https:// ({masked_text(proxy)})"
        raise ConfigError(what, where=place, hint="Put an HTTP proxy before it, or a tunnel to the API server.")
    return proxy


def _is_direct(host: str, no_proxy: str) -> bool:
    """Whether ``NO_PROXY`` has a host: itself, a domain that it is in, a network, or ``*`` for all."""
    entries = [entry.strip().lstrip(".") for entry in no_proxy.split(",") if entry.strip()]
    return any(entry in ("*", host) or host.endswith(f".{entry}") or _is_within(host, entry) for entry in entries)


def _is_within(host: str, network: str) -> bool:
    try:
        return "/" in network and ip_address(host) in ip_network(network, strict=False)
    except ValueError:  # a name, or no network
        return False


class _Kept(logging.Handler):
    """Keeps what the library logs as an error in this thread; others log too."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []
        self._thread = get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep its message, without secrets."""
        if record.module == _LOADER and record.thread == self._thread:
            self.messages.append(masked_text(record.getMessage()))


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """What the library logs meanwhile: a plugin that fails is no exception to it, but a line of the root logger."""
    kept = _Kept()
    root = logging.getLogger()
    root.addHandler(kept)
    try:
        yield kept.messages
    finally:
        root.removeHandler(kept)
