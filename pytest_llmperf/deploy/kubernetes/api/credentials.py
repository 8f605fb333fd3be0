"""Where the API server is and who asks it: from a kubeconfig, or from the pod that this process runs in.

The library ``kubernetes`` reads kubeconfigs and renews tokens. The connection itself is made elsewhere: what the library writes
to disk for it (keys, certificates) is read into memory and removed at once. Its errors end here, whatever they are: its frames
hold secrets, which pytest would show with an error that nobody has foreseen.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import yaml

from pytest_llmperf.deploy.kubernetes.api.exec_plugin import ExecPlugin
from pytest_llmperf.deploy.kubernetes.api.refusals import LoginError
from pytest_llmperf.errors import ConfigError, LlmperfError, Where, unknown
from pytest_llmperf.secrets import Hidden, masked_text

IN_CLUSTER = "in-cluster"
"""The name of the context that a pod has without any kubeconfig."""
_SERVICE_HOST = "KUBERNETES_SERVICE_HOST"
_DEFAULT = "~/.kube/config"
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
    proxy: Hidden | None = field(repr=False)
    login: str
    """How to log in again."""
    configuration: Any = field(repr=False, compare=False)
    """The library's; it renews what expires."""
    certificate: Hidden = field(default=Hidden(), repr=False)
    """The client's certificate and its key as PEM, for a process of its own; empty where there is a token."""
    _turn: Lock = field(default_factory=Lock, repr=False, compare=False)

    def headers(self) -> dict[str, Hidden]:
        """What says who asks; empty for who has a certificate. It may run the kubeconfig's plugin, for seconds.

        Raises ``LoginError`` where there are no credentials any more, or none that HTTP can carry.
        """
        with self._turn:
            try:
                given = Hidden(self.configuration.auth_settings().get("BearerToken", {}).get("value") or "")
            except LlmperfError as error:
                raise error.with_traceback(None) from None  # the library's frames hold what its kubeconfig says
            except Exception as error:  # noqa: BLE001  (what the library asks for a new token raises what it likes)
                raise LoginError(f"no credentials for {self.server}: {_told(error)}", hint=self.login) from None
        if not given:
            return {}
        scheme, _, token = map(Hidden, given.partition(" "))
        # Files of tokens end with a line's end, as other clients know.
        value = Hidden(f"{scheme} {token.strip()}")
        if not token.strip() or not (value.isascii() and value.isprintable()):
            why = "it has characters that no token has, such as a line's end" if token.strip() else "it is empty"
            what = f"the token of the context {self.context!r} cannot be sent to {self.server}: {why}"
            raise LoginError(what, hint=f"A file of a token holds it and nothing else. {self.login}")
        return {"Authorization": value}


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
    proxy: Hidden | None
    plugin: str | None


class _Loader(yaml.SafeLoader):
    """Reads texts as what is shown nowhere: a kubeconfig has tokens and keys."""


