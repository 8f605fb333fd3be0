"""Which names speak of a secret, where one stands, and how a text reads without it: one rule for commands, environments, headers
and templates.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

MASK = "***"

_KIND = (
    r"(?i:(?:authorization|auth|cookie|jwt|sig(?:nature)?|passphrase|(?:pg)?passw(?:or)?d|pass|pat|secret|credentials?"
    r"|(?:api|access|auth)[-_]?(?:key|token)s?|access[-_]?key[-_]?id|key"
    # Tokens that text is made of, and limits on them, are none.
    r"|(?<!(?:max|min|eos|bos|pad)[-_])(?<!(?:max|min|eos|bos|pad))(?<!stop[-_])(?<!stop)token)"
    # What it is good for, or which of several it is.
    r"(?:[-_](?:read|write|ro|rw|\d+))?)"
)
SECRET_NAME = rf"(?:[\w.-]*(?:[-_.]|(?<=[a-z0-9])(?=[A-Z])))?{_KIND}"
"""A pattern of names whose last word says that they hold a secret: ``--api-key``, ``HF_TOKEN``, ``accessToken``, ``X-Auth``.

``--tokenizer``, ``max_tokens`` and ``TOKENIZERS_PARALLELISM`` do not. It minds upper and lower case: a word may begin there.
"""

_NAME = re.compile(SECRET_NAME)
_ANY_NAME = re.compile(r"[\w.-]+")
_USER_IN_URL = re.compile(r"(\w+://)[^/@\s]+@")
_HEADER = re.compile(rf"(?:-H)?\s*({SECRET_NAME})\s*:\s*(?=[^\s/])")
_IN_JSON = re.compile(rf'"({SECRET_NAME})"\s*:\s*"((?:[^"\\]|\\.)*)"')
_COMMAND = re.compile(r"[\s;&|]")
_WORD = re.compile(r"""(?:"(?:[^"\\]|\\.)*"|'[^']*'|\\.|[^\s;&|])+|[;&|]+""", re.DOTALL)
_PIECE = re.compile(r"""(")((?:[^"\\]|\\.)*)"|(')([^']*)'|(\\)(.)|(.)""", re.DOTALL)
# What a placeholder stands for is no secret.
_IN_QUERY = re.compile(rf"((?:^|[?&;]){SECRET_NAME}=)(?!\{{\w+\}})[^&#;\s]+")
_AFTER_BEARER = re.compile(r"(\b(?i:bearer)\s+)[^\s\"',;]{8,}")
_AFTER_USER = re.compile(r"((?:^|[\s\"'])(?:-[A-Za-z]*u|--(?:proxy-)?user)[\s=]+[\"']?[^\s:\"']+:)[^\s\"']+")
"""As curl takes it."""


def is_secret(name: str) -> bool:
    """Whether an option, a variable, a header or a key of this name holds a secret."""
    return _NAME.fullmatch(name) is not None


def without_credentials(text: str) -> str:
    """A URL, or what holds one, without the user before its host and the secrets of its query."""
    return _IN_QUERY.sub(rf"\1{MASK}", _USER_IN_URL.sub(rf"\1{MASK}@", text))


def masked_text(text: str) -> str:
    """What a program says of itself, or anybody's text, without what its form alone tells to be a secret.

    Those are a URL's user and the secrets of its query, what follows ``Bearer``, and the password of ``-u NAME:PASSWORD``.
    """
    return _AFTER_USER.sub(rf"\1{MASK}", _AFTER_BEARER.sub(rf"\1{MASK}", without_credentials(text)))


@dataclass(frozen=True)
class Secret:
    """What stands in a command line for the option, variable, header or key of this name."""

    name: str
    value: str
    is_first: bool = True
    """False of every further word of an option that takes several."""


@dataclass(frozen=True)
class _Place:
    """Where in a word a secret stands."""

    start: int
    end: int
    secret: Secret


