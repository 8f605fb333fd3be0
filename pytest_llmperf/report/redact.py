"""Keeping secrets out of documents: command lines are recorded, keys and tokens in them are not."""

from __future__ import annotations

from collections.abc import Iterable

from pytest_llmperf.secrets import masked_words


def without_secrets(arguments: Iterable[str]) -> tuple[str, ...]:
    """A command line whose keys, tokens and passwords read ``***``, wherever ``secrets_in`` finds some."""
    return masked_words(arguments)