def _hidden_text(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Hidden:
    return Hidden(loader.construct_scalar(node))


_Loader.add_constructor("tag:yaml.org,2002:str", _hidden_text)


def _from_files(files: Sequence[Path], context: str | None) -> Credentials:
    from kubernetes.client import Configuration

    place = Where(file=os.pathsep.join(map(str, files)))
    chosen = _chosen(files, context, place)
    configuration = Configuration()
    login = f"Log in again, as you do for `kubectl --context={chosen.name} get pods`"
    login += f" (its credentials come from {chosen.plugin})." if chosen.plugin else "."
    with _LOADING, TemporaryDirectory(prefix="llmperf-") as folder:
        try:
            _load(files, chosen.name, folder, login, configuration)
            tls = _tls(configuration, configuration.host)
            named = (configuration.cert_file, configuration.key_file)
            certificate = Hidden("\n".join(Path(file).read_text(encoding="ascii") for file in named if file))
        except LlmperfError as error:
            raise error.with_traceback(None) from None
        except Exception as error:  # noqa: BLE001  (a kubeconfig may say anything, and the library trusts it)
            raise ConfigError(f"its context {chosen.name!r} cannot be used: {_told(error)}", where=place) from None
    proxy = _proxy(configuration.host, chosen.proxy, place)
    name = getattr(configuration, "tls_server_name", None)
    return Credentials(configuration.host, chosen.name, False, tls, name, proxy, login, configuration, certificate)


def _load(files: Sequence[Path], context: str, folder: str, login: str, configuration: Any) -> None:
    """Read the context into the library's configuration, which renews by itself what expires. Keys go to the folder."""
    from kubernetes.config.dateutil import parse_rfc3339
    from kubernetes.config.kube_config import FileOrData, KubeConfigLoader, KubeConfigMerger

    merged = KubeConfigMerger(os.pathsep.join(map(str, files)))
    for part in ("clusters", "contexts", "users"):
        # By this it is named in errors; the library's own name for it is all that it says, tokens too.
        for node in merged.config.value[part]:
            node.name = f"{node.path}: {part}/{node.value.get('name') if isinstance(node.value, Mapping) else None}"
    loader: Any = KubeConfigLoader(
        merged.config, context, config_persister=merged.save_changes, config_base_path=None, temp_file_path=folder
    )

    def ask_plugin() -> bool:
        settings = loader._user.safe_get("exec")
        if settings is None:
            return False
        cluster, base = loader._cluster.value, loader._get_base_path(loader._cluster.path)
        status = ExecPlugin(cluster.get("server", ""), settings, cluster, base, login).status()
        if "token" in status:
            loader.token = f"Bearer {status['token']}"
        else:
            loader.cert_file, loader.key_file = (
                FileOrData(status, None, key, base64_file_content=False, temp_file_path=folder).as_file()
                for key in ("clientCertificateData", "clientKeyData")
            )
        if "expirationTimestamp" in status:
            loader.expiry = parse_rfc3339(status["expirationTimestamp"])
        return True

    loader._load_from_exec_plugin = ask_plugin
    loader.load_and_set(configuration)


def _told(error: Exception) -> str:
    """An error of the library's, as people can be told."""
    return masked_text(str(error).strip() or type(error).__name__)


def _of_pod(context: str | None) -> Credentials:
    from kubernetes.client import Configuration
    from kubernetes.config import ConfigException, load_incluster_config

    if context is not None:
        raise ConfigError(f"there is no context {context!r} without a kubeconfig", hint=_HOW)
    configuration = Configuration()
    try:
        load_incluster_config(client_configuration=configuration)
    except (ConfigException, OSError) as error:
        raise ConfigError(f"this pod has no service account's credentials: {error}", hint=_HOW) from None
    login = "The pod's service account token does not count: was the service account deleted?"
    tls = _tls(configuration, configuration.host)
    return Credentials(configuration.host, IN_CLUSTER, True, tls, None, None, login, configuration)


def _chosen(files: Sequence[Path], context: str | None, place: Where) -> _Context:
    """The context to be used, read from files as kubectl merges them: who comes first has it."""
    read = [_read(file) for file in files]
    contexts = _named(read, "contexts", "context")
    name = context or next((str(one["current-context"]) for one in read if one.get("current-context")), None)
    if name is None:
        raise ConfigError("has no current context", where=place, hint=f"Name one of: {', '.join(sorted(contexts))}.")
    if name not in contexts:
        raise unknown("context", name, contexts, place)
    cluster = _named(read, "clusters", "cluster").get(str(contexts[name].get("cluster")), {})
    user = _named(read, "users", "user").get(str(contexts[name].get("user")), {})
    plugin, proxy = user.get("exec") or {}, cluster.get("proxy-url")
    if not isinstance(plugin, Mapping) or not isinstance(plugin.get("command", ""), str):
        what = f"its context {name!r} cannot be used: its user's 'exec' is not a mapping with 'apiVersion' and 'command'"
        raise ConfigError(what, where=place)
    return _Context(name, Hidden(proxy) if proxy else None, str(plugin.get("command", "")) or None)


def _read(file: Path) -> Mapping[str, Any]:
    try:
        found = yaml.load(file.read_text(encoding="utf-8"), _Loader)
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
    return {
        str(entry["name"]): entry[singular] for entry in entries if "name" in entry and isinstance(entry.get(singular), Mapping)
    }


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


def _proxy(server: str, named: Hidden | None, place: Where) -> Hidden | None:
    """The kubeconfig's ``proxy-url``, else the environment's proxy, unless ``NO_PROXY`` has the server."""
    url = urlsplit(server)
    proxies = {scheme: Hidden(proxy) for scheme, proxy in getproxies().items()}
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
