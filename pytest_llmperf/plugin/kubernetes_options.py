"""What a user says of the cluster: its settings, read from the table's texts. Nothing of Kubernetes is loaded for that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_llmperf.deploy.kubernetes.settings import REACHES, Reach, check_hf_secret, check_model_cache, check_namespace
from pytest_llmperf.errors import Where, unknown
from pytest_llmperf.plugin.option_values import flag, parts, time_span


@dataclass(frozen=True)
class KubernetesOptions:
    """The options that belong to ``--llmperf-target=kubernetes``, by the names of their forms. None: the target's own default."""

    kubeconfig: Path | None = None
    context: str | None = None
    namespace: str | None = None
    manifests: Path | None = None
    helm_values: tuple[Path, ...] = ()
    image: str | None = None
    simulator_image: str | None = None
    model_cache: str | None = None
    hf_secret: str | None = None
    queue: str | None = None
    queue_timeout_s: float | None = None
    unschedulable_grace_s: float | None = None
    reach: Reach | None = None
    keep: bool = False
    render: Path | None = None
    """Write here what would be applied, and run no test."""


def kubernetes_options(
    raw: Mapping[str, str | None], path: Callable[[str], Path | None], base: Path, places: Mapping[str, Where]
) -> KubernetesOptions:
    """``raw``: each option's text by its name; ``base``: where a relative path of ``helm_values`` starts.

    Raises ``ConfigError``.
    """
    for name, check in (("model_cache", check_model_cache), ("hf_secret", check_hf_secret), ("namespace", check_namespace)):
        if text := raw[name]:
            check(text, places[name])

    def seconds(name: str) -> float | None:
        text = raw[name]
        return time_span(text, places[name]) if text else None

    return KubernetesOptions(
        kubeconfig=path("kubeconfig"),
        context=raw["context"],
        namespace=raw["namespace"],
        manifests=path("manifests"),
        helm_values=tuple(base / Path(text).expanduser() for text in parts(raw["helm_values"])),
        image=raw["image"],
        simulator_image=raw["simulator_image"],
        model_cache=raw["model_cache"],
        hf_secret=raw["hf_secret"],
        queue=raw["queue"],
        queue_timeout_s=seconds("queue_timeout"),
        unschedulable_grace_s=seconds("unschedulable_grace"),
        reach=_reach(raw["reach"], places["reach"]),
        keep=flag(raw["keep"], places["keep"]) if raw["keep"] else False,
        render=path("render"),
    )


def _reach(text: str | None, place: Where) -> Reach | None:
    if text is None:
        return None
    if (known := next((reach for reach in REACHES if reach == text), None)) is None:
        raise unknown("way to reach a deployment", text, REACHES, place)
    return known
