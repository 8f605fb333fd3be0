"""Which options go with which target. What would be passed over without a word is an error at the start instead."""

from __future__ import annotations

from collections.abc import Mapping

from pytest_llmperf.errors import ConfigError, Where

TARGETS = ("sim", "process", "endpoint")
_BELONGS_TO = {
    "url": ("endpoint", "a URL is given"),
    "served_model": ("endpoint", "a served model is named"),
    "api_key_env": ("endpoint", "a variable that holds the endpoint's token is named"),
    "header": ("endpoint", "a header is given"),
    "ca_file": ("endpoint", "a file of CA certificates is given"),
    "insecure": ("endpoint", "certificates are not to be checked"),
    "engine_command": ("process", "an engine's command is given"),
}
"""By option: the target that takes it, and what is said of it with another."""
_TLS = ("ca_file", "insecure")


def check_target_options(given: Mapping[str, object], places: Mapping[str, Where]) -> None:
    """``given``: the value of each option by name, falsy where it is not set or is its default. Raises ``ConfigError``."""
    target, url = str(given["target"]), str(given["url"] or "")
    if target == "endpoint" and not url:
        raise ConfigError("the endpoint target needs a URL", where=places["target"], hint="Add --llmperf-url=http://HOST:PORT.")
    for name, (needed, said) in _BELONGS_TO.items():
        if given[name] and target != needed:
            hint = f"Add --llmperf-target={needed}."
            raise ConfigError(f"{said}, but the target is {target!r}", where=places[name], hint=hint)
    for name in _TLS:
        if given[name] and not url.lower().startswith("https://"):
            said = f"{_BELONGS_TO[name][1]}, but {url.partition('://')[0]}:// has none"
            raise ConfigError(said, where=places[name], hint="Write --llmperf-url=https://…, or leave the option out.")
    if given["ca_file"] and given["insecure"]:
        raise ConfigError(
            "certificates are not to be checked, but a file of CA certificates to check them by is given",
            where=places["insecure"],
            hint="Leave out one of --llmperf-insecure and --llmperf-ca-file.",
        )
