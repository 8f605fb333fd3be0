"""Images that cannot be had: told by what the registry said; certain once the node has backed off, or has tried often enough."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_llmperf.deploy.kubernetes.ready.findings import Diagnosis, Patience, Stage, Waiting, shortened
from pytest_llmperf.deploy.kubernetes.ready.pods import Container, Pod
from pytest_llmperf.deploy.kubernetes.ready.seen import Event, Seen

BACK_OFF = "ImagePullBackOff"
_AT_ONCE = ("InvalidImageName", "ErrImageNeverPull")
_REASONS = (BACK_OFF, "ErrImagePull", "ImageInspectError", "RegistryUnavailable", "SignatureValidationFailed", *_AT_ONCE)
_WRAPPING = re.compile(
    r'^(?:Back-off pulling image "[^"]*": |ErrImagePull: |rpc error: code = \w+ desc = |Failed to pull image "[^"]*": '
    r'|failed to pull and unpack image "[^"]*": |failed to resolve reference "[^"]*": |failed to copy: '
    r'|failed to do request: \w+ "[^"]*": |pulling from host \S+ failed with )'
)
PULL_GRACE_S = 300.0
"""How long the node may not try again, or nothing be heard of its tries: not every event arrives."""
TRIES = 4
"""After so many failures, a minute and a half or more, it is certain also where each of them might have passed."""
_NAME_HINT = "Check the image's name and tag, or name another: --llmperf-image."
_CREDENTIAL_HINT = (
    "Give the namespace's service account, or the manifest's imagePullSecrets, credentials of the registry; and check the name."
)


@dataclass(frozen=True)
class _Why:
    pattern: str
    said: str
    hint: str
    may_pass: bool = False


_REACH_HINT = "Let the node reach the registry, or name an image that it can get: --llmperf-image."
_ABSENT_OR_HIDDEN = "it does not exist, or may not be read without credentials"
_WHYS = (
    _Why(
        r"toomanyrequests|\b429\b",
        "the registry limits how often",
        "Try later, give credentials, or use a mirror of the image.",
        may_pass=True,
    ),
    _Why(
        r"\b50[0234] (?:internal server|bad gateway|service un|gateway time)|received unexpected http status: 50",
        "the registry has trouble of its own",
        "Try later, or use a mirror of the image.",
        may_pass=True,
    ),
    _Why(
        r"server gave http response|does not look like a tls handshake",
        "the registry does not speak TLS",
        "Have the node's container runtime told that this registry is a plain one, or name another image: --llmperf-image.",
    ),
    _Why(
        r"x509",
        "the node does not trust the registry's certificate",
        "Have the registry's certificate authority installed on the nodes, or name another image: --llmperf-image.",
    ),
    _Why(
        r"no match for platform|no matching manifest",
        "it is not made for the node's kind of processor",
        "Name an image for it: --llmperf-image.",
    ),
    _Why(r"no space left on device", "the node's disk is full", "Free the node's disk, or use a node with a larger one."),
    _Why(
        r"may require authorization|insufficient_scope|pull access denied|access to the resource is denied|or it may not exist",
        _ABSENT_OR_HIDDEN,
        _CREDENTIAL_HINT,
    ),
    _Why(r"unauthorized|\b401\b|\b403\b|denied|no basic auth", "the registry wants other credentials", _CREDENTIAL_HINT),
    _Why(r"no such host|network is unreachable", "the registry cannot be reached", _REACH_HINT),
    _Why(
        r"dial tcp|timeout|connection re(?:fused|set)|no route|deadline exceeded|server misbehaving|\beof\b|context canceled",
        "the registry cannot be reached",
        _REACH_HINT,
        may_pass=True,
    ),
    _Why(r"not found|manifest unknown|name unknown", "there is no such image", _NAME_HINT),
)


def pull_finding(pod: Pod, one: Container, seen: Seen) -> Diagnosis | Waiting | None:
    """What there is to say of a container that has no image yet; None where it waits for something else."""
    said = [event for event in seen.events_of("Pod", pod.name) if event.container == one.name]
    failures = [event for event in said if event.message.startswith("Failed to pull image")]
    if one.waiting in _AT_ONCE:
        return _failed(pod, one, "")
    if one.waiting not in _REASONS and (not failures or one.is_running or one.exits or is_pulling(pod, one, seen)):
        return None
    if _is_pulled(pod, one, seen):
        return None  # after all; the pod's own state says so a moment later
    message = _message(one, failures)
    why = _why(message)
    tries = sum(event.count for event in failures)
    # The event comes with the node's next attempt, the pod's own state one attempt later.
    has_backed_off = any(event.message.startswith("Back-off pulling image") for event in said)
    if tries >= TRIES or ((has_backed_off or one.waiting == BACK_OFF or tries > 1) and not (why is not None and why.may_pass)):
        return _failed(pod, one, message)
    told = why.said if why is not None else shortened(message, 80)
    times = f"{tries} times" if tries > 1 else "once"
    # Not while it is pulled again: of a large image that takes long, and every try is counted.
    late = () if is_pulling(pod, one, seen) else (Patience("pull", PULL_GRACE_S, _failed(pod, one, message)),)
    return Waiting(f"pulling {one.image} has failed {times} ({told})", Stage.PULLING, late)


def is_pulling(pod: Pod, one: Container, seen: Seen) -> bool:
    """Whether the node pulls the container's image now."""
    return _last_of_pull(pod, one, seen) == "Pulling"


def _is_pulled(pod: Pod, one: Container, seen: Seen) -> bool:
    return _last_of_pull(pod, one, seen) == "Pulled"


def _last_of_pull(pod: Pod, one: Container, seen: Seen) -> str:
    said = [event for event in seen.events_of("Pod", pod.name, "Pulling", "Pulled", "Failed") if event.container == one.name]
    return said[-1].reason if said else ""


def _message(one: Container, failures: list[Event]) -> str:
    """What the registry, or the node, said, without what it is wrapped in."""
    text = _stripped(one.waiting_message)
    if failures and (not text or text.startswith("Back-off")):  # an older kubelet does not repeat why
        text = _stripped(failures[-1].message)
    return text


def _stripped(text: str) -> str:
    while (match := _WRAPPING.match(text)) is not None:
        text = text[match.end() :]
    return text


def _why(message: str) -> _Why | None:
    return next((one for one in _WHYS if re.search(one.pattern, message, re.IGNORECASE)), None)


def _failed(pod: Pod, one: Container, message: str) -> Diagnosis:
    where = f"{pod.place}, container {one.name}"
    if one.waiting == "InvalidImageName":
        return Diagnosis(f"{one.image!r} is not an image's name", _NAME_HINT, (where,))
    if one.waiting == "ErrImageNeverPull":
        return Diagnosis(
            f"the node does not have the image {one.image}, and may not pull it",
            "Bring the image to the node, or change the manifest's 'imagePullPolicy: Never'.",
            (where,),
        )
    why = _why(message)
    said = why.said if why is not None else shortened(message)
    hint = why.hint if why is not None else _NAME_HINT
    return Diagnosis(f"the image {one.image} cannot be pulled: {said}", hint, (where, shortened(message)))