def secrets_in(words: Iterable[str]) -> list[Secret]:
    """The secrets of a command line, in their order.

    Those of an option are all words up to the next option. Others stand in ``NAME=VALUE``, ``Name: value``, a URL or JSON. A word
    may be a command line itself (``sh -c '...'``). What can be read in two ways is there in both.
    """
    return [place.secret for places in _places(words) for place in places]


def masked_words(words: Iterable[str]) -> tuple[str, ...]:
    """A command line with ``***`` where its secrets stand."""
    words = tuple(words)
    return tuple(_masked(word, places) for word, places in zip(words, _places(words), strict=True))


def _masked(word: str, places: list[_Place]) -> str:
    pieces: list[str] = []
    done = 0
    for place in sorted(places, key=lambda place: (place.start, -place.end)):
        # Several words of one option are one secret to who reads it.
        if pieces and not word[done : place.start].strip():
            done = max(done, place.end)
        else:
            pieces += [word[done : place.start], MASK]
            done = place.end
    return "".join([*pieces, word[done:]])


def _places(words: Iterable[str]) -> Iterator[list[_Place]]:
    """Of each word, where its secrets stand."""
    option, is_first = "", True
    for word in words:
        if option and not word.startswith("-") and not _is_operator(word):
            yield [_Place(0, len(word), Secret(option, word, is_first))] if word else []
            is_first = False
            continue
        option, is_first = (word, True) if word.startswith("-") and is_secret(word) else ("", True)
        yield [] if _is_operator(word) else _places_in(word)


def _is_operator(word: str) -> bool:
    return bool(word) and not word.strip(";&|")


def _places_in(word: str) -> list[_Place]:
    """Where secrets stand in a word that is not one itself."""
    found = [_Place(match.start(2), match.end(2), Secret(match[1], match[2])) for match in _IN_JSON.finditer(word) if match[2]]
    found += [_Place(match.end(1), match.end() - 1, Secret("", _password(match))) for match in _USER_IN_URL.finditer(word)]
    found += [_to(word, match.end(1), match.end(), match[1].strip("?&;=")) for match in _IN_QUERY.finditer(word)]
    start = 0
    while True:
        if (header := _HEADER.match(word, start)) is not None:
            return [*found, _to(word, header.end(), len(word), header[1])]
        name, equals, value = word[start:].partition("=")
        if equals and value and is_secret(name):
            found.append(_to(word, start + len(name) + 1, len(word), name))
            break
        if not equals or _ANY_NAME.fullmatch(name) is None:
            break
        # An option whose value is an assignment: --env=NAME=VALUE.
        start += len(name) + 1
    return [*found, *_places_in_command(word, start)] if _COMMAND.search(word, start) else found


def _to(word: str, start: int, end: int, name: str) -> _Place:
    return _Place(start, end, Secret(name, word[start:end]))


def _password(match: re.Match[str]) -> str:
    user, colon, password = match[0][len(match[1]) : -1].partition(":")
    return password if colon else user


def _places_in_command(text: str, start: int) -> list[_Place]:
    """Where secrets stand in a text that a shell would take for a command line."""
    words = [(match, *_unquoted(match[0])) for match in _WORD.finditer(text, start)]
    found = []
    for (match, word, origins), places in zip(words, _places(word for _, word, _ in words), strict=True):
        for place in places:
            if (place.start, place.end) == (0, len(word)):
                found.append(_Place(match.start(), match.end(), place.secret))
            else:
                begin, end = origins[place.start], origins[place.end - 1] + 1
                found.append(_Place(match.start() + begin, match.start() + end, place.secret))
    return found


def _unquoted(word: str) -> tuple[str, list[int]]:
    """A word as a shell hands it on, and where each of its characters stood."""
    characters: list[str] = []
    origins: list[int] = []
    for piece in _PIECE.finditer(word):
        group = 2 if piece[1] else 4 if piece[3] else 6 if piece[5] else 7
        text, at = piece[group], piece.start(group)
        skips = [match.start() for match in re.finditer(r'\\["\\$`]', text)] if group == 2 else []
        kept = [index for index in range(len(text)) if index not in skips]
        characters += [text[index] for index in kept]
        origins += [at + index for index in kept]
    return "".join(characters), origins
