"""The API server as the deployer asks it: objects as they are on the wire, refusals as errors that say what to do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Self

from pytest_llmperf.deploy.base import Progress, say_nothing
from pytest_llmperf.deploy.kubernetes.api.credentials import Credentials, load_credentials
from pytest_llmperf.deploy.kubernetes.api.kinds import KNOWN, POD, Kind, Manifest, group_of, group_path
from pytest_llmperf.deploy.kubernetes.api.refusals import (
    Asked,
    ConflictError,
    ExpiredError,
    NotFoundError,
    RefusedError,
    UnreachableError,
)
from pytest_llmperf.deploy.kubernetes.api.transport import ANSWER_S, Attempts, Request, Stream, Transport
from pytest_llmperf.deploy.kubernetes.names import MANAGER
from pytest_llmperf.errors import DeployError

Manifests = list[Manifest]
_CONNECT_PATIENCE_S = 5.0
"""For the first answer of all: who starts wants to hear soon that the address is wrong."""
_NO_LOG = "unable to retrieve container logs for"
_CHUNK = 500
"""Objects of one answer to a list."""
_ACCESS_REVIEW = Kind("authorization.k8s.io/v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews", namespaced=False)
_SELF_REVIEW = Kind("authentication.k8s.io/v1", "SelfSubjectReview", "selfsubjectreviews", namespaced=False)


@dataclass(frozen=True)
class Permission:
    """Whether the API server would do something for this user, and why where it says so."""

    allowed: bool
    reason: str = ""


class KubeApi:
    """One cluster, for all threads of a process.

    Every call has timeouts. A server that does not answer is asked again for a minute, which ``on_trouble`` is told; then, or
    when it refuses, a ``DeployError`` (``refusals``) says why.
    """

    def __init__(self, transport: Transport, kubeconfig: Path | None = None, named_context: str | None = None) -> None:
        self.kubeconfig = kubeconfig
        self.named_context = named_context
        """By which it was asked for: None for the usual ones."""
        self._transport = transport
        self._served: dict[str, tuple[Kind, ...]] = {}

    @classmethod
    def connect(cls, kubeconfig: Path | None = None, context: str | None = None, on_trouble: Progress = say_nothing) -> Self:
        """The cluster of a kubeconfig's context, or the one that this process runs in. It has answered once.

        Raises ``ConfigError`` for a file or context that does not exist, ``UnreachableError`` and ``LoginError``.
        """

        def load() -> Credentials:
            return load_credentials(kubeconfig, context)

        api = cls(Transport(load, load(), on_trouble), kubeconfig, context)
        api._transport.ask(_get("/version", Asked("get", "version")), _CONNECT_PATIENCE_S)
        return api

    def new(self, on_trouble: Progress | None = None) -> Self:
        """The same cluster and credentials, with connections of its own."""
        return type(self)(self._transport.another(on_trouble or self.on_trouble), self.kubeconfig, self.named_context)

    def close(self) -> None:
        """Close its connections; whoever waits for a server that does not answer gets that as an error now."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def on_trouble(self) -> Progress:
        """Who is told of a server that does not answer."""
        return self._transport.on_trouble

    @on_trouble.setter
    def on_trouble(self, told: Progress) -> None:
        self._transport.on_trouble = told

    def attempts(self) -> Attempts:
        """Patience with this server, for who asks it in another way."""
        return self._transport.attempts()

    @property
    def credentials(self) -> Credentials:
        """For who connects in another way (a WebSocket): the server, its TLS context, the headers that say who asks."""
        return self._transport.credentials

    @property
    def in_cluster(self) -> bool:
        """Whether this process runs in a pod of the cluster, by whose credentials it asks."""
        return self.credentials.in_cluster

    @property
    def context(self) -> str:
        """The kubeconfig's context; ``in-cluster`` without a kubeconfig."""
        return self.credentials.context

    @property
    def server(self) -> str:
        """The API server's URL."""
        return self.credentials.server

    def version(self) -> str:
        """``v1.36.3``."""
        return str(self._object(_get("/version", Asked("get", "version")))["gitVersion"])

    def now(self) -> float:
        """The API server's clock in seconds since the epoch. It tells whole seconds only."""
        date = self._transport.ask(_get("/version", Asked("get", "version"))).date
        try:
            return parsedate_to_datetime(date).timestamp()
        except ValueError:
            what = f"{self.server} answers without a date"
            raise UnreachableError(what, hint="A proxy before it takes the header `Date` away: let it stay.") from None

    def answers(self, within_s: float) -> None:
        """Hear from it that it is there and takes these credentials: cheap, of no use otherwise. Silence ends an attempt soon.

        Raises ``LoginError``, and ``UnreachableError`` after the usual patience.
        """
        self._transport.ask(replace(_get("/version", Asked("get", "version")), answer_s=within_s))

    def user(self) -> str:
        """Who the API server takes this process for."""
        review = self._made(_SELF_REVIEW, None, {})
        return str(review["status"]["userInfo"].get("username", ""))

    def kind_of(self, manifest: Mapping[str, Any]) -> Kind:
        """The kind of an object, which the cluster is asked for where it is a rare one. Raises ``NotFoundError``."""
        version, kind = manifest["apiVersion"], manifest["kind"]
        if (known := KNOWN.get((version, kind))) is not None:
            return known
        found = next((one for one in self.kinds(version) if one.kind == kind), None)
        if found is not None:
            return found
        name = manifest.get("metadata", {}).get("name", "")
        versions = [version for version in self.versions(group_of(version)) if version != manifest["apiVersion"]]
        raise NotFoundError(
            f"{kind} {name!r}: the cluster knows no {kind} of {manifest['apiVersion']}",
            hint=f"It serves {', '.join(versions)} of that group: change the object's apiVersion."
            if versions
            else "What defines it (a CustomResourceDefinition, an operator) is not installed there.",
        )

    def kinds(self, api_version: str) -> tuple[Kind, ...]:
        """All kinds that the cluster has of a group and version; none where it does not have that."""
        if api_version not in self._served:
            asked = Asked("list", "kinds", api_version=api_version)
            found = self._found(_get(group_path(api_version), asked))
            self._served[api_version] = tuple(
                Kind(api_version, one["kind"], one["name"], bool(one["namespaced"]))
                for one in (found or {}).get("resources", ())
                if "/" not in one["name"]
            )
        return self._served[api_version]

    def versions(self, group: str) -> tuple[str, ...]:
        """``apps/v1`` and whatever else the cluster serves of a group, the preferred one first."""
        if not group:
            return ("v1",)
        found = self._found(_get(f"/apis/{group}", Asked("get", "versions", group)))
        return tuple(one["groupVersion"] for one in (found or {}).get("versions", ()))

    def get(self, kind: Kind, name: str, namespace: str | None = None) -> Manifest | None:
        """An object; None where there is none."""
        return self._found(_get(kind.path(namespace, name), _asked("get", kind, namespace, name)))

    def list(self, kind: Kind, namespace: str | None = None, labels: str = "", fields: str = "") -> Manifests:
        """All objects of a namespace (of all namespaces), as far as selectors choose them."""
        return self.listed(kind, namespace, labels, fields)[0]

    def listed(self, kind: Kind, namespace: str | None = None, labels: str = "", fields: str = "") -> tuple[Manifests, str]:
        """The same, and the resource version from which on a watch tells what changes."""
        objects: Manifests = []
        limit, continued = str(_CHUNK), ""
        while True:
            query = _query(labelSelector=labels, fieldSelector=fields, limit=limit, **{"continue": continued})
            try:
                page = self._object(_get(kind.path(namespace), _asked("list", kind, namespace), query))
            except ExpiredError:
                if not continued:
                    raise
                # It took so long that the rest is gone: all of it at once.
                objects, limit, continued = [], "", ""
                continue
            # Items of a list do not say what they are.
            objects += [{"apiVersion": kind.api_version, "kind": kind.kind, **item} for item in page.get("items") or ()]
            continued = page["metadata"].get("continue", "")
            if not continued:
                return objects, page["metadata"].get("resourceVersion", "")

    def open_watch(
        self, kind: Kind, namespace: str | None, labels: str, fields: str, resource_version: str, longest_s: int
    ) -> Stream:
        """What changes from ``resource_version`` on, one JSON object a line, for ``longest_s`` at most."""
        query = _query(labelSelector=labels, fieldSelector=fields, watch="true", allowWatchBookmarks="true")
        query += _query(resourceVersion=resource_version, timeoutSeconds=str(longest_s))
        request = _get(kind.path(namespace), _asked("watch", kind, namespace), query)
        return self._transport.open(request, longest_s + ANSWER_S)

    def apply(self, manifest: Mapping[str, Any], *, dry_run: bool = False) -> Manifest:
        """Make the object, or make it so (server-side apply, as ``MANAGER``, whoever else had its fields)."""
        kind = self.kind_of(manifest)
        namespace, name = _place(manifest)
        if namespace is not None and not kind.namespaced:
            # The server would take it, for all of the cluster: there nobody looks for what a dead session has left.
            hint = "Apply it once by hand, and take it out of the cell's manifests."
            raise DeployError(f"{kind.kind}/{name} is no namespace's but the whole cluster's", hint=hint)
        query = _query(fieldManager=MANAGER, force="true", fieldValidation="Strict", dryRun="All" if dry_run else "")
        asked = _asked("apply", kind, namespace, name)
        path = kind.path(namespace, name)
        return self._object(Request(asked, "PATCH", path, query, manifest, "application/apply-patch+yaml"))

    def create(self, manifest: Mapping[str, Any]) -> Manifest:
        """Make the object. Raises ``ConflictError`` where one of its name exists."""
        kind = self.kind_of(manifest)
        namespace, name = _place(manifest)
        try:
            return self._made(kind, namespace, manifest)
        except ConflictError as error:
            # Where an attempt was cut off it has made it: names are this process's own.
            found = self.get(kind, name, namespace) if error.is_repeated else None
            if found is None:
                raise
            return found

    def patch(self, kind: Kind, name: str, namespace: str | None, body: Mapping[str, Any]) -> Manifest:
        """Change what ``body`` has (a merge patch); a ``resourceVersion`` in it makes that conditional (``ConflictError``)."""
        asked = _asked("patch", kind, namespace, name)
        query = _query(fieldManager=MANAGER)
        return self._object(Request(asked, "PATCH", kind.path(namespace, name), query, body, "application/merge-patch+json"))

    def delete(
        self,
        kind: Kind,
        name: str,
        namespace: str | None = None,
        *,
        uid: str | None = None,
        propagation: str = "Background",
        grace_s: int | None = None,
    ) -> bool:
        """Have it deleted, which takes its time; False where it was not there, or another one (``uid``) has its name."""
        body: Manifest = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": propagation}
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        if grace_s is not None:
            body["gracePeriodSeconds"] = grace_s
        try:
            self._object(Request(_asked("delete", kind, namespace, name), "DELETE", kind.path(namespace, name), body=body))
        except NotFoundError as error:
            # Where an attempt was cut off it has deleted it.
            return error.is_repeated
        except ConflictError:
            if uid is None:
                raise
            return False
        return True

    def log(
        self,
        pod: str,
        namespace: str,
        container: str,
        *,
        previous: bool = False,
        lines: int | None = 40,
        limit_bytes: int | None = None,
        within_s: float | None = None,
    ) -> str:
        """The last ``lines`` of a container (None: all), from their beginning at most ``limit_bytes``.

        Empty where it has not run (``previous``: not twice) or is gone. With ``within_s`` the server is asked once, and no answer
        in that time is an error.
        """
        query = _query(
            container=container,
            tailLines="" if lines is None else str(lines),
            limitBytes="" if limit_bytes is None else str(limit_bytes),
            previous="true" if previous else "",
        )
        asked = _asked("read the log of", POD, namespace, pod)
        request = Request(asked, "GET", f"{POD.path(namespace, pod)}/log", query, accept="*/*")
        try:
            if within_s is None:
                answer = self._transport.ask(request)
            else:
                answer = self._transport.ask(replace(request, answer_s=within_s), patience_s=0.0)
        except RefusedError as error:
            if error.status in {400, 404}:
                return ""
            raise
        text = answer.body.decode(errors="replace")
        # The kubelet keeps one run that has ended, and answers so, with success, for those before.
        return "" if text.startswith(_NO_LOG) else text

    def may(self, verb: str, kind: Kind, namespace: str | None = None, *, subresource: str = "", name: str = "") -> Permission:
        """Whether this user may do that; in all namespaces where none is given."""
        attributes = {"verb": verb, "group": kind.group, "resource": kind.plural, "namespace": namespace or ""}
        attributes |= {"subresource": subresource, "name": name}
        status = self._made(_ACCESS_REVIEW, None, {"spec": {"resourceAttributes": attributes}})["status"]
        return Permission(bool(status.get("allowed")), status.get("reason", "") or status.get("evaluationError", ""))

    def _made(self, kind: Kind, namespace: str | None, manifest: Mapping[str, Any]) -> Manifest:
        body = {"apiVersion": kind.api_version, "kind": kind.kind, **manifest}
        asked = _asked("create", kind, namespace, _place(manifest)[1])
        query = _query(fieldManager=MANAGER, fieldValidation="Strict")
        return self._object(Request(asked, "POST", kind.path(namespace), query, body))

    def _found(self, request: Request) -> Manifest | None:
        try:
            return self._object(request)
        except NotFoundError:
            return None

    def _object(self, request: Request) -> Manifest:
        body = self._transport.ask(request).body
        try:
            found: Manifest = json.loads(body)
        except ValueError:
            what = f"{self.server} answers as no API server does: {body[:80].decode(errors='replace')!r}"
            raise UnreachableError(what, hint="Is it the API server's URL?") from None
        return found


def _get(path: str, asked: Asked, query: tuple[tuple[str, str], ...] = ()) -> Request:
    return Request(asked, "GET", path, query)


def _asked(verb: str, kind: Kind, namespace: str | None, name: str = "") -> Asked:
    return Asked(verb, kind.plural, name, namespace if kind.namespaced else None, kind.api_version)


def _query(**parameters: str) -> tuple[tuple[str, str], ...]:
    """Those that have a value."""
    return tuple((name, value) for name, value in parameters.items() if value)


def _place(manifest: Mapping[str, Any]) -> tuple[str | None, str]:
    """An object's namespace and name."""
    metadata = manifest.get("metadata", {})
    return metadata.get("namespace"), metadata.get("name", "")
