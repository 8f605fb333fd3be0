"""What is asked of a service that is not OpenAI-compatible: the form of its requests, and where its answers hold the text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict

from pytest_llmperf.errors import nearest
from pytest_llmperf.secrets import is_secret, without_credentials

_STRICT = ConfigDict(extra="forbid")

PLACEHOLDERS = ("prompt", "session", "output_tokens", "model")
"""What ``{...}`` may stand for in a path and in a body."""
RAW = "raw"
"""The ``text`` of a service that answers with the text itself and no JSON around it."""

_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}|\{(\w+)\}")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_POINTER = re.compile(r"(?:/(?:[^~/]|~[01])*)*")
_WRITTEN_BY_THE_CLIENT = {"host", "content-length", "transfer-encoding", "connection", "expect", "te", "trailer", "upgrade"}


def header_problem(name: str, value: str) -> str | None:
    """Why a header cannot be sent, without its value, which may be a secret; None where it can (RFC 9110, section 5)."""
    if not _TOKEN.fullmatch(name):
        return "a header's name has letters, digits and hyphens only"
    if name.lower() in _WRITTEN_BY_THE_CLIENT:
        return f"the header {name!r} is written by the client itself"
    if not (value.isascii() and value.isprintable()):
        return f"the value of the header {name!r} holds a character that an HTTP header cannot carry"
    return None


def split_placeholders(text: str) -> Iterator[tuple[str, str | None]]:
    """The text in pieces, each with the placeholder that follows it (None at the end). ``{{name}}`` stands for ``{name}``."""
    literal, start = "", 0
    for match in _PLACEHOLDER.finditer(text):
        literal += text[start : match.start()]
        start = match.end()
        if match[1] is not None:
            literal += f"{{{match[1]}}}"
            continue
        yield literal, match[2]
        literal = ""
    yield literal + text[start:], None


def _texts_in(value: object) -> Iterator[str]:
    match value:
        case str():
            yield value
        case Mapping():
            if len(value) == 1 and (name := next(iter(value))) in PLACEHOLDERS and value[name] is None:
                raise ValueError(f"'{{{name}}}' needs quotes: without them YAML takes it for a mapping")
            for key, each in value.items():
                _check_key(key)
                yield from _texts_in(each)
        case list() | tuple():
            for each in value:
                yield from _texts_in(each)
        case float() if not math.isfinite(value):
            raise ValueError(f"{value} is a number that JSON does not have")


def _check_key(key: str) -> None:
    if name := _first_placeholder(key):
        raise ValueError(
            f"the key {key!r} holds a placeholder, and only values may; '{{{{{name}}}}}' stands for the text '{{{name}}}' itself"
        )


def _first_placeholder(text: str) -> str | None:
    return next(split_placeholders(text))[1]


def _placeholders_in(value: object) -> set[str]:
    names = {name for text in _texts_in(value) for _, name in split_placeholders(text) if name is not None}
    for name in sorted(names.difference(PLACEHOLDERS)):
        close = nearest(name, PLACEHOLDERS)
        meant = f"did you mean '{{{close}}}'? " if close else ""
        known = ", ".join(f"{{{each}}}" for each in PLACEHOLDERS)
        raise ValueError(f"unknown placeholder '{{{name}}}'; {meant}Known: {known}; '{{{{{name}}}}}' stands for the text itself")
    return names


def _check_body(body: object) -> object:
    _placeholders_in(body)
    return body


def _check_path(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError(f"{without_credentials(path)!r} is no path: it begins with '/', as in /api/chat")
    if not (path.isascii() and path.isprintable()) or " " in path or "#" in path:
        shown = without_credentials(path)
        raise ValueError(f"{shown!r} is no path: spaces, '#' and characters beyond ASCII must be percent-encoded")
    _placeholders_in(path)
    return path


def _check_pointer(pointer: str) -> str:
    if not _POINTER.fullmatch(pointer):
        # Whoever knows jq or JSONPath writes dots.
        meant = "/" + re.sub(r"[.\[\]]+", "/", pointer.removeprefix("$")).strip("/")
        hint = f"; did you mean {meant!r}?" if _POINTER.fullmatch(meant) else ""
        raise ValueError(f"{pointer!r} is no JSON pointer (RFC 6901), as /choices/0/text is{hint}")
    return pointer


def _check_text(text: str) -> str:
    return text if text == RAW else _check_pointer(text)


def _check_header_names(headers: object) -> object:
    for name in headers if isinstance(headers, Mapping) else ():
        if is_secret(name):
            raise ValueError(
                f"the header {name!r} may hold a secret, and a file must not: give --llmperf-header '{name}=env:VARIABLE' instead"
            )
    return headers


def _check_headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    for name, value in headers.items():
        if (problem := header_problem(name, value)) is not None:
            raise ValueError(problem)
        if placeholder := _first_placeholder(value):
            raise ValueError(
                f"the header {name!r} holds the placeholder '{{{placeholder}}}': they stand in 'path' and 'body' only, "
                "and a header is the same in every request"
            )
    return headers


def pointer_keys(pointer: str) -> tuple[str, ...]:
    """The keys a JSON pointer leads along; none for the empty one, which is the whole document."""
    return tuple(key.replace("~1", "/").replace("~0", "~") for key in pointer.split("/")[1:])


Pointer = Annotated[str, AfterValidator(_check_pointer)]


@dataclass(frozen=True)
class Query:
    """A text that users ask, and how often in relation to the others."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    text: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.text:
            raise ValueError("a query needs a 'text'")
        if not 0 < self.weight < float("inf"):
            raise ValueError("'weight' must be more than 0")


