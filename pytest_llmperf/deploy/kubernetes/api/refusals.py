"""What the API server says no with -> errors that name the cause and the next step.

The server answers with a Status object (``reason``, ``message``, ``details``); what has no reason of its own, as a quota or an
admission webhook, is told by its message alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_llmperf.errors import DeployError
from pytest_llmperf.secrets import masked_text

ANONYMOUS = "system:anonymous"
"""Who somebody is to the API server that has shown no credentials."""
_RBAC_HINT = "manifests/rbac/ holds all permissions that are needed; `pytest-llmperf doctor` says which of them are missing."
_NO_LOGIN_HINT = "The kubeconfig's user has no credentials that count: log in again, and try the same with kubectl."
_DENIED = re.compile(
    r'User "(?P<user>[^"]*)" cannot (?P<verb>\w+) resource "(?P<resource>[^"]*)" in API group "(?P<group>[^"]*)"'
    r'(?: in the namespace "(?P<namespace>[^"]*)"| at the cluster scope)?'
)
_QUOTA = re.compile(r"exceeded quota: (?P<name>\S+), requested: (?P<requested>.+), used: (?P<used>.+), limited: (?P<limited>.+)")
_QUOTA_ASKS = re.compile(r"failed quota: (?P<name>\S+): must specify (?P<missing>.+)")
_WEBHOOK = re.compile(r'admission webhook "(?P<name>[^"]+)" denied the request(?: without explanation|: (?P<why>.*))?', re.DOTALL)
_WEBHOOK_GONE = re.compile(r'failed calling webhook "(?P<name>[^"]+)": (?P<why>.*)', re.DOTALL)
_POLICY = re.compile(r"ValidatingAdmissionPolicy '(?P<name>[^']+)' .*?denied request: (?P<why>.*)", re.DOTALL)
POD_SECURITY = re.compile(r'violates PodSecurity "(?P<level>[^"]+)": (?P<why>.*)', re.DOTALL)
_STRICT = re.compile(r"(?:strict decoding error|failed to create typed patch object \(.*?\)): (?P<why>.*)", re.DOTALL)
_LONGEST = 1000
"""Characters of what is not understood."""


@dataclass(frozen=True)
class Asked:
    """What was asked of the API server, as it and people name it."""

    verb: str
    plural: str
    name: str = ""
    namespace: str | None = None
    api_version: str = "v1"

    def __str__(self) -> str:
        place = f" in the namespace {self.namespace!r}" if self.namespace else ""
        return f"{self.verb} {self.plural}{'/' if self.name else ''}{self.name}{place}"


class RefusedError(DeployError):
    """The API server says no. ``status`` is the HTTP status, ``reason`` the API's word for why (``AlreadyExists``).

    ``is_repeated``: an earlier attempt was cut off, and may have been carried out.
    """

    status = 0
    reason = ""
    is_repeated = False


class ForbiddenError(RefusedError):
    """A permission is missing, or a quota, an admission webhook or a policy stands against it."""


class NotFoundError(RefusedError):
    """The object, its namespace, or its kind does not exist."""


class ConflictError(RefusedError):
    """It exists already, or somebody else has changed it in between."""


class ExpiredError(RefusedError):
    """What was to be continued (a list, a watch) is too old: it has to begin anew."""


class LoginError(DeployError):
    """The credentials do not count (any more)."""


class UnreachableError(DeployError):
    """The API server does not answer, or not as one. ``is_final``: that will not pass by itself."""

    is_final = False


@dataclass(frozen=True)
class Status:
    """The API's Status object, as far as it is needed."""

    code: int
    reason: str
    message: str
    fields: tuple[tuple[str, str], ...] = ()
    """(field, what is wrong with it)."""
    about: str = ""
    """The plural of what it speaks of: ``namespaces``."""
    name: str = ""
    retry_after_s: float | None = None


@dataclass(frozen=True)
class Quota:
    """A quota that has no room: which resources, and how much of each was asked for, is used and allowed (``pods=1``)."""

    name: str
    requested: str
    used: str
    limited: str

    def __str__(self) -> str:
        return f"the quota {self.name!r} has no room: requested {self.requested}, used {self.used} of {self.limited}"


def exceeded_quota(message: str) -> Quota | None:
    """The quota that a message (of the API server, or of an event) speaks of."""
    match = _QUOTA.search(message)
    return None if match is None else Quota(match["name"], match["requested"], match["used"], match["limited"].strip())


def read_status(code: int, body: bytes) -> Status:
    """The answer to a refused request. What is no Status object (a proxy's page) is told as it is."""
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    if not isinstance(found, Mapping) or found.get("kind") != "Status":
        return Status(code, "", _shortened(body.decode(errors="replace")))
    return status_of(found, code)


def status_of(found: Mapping[str, Any], code: int = 0) -> Status:
    """A Status object as a record."""
    details = found.get("details") or {}
    causes = details.get("causes") or ()
    return Status(
        code=found.get("code") or code,
        reason=found.get("reason") or "",
        message=_shortened(found.get("message") or ""),
        fields=tuple((cause.get("field", ""), _shortened(cause.get("message", ""))) for cause in causes),
        about=details.get("kind", ""),
        name=details.get("name", ""),
        retry_after_s=details.get("retryAfterSeconds"),
    )


