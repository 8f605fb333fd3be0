"""Headers that may be secret: from the environment or a file, never from the command line itself, and never shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from pytest_llmperf.deploy.secrets import longest_first, masked
from pytest_llmperf.errors import ConfigError, Where
from pytest_llmperf.experiment.http_template import header_problem
from pytest_llmperf.secrets import Hidden

_FORMS = "Write 'Name=env:VARIABLE' or 'Name=file:PATH'; the header's value is then the whole of what is there."
LEAST_ECHOED = 4
"""Shorter values are found in any text."""


def read_header(text: str, environ: Mapping[str, Hidden], where: Where) -> tuple[str, Hidden]:
    """The name and value of ``Name=env:VARIABLE`` or ``Name=file:PATH`` (less the line break at its end).

    Raises ``ConfigError``, which never shows a value: what was meant to be one may stand in the wrong place.
    """
    name, equals, source = text.partition("=")
    name = name.strip()
    if not equals or header_problem(name, "") is not None:
        problem = header_problem(name, "") if equals and ":" not in name and " " not in name else None
        raise ConfigError(problem or "no header with a source for its value", where=where, hint=_FORMS)
    kind, colon, place = source.partition(":")
    if not colon or kind not in {"env", "file"} or not place:
        raise ConfigError(
            f"the header {name!r} has a value where its source belongs",
            where=where,
            hint=f"The shell's history and the list of processes would keep it. {_FORMS}",
        )
    value = _from_environment(name, place, environ, where) if kind == "env" else _from_file(name, place, where)
    if not value.strip():
        raise ConfigError(f"the header {name!r} is empty: nothing is in {source!r}", where=where)
    if (problem := header_problem(name, value)) is not None:
        raise ConfigError(problem, where=where, hint="Often it is a line break at its end.")
    return name, Hidden(value.strip())


def _from_environment(name: str, variable: str, environ: Mapping[str, Hidden], where: Where) -> Hidden:
    if variable not in environ:
        raise ConfigError(f"the environment variable {variable!r} of the header {name!r} is not set", where=where)
    return environ[variable]


def _from_file(name: str, path: str, where: Where) -> Hidden:
    try:
        return Hidden(Path(path).expanduser().read_text(encoding="utf-8").rstrip("\r\n"))
    except UnicodeDecodeError:
        reason = "it is no UTF-8 text"
    except OSError as error:
        reason = error.strerror or type(error).__name__
    raise ConfigError(f"the file {path!r} of the header {name!r} cannot be read: {reason}", where=where)


def check_headers(headers: Iterable[tuple[str, str]], *, has_api_key: bool, where: Where) -> None:
    """Whether they can be sent together. Raises ``ConfigError``."""
    seen: set[str] = set()
    for name, value in headers:
        if (problem := header_problem(name, value)) is not None:
            raise ConfigError(problem, where=where)
        if name.lower() in seen:
            raise ConfigError(f"the header {name!r} is given twice", where=where)
        if name.lower() == "authorization" and has_api_key:
            raise ConfigError(
                f"the header {name!r} is given, and so is an API key, which is sent as the same header",
                where=where,
                hint="Leave one out: the key is what the variable that --llmperf-api-key-env names holds (LLMPERF_API_KEY).",
            )
        seen.add(name.lower())


def credentials(api_key: str | None, headers: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """What to look for in a server's words, which may repeat what was sent; the longest first.

    It is for the server's own words alone: in ours, a header's value that is a common word would change what they say.
    """
    values = [api_key or "", *(value for _, value in headers)]
    # Whatever the scheme before a secret: the secret may be echoed without it.
    return longest_first([*values, *(value.partition(" ")[2] for value in values)], LEAST_ECHOED)


def without_secrets(text: str, secrets: Iterable[str]) -> str:
    """A server's words on one line, without the ``credentials`` it may have echoed. Cut them afterwards, never before."""
    return masked(" ".join(text.split()), (" ".join(secret.split()) for secret in secrets))
