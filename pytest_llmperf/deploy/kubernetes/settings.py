"""What a user says of the cluster: where it is, what is deployed there, how it is reached, how long is waited."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pytest_llmperf.deploy.kubernetes.names import Identity
from pytest_llmperf.errors import ConfigError, Where, unknown

Reach = Literal["auto", "port-forward", "service", "load-balancer", "ingress"]
"""``auto``: the Service's address where this process runs in the cluster, else a port-forward."""
REACHES: tuple[Reach, ...] = get_args(Reach)
MODEL_CACHES = ("pvc", "hostpath", "none")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_OF_A_LABEL = "It is made of small letters, digits and '-', at most 63 of them."


@dataclass(frozen=True)
class RenderSettings:
    """What is applied for a cell, and from what. It needs no cluster."""

    manifests: Path | None = None
    """A file or folder of YAML, a kustomization or a chart, instead of what the cell's method names."""
    helm_values: tuple[Path, ...] = ()
    image: str | None = None
    """The engine's image, instead of the manifest's."""
    simulator_image: str | None = None
    """Deploy the simulator from this image in the engine's place: everything but the GPU's work, and it says SIMULATED."""
    model_cache: str | None = None
    """``pvc:NAME`` (a claim that exists), ``hostpath:/DIR``, ``none``; None: the manifest's own."""
    hf_secret: str | None = None
    """``NAME`` or ``NAME/KEY`` of a Secret that exists; None: the manifest's own, or one made from the variable HF_TOKEN."""
    queue: str | None = None
    """Kueue's local queue."""


@dataclass(frozen=True)
class KubernetesSettings:
    """One session's cluster."""

    render: RenderSettings
    session: str
    """The session's id, eight characters of base 36: ``k3x9q0ab``."""
    worker: str = ""
    kubeconfig: Path | None = None
    context: str | None = None
    namespace: str | None = None
    """One that exists; None: one made for the session."""
    reach: Reach = "auto"
    url: str | None = None
    """Where a load balancer's, Ingress's or Route's address is known: it is used as it is."""
    keep: bool = False
    ready_timeout_s: float = 5400.0
    """From the moment a pod has its node.

    220 GB take half an hour to be downloaded to a disk of 125 MB/s, and half an hour to be read from it; then there is the image.
    """
    unschedulable_grace_s: float = 300.0
    """How long no node may be able to take a pod before that is an error: an autoscaler adds nodes in this time."""
    queue_timeout_s: float = 3600.0
    """How long pods may wait for accelerators that others use, or for Kueue."""
    log_directory: Path | None = None
    """Where logs and events of failing deployments are kept: ``storage/deployments``."""

    @property
    def identity(self) -> Identity:
        """Who deploys."""
        return Identity(self.session, self.worker)


def check_own_namespace(settings: KubernetesSettings, objects: Sequence[Mapping[str, Any]]) -> None:
    """Raises ``ConfigError`` for what options name, is not among the ``objects``, and could not be where a namespace is made."""
    render = settings.render
    kind, _, claim = (render.model_cache or "").partition(":")
    secret = (render.hf_secret or "").partition("/")[0]
    named = {
        "model-cache": ("PersistentVolumeClaim", claim if kind == "pvc" else "", "claim"),
        "hf-secret": ("Secret", secret, "Secret"),
    }
    own = {(one["kind"], one["metadata"]["name"]) for one in objects}
    needed = set(_references(objects)) - own
    for option, (of, name, what) in named.items():
        if settings.namespace is None and (of, name) in needed:
            problem = f"the {what} {name!r} is in a namespace of yours: name it with --llmperf-namespace"
            hint = "Without that a session makes a namespace of its own, in which there is none."
            raise ConfigError(problem, where=Where(option=f"--llmperf-{option}"), hint=hint)


def _references(found: object) -> Iterator[tuple[str, str]]:
    """The claims and Secrets that objects refer to."""
    if isinstance(found, Mapping):
        for key, value in found.items():
            if key == "claimName":
                yield "PersistentVolumeClaim", str(value)
            elif key == "secretKeyRef":
                yield "Secret", str(value["name"])
            else:
                yield from _references(value)
    elif isinstance(found, Sequence) and not isinstance(found, str):
        for one in found:
            yield from _references(one)


def check_namespace(text: str, where: Where) -> None:
    """Raises ``ConfigError`` for what no namespace can be called."""
    if _LABEL.fullmatch(text) is None:
        raise ConfigError(f"{text!r} is no namespace's name", where=where, hint=_OF_A_LABEL)


def check_queue(text: str, where: Where) -> None:
    """Raises ``ConfigError`` for what no queue of Kueue's can be called."""
    if _LABEL.fullmatch(text) is None:
        raise ConfigError(f"{text!r} is no queue's name", where=where, hint=_OF_A_LABEL)


def check_model_cache(text: str, where: Where) -> None:
    """Raises ``ConfigError`` for what is none of ``pvc:NAME``, ``hostpath:/DIR``, ``none``."""
    kind, colon, place = text.partition(":")
    if kind not in MODEL_CACHES:
        raise unknown("model cache", kind, MODEL_CACHES, where)
    if kind == "pvc" and _NAME.fullmatch(place) is None:
        raise ConfigError(f"{text!r} names no claim", where=where, hint="Write pvc:NAME.")
    if kind == "hostpath" and not place.startswith("/"):
        raise ConfigError(f"{text!r} names no folder of the node", where=where, hint="Write hostpath:/DIR.")
    if kind == "none" and colon:
        raise ConfigError(f"{text!r}: nothing follows 'none'", where=where)


def check_hf_secret(text: str, where: Where) -> None:
    """Raises ``ConfigError`` for what is neither ``NAME`` nor ``NAME/KEY``. It is not shown: it may be a token."""
    name, slash, key = text.partition("/")
    if _NAME.fullmatch(name) is None or (slash and re.fullmatch(r"[-._a-zA-Z0-9]{1,253}", key) is None):
        hint = "Write NAME or NAME/KEY; a token itself goes into the variable HF_TOKEN."
        raise ConfigError("no Secret can be called that", where=where, hint=hint)