def _shortened(text: str) -> str:
    """Without secrets; not longer than anybody reads."""
    text = masked_text(text.strip())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def is_permission(status: Status) -> bool:
    """Whether it is the caller's permissions that are missing, and nothing that looks at the object."""
    return _DENIED.search(status.message) is not None


def refusal(status: Status, asked: Asked) -> RefusedError:
    """The error that says why ``asked`` was refused and what to do."""
    match status.code:
        case 403:
            error: RefusedError = _forbidden(status, asked)
        case 404:
            error = _not_found(status, asked)
        case 409:
            error = _conflict(status, asked)
        case 410:
            error = ExpiredError(f"cannot {asked}: {status.message}")
        case _:
            error = _other(status, asked)
    error.status, error.reason = status.code, status.reason
    return error


def _forbidden(status: Status, asked: Asked) -> ForbiddenError:
    if (denied := _DENIED.search(status.message)) is not None:
        return _denied(denied)
    known = _by_admission(status, asked)
    if known is not None:
        return known
    return ForbiddenError(f"cannot {asked}: {status.message}", hint=_RBAC_HINT)


def _denied(denied: re.Match[str]) -> ForbiddenError:
    place = f"in the namespace {denied['namespace']!r}" if denied["namespace"] else "in the whole cluster"
    what = f"{denied['user']!r} may not {denied['verb']} {denied['resource']}{_of_group(denied['group'])} {place}"
    return ForbiddenError(what, hint=_NO_LOGIN_HINT if denied["user"] == ANONYMOUS else _RBAC_HINT)


def _of_group(group: str) -> str:
    return f".{group}" if group else ""


def _by_admission(status: Status, asked: Asked) -> ForbiddenError | None:
    """The error where the caller may, but something that looks at the object says no."""
    message = status.message
    if (quota := exceeded_quota(message)) is not None:
        hint = f"`kubectl describe quota {quota.name}{_in(asked)}` shows it: free what it counts, or have it raised."
        return ForbiddenError(f"cannot {asked}: {quota}", hint=hint)
    if (match := _QUOTA_ASKS.search(message)) is not None:
        what = f"cannot {asked}: the quota {match['name']!r} wants every container to say its {match['missing']}"
        return ForbiddenError(what, hint="Add these to the manifest's resources.")
    for pattern, source, whose in (
        (_WEBHOOK, "the admission webhook", "its administrators know it, and what it wants."),
        (_POLICY, "the admission policy", "`kubectl get validatingadmissionpolicy {name} -o yaml` shows it."),
    ):
        if (match := pattern.search(message)) is not None:
            why = (match["why"] or "it does not say why").strip()
            hint = f"The rule is the cluster's: {whose.format(name=match['name'])}"
            return ForbiddenError(f"cannot {asked}: {source} {match['name']!r} denies it: {why}", hint=hint)
    if (match := POD_SECURITY.search(message)) is not None:
        hint = "Change the manifest's securityContext, or use a namespace with another pod-security.kubernetes.io/enforce."
        return ForbiddenError(f"cannot {asked}: the namespace's level {match['level']!r} forbids {match['why']}", hint=hint)
    if "because it is being terminated" in message:
        hint = "Wait until it is gone, or name another namespace."
        return ForbiddenError(f"cannot {asked}: the namespace is being deleted", hint=hint)
    return None


def _in(asked: Asked) -> str:
    return f" --namespace={asked.namespace}" if asked.namespace else ""


def _not_found(status: Status, asked: Asked) -> NotFoundError:
    if status.about == "namespaces" and asked.plural != "namespaces":
        hint = f"Create it (`kubectl create namespace {status.name}`), name another, or name none: one is made for the session."
        return NotFoundError(f"cannot {asked}: there is no such namespace", hint=hint)
    if status.name:
        return NotFoundError(f"cannot {asked}: {status.message}")
    return NotFoundError(
        f"cannot {asked}: the cluster does not know {asked.plural} of {asked.api_version}",
        hint="What defines them (a CustomResourceDefinition) is not installed, or has another version there: "
        f"`kubectl api-resources | grep {asked.plural}`.",
    )


def _conflict(status: Status, asked: Asked) -> ConflictError:
    if status.reason == "AlreadyExists":
        return ConflictError(f"cannot {asked}: it exists already", hint="`pytest-llmperf gc` removes what dead sessions left.")
    return ConflictError(f"cannot {asked}: {status.message}", hint="Somebody else has changed it in between.")


def _other(status: Status, asked: Asked) -> RefusedError:
    if (admission := _by_admission(status, asked)) is not None:
        return admission
    if (match := _WEBHOOK_GONE.search(status.message)) is not None:
        what = f"cannot {asked}: the admission webhook {match['name']!r} does not answer: {match['why'].strip()}"
        return RefusedError(what, hint="It is the cluster's own: its administrators have to bring it back, or take it away.")
    if (match := _STRICT.search(status.message)) is not None:
        return RefusedError(f"cannot {asked}: {match['why']}", hint="Correct the manifest: the cluster knows no such fields.")
    if status.code == 422 and status.fields:
        wrong = "; ".join(f"{field}: {message}" if field else message for field, message in status.fields)
        return RefusedError(f"cannot {asked}: {wrong}", hint="Correct the manifest, or the option that set the field.")
    return RefusedError(f"cannot {asked}: {status.code} {status.message or status.reason}")
