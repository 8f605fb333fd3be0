"""Which options go with which target. What would be passed over without a word is an error at the start instead."""

from __future__ import annotations

from collections.abc import Mapping

from pytest_llmperf.errors import ConfigError, Where

TARGETS = ("sim", "process", "endpoint", "kubernetes")
_SERVED = ("endpoint", "kubernetes")
_BELONGS_TO: Mapping[str, tuple[tuple[str, ...], str]] = {
    "url": (_SERVED, "a URL is given"),
    "served_model": (("endpoint",), "a served model is named"),
    "api_key_env": (_SERVED, "a variable that holds the endpoint's token is named"),
    "header": (("endpoint",), "a header is given"),
    "ca_file": (_SERVED, "a file of CA certificates is given"),
    "insecure": (_SERVED, "certificates are not to be checked"),
    "engine_command": (("process",), "an engine's command is given"),
    "kubeconfig": (("kubernetes",), "a kubeconfig is given"),
    "context": (("kubernetes",), "a kubeconfig's context is named"),
    "namespace": (("kubernetes",), "a namespace is named"),
    "queue_timeout": (("kubernetes",), "a time to queue is given"),
    "unschedulable_grace": (("kubernetes",), "a time for an autoscaler is given"),
    "reach": (("kubernetes",), "a way to reach deployments is given"),
    "keep": (("kubernetes",), "deployments are to be kept"),
}
"""By option: the targets that take it, and what is said of it with another."""
_RENDERED: Mapping[str, str] = {
    "manifests": "manifests are given",
    "helm_values": "values for a Helm chart are given",
    "image": "an engine's image is named",
    "simulator_image": "a simulator's image is named",
    "model_cache": "a place for weights is given",
    "hf_secret": "a Secret for Hugging Face is named",
    "queue": "a queue is named",
}
"""What says how a cell is rendered: for the target ``kubernetes``, and for ``--llmperf-render`` with any."""
_TLS = ("ca_file", "insecure")


def check_target_options(given: Mapping[str, object], places: Mapping[str, Where]) -> None:
    """``given``: the value of each option by name, falsy where it is not set or is its default. Raises ``ConfigError``."""
    target, url = str(given["target"]), str(given["url"] or "")
    if target == "endpoint" and not url:
        raise ConfigError("the endpoint target needs a URL", where=places["target"], hint="Add --llmperf-url=http://HOST:PORT.")
    for name, (needed, said) in _BELONGS_TO.items():
        if given[name] and target not in needed:
            raise _misplaced(said, target, needed[0], places[name])
    for name, said in _RENDERED.items():
        if given[name] and target != "kubernetes" and not given["render"]:
            raise _misplaced(said, target, "kubernetes", places[name])
    if given["reach"] and given["reach"] != "auto" and url:
        hint = "Leave out one of --llmperf-reach and --llmperf-url."
        raise ConfigError("a URL says already how deployments are reached", where=places["reach"], hint=hint)
    for name in _TLS:
        if given[name] and not url.lower().startswith("https://"):
            has_none = f"{url.partition('://')[0]}:// has none" if url else "no URL is given"
            said = f"{_BELONGS_TO[name][1]}, but {has_none}"
            raise ConfigError(said, where=places[name], hint="Write --llmperf-url=https://…, or leave the option out.")
    if given["ca_file"] and given["insecure"]:
        raise ConfigError(
            "certificates are not to be checked, but a file of CA certificates to check them by is given",
            where=places["insecure"],
            hint="Leave out one of --llmperf-insecure and --llmperf-ca-file.",
        )


def _misplaced(said: str, target: str, needed: str, place: Where) -> ConfigError:
    return ConfigError(f"{said}, but the target is {target!r}", where=place, hint=f"Add --llmperf-target={needed}.")