@dataclass(frozen=True)
class HttpTemplate:
    """A request, and where its answer holds what is wanted.

    In ``path`` and in the strings of ``body`` (any JSON) ``{prompt}`` stands for what is asked, ``{session}`` for an id of the
    session (a UUID, the same in all its turns), ``{model}`` for the served model's name, and ``{output_tokens}`` for the
    tokens wanted: a string that is nothing else becomes a number. Braces around another word are doubled: ``{{word}}``.

    ``text``, ``prompt_tokens`` and ``output_tokens`` are JSON pointers (RFC 6901: ``/choices/0/text``) into the answer; of a
    streamed answer into the JSON of each server-sent event. ``text: raw`` is for answers that are the text itself. Counts that
    nobody says are not known: then there are no metrics of tokens.

    What may hold a secret (``path``, ``body``, ``headers``) is left out of ``repr``, which pytest prints with a failure.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    path: Annotated[str, AfterValidator(_check_path)] = field(repr=False)
    text: Annotated[str, AfterValidator(_check_text)]
    body: Annotated[object, AfterValidator(_check_body)] = field(default=None, repr=False)
    method: Literal["POST", "PUT", "PATCH", "GET"] = "POST"
    # Their names come first: what is wrong with a value is told with the value.
    headers: Annotated[Mapping[str, str], BeforeValidator(_check_header_names), AfterValidator(_check_headers)] = field(
        default_factory=dict, repr=False
    )
    prompt_tokens: Pointer | None = None
    output_tokens: Pointer | None = None

    def __post_init__(self) -> None:
        if "prompt" not in self.placeholders:
            raise ValueError("'{prompt}' is missing: it stands in 'body' (or 'path') where the text goes that is asked")
        if self.text == RAW and (self.prompt_tokens or self.output_tokens):
            raise ValueError("an answer that is 'raw' text has no places for 'prompt_tokens' and 'output_tokens'")
        if self.method == "GET" and self.body is not None:
            raise ValueError("a GET request has no 'body'")

    @property
    def placeholders(self) -> set[str]:
        """The placeholders in use."""
        return _placeholders_in(self.path) | _placeholders_in(self.body)

    @property
    def ready_path(self) -> str:
        """Its path as it can be asked before there is a load: ``1`` stands for every placeholder."""
        return "".join(literal + ("" if name is None else "1") for literal, name in split_placeholders(self.path))
