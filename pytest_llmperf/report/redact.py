"""Keeping secrets out of documents: command lines are recorded, keys and tokens in them are not."""

from __future__ import annotations

import re
from collections.abc import Iterable

MASK = "***"

# The last word of the name decides: --api-key and HF_TOKEN hold a secret, --tokenizer and --max-tokens do not.
_SECRET = r"(?:api[-_]?key|(?<!max[-_])token|secret|password|credentials?)"
_OPTION = re.compile(rf"--?(?:[\w-]*[-_])?{_SECRET}", re.IGNORECASE)
_ASSIGNED = re.compile(rf"((?:--?)?(?:[\w-]*[-_])?{_SECRET}=).*", re.IGNORECASE | re.DOTALL)
_USER_IN_URL = re.compile(r"(\w+://)[^/@\s]+@")


def without_secrets(arguments: Iterable[str]) -> tuple[str, ...]:
    """A command line whose keys, tokens and passwords read ``***``.

    Covers ``--api-key KEY ...`` (up to the next option), ``--api-key=KEY``, ``HF_TOKEN=KEY`` and ``https://user:key@host``.
    """
    kept: list[str] = []
    hiding = False
    for argument in arguments:
        hiding = hiding and not argument.startswith("-")
        if hiding:
            kept.append(MASK)
            continue
        hiding = _OPTION.fullmatch(argument) is not None
        kept.append(_USER_IN_URL.sub(rf"\1{MASK}@", _ASSIGNED.sub(rf"\1{MASK}", argument)))
    return tuple(kept)
