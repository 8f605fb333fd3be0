"""Which texts of a command and an environment are secrets, so that no log and no document shows them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from string import Template

from pytest_llmperf.secrets import MASK, Hidden, is_secret, secrets_in

LEAST_CHARACTERS = 8
"""Shorter values are no secrets that anyone has, and masking ``1`` would make a log unreadable."""
_SCHEME = re.compile(r"(?i:bearer|basic|digest|token|api-?key)\s+")


def secret_values(words: Sequence[str], environment: Mapping[str, str]) -> tuple[str, ...]:
    """The secrets of a command and of its environment, the longest first: one may be the beginning of another."""
    return longest_first(
        [*(secret.value for secret in secrets_in(words)), *(value for name, value in environment.items() if is_secret(name))],
        LEAST_CHARACTERS,
    )


def longest_first(values: Iterable[str], least_characters: int) -> tuple[str, ...]:
    """What to look for in a text that may repeat these secrets, in whole or in the parts that are secrets of their own."""
    parts = {part.strip() for value in values for part in _parts(value)}
    return tuple(sorted((part for part in parts if len(part) >= least_characters), key=lambda part: (-len(part), part)))


def masked(text: str, secrets: Iterable[str]) -> str:
    """``text`` without the secrets."""
    for secret in secrets:
        text = text.replace(secret, MASK)
    return text


def api_key_of(words: Sequence[str], environment: Mapping[str, str]) -> Hidden | None:
    """The token that a vLLM started by this command asks its clients for."""
    found = {secret.name: secret.value for secret in secrets_in(words) if secret.is_first}
    key = found.get("--api-key") or found.get("VLLM_API_KEY") or environment.get("VLLM_API_KEY")
    # A shell puts a variable's value in its place.
    return Hidden(Template(key).safe_substitute(environment)) if key else None


def _parts(value: str) -> tuple[str, ...]:
    # A scheme before a secret is none: the secret may be echoed without it. A log has a key's lines one by one.
    return (value, _SCHEME.sub("", value, count=1) if _SCHEME.match(value) else value, *value.splitlines())
