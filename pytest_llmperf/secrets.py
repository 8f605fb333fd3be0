"""Which names speak of a secret, where one stands, and how a text reads without it: one rule for commands, environments, headers
and templates.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
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
# A password may have an @ of its own: the last one before the host ends it.
_USER_IN_URL = re.compile(r"(\b\w+://)[^/@\s]+@(?:[^/?#\s\"'<>]*@)?")
_HEADER = re.compile(rf"(?:-H)?\s*({SECRET_NAME})\s*:\s*(?=[^\s/])")
_IN_JSON = re.compile(rf'"({SECRET_NAME})"\s*:\s*"((?:[^"\\]|\\.)*)"')
_COMMAND = re.compile(r"[\s;&|]")
_WORD = re.compile(r"""(?:"(?:[^"\\]|\\.)*"|'[^']*'|\\.|[^\s;&|])+|[;&|]+""", re.DOTALL)
_PIECE = re.compile(r"""(")((?:[^"\\]|\\.)*)"|(')([^']*)'|(\\)(.)|(.)""", re.DOTALL)
# What a placeholder stands for is no secret.
_IN_QUERY = re.compile(rf"((?:^|[?&;]){SECRET_NAME}=)(?!\{{\w+\}})[^&#;\s]+")
_AFTER_BEARER = re.compile(r"(\b(?i:bearer)\s++)(?!\{[\w.]+\}|(?i:auth\w+|credentials?|required)\b)[^\s\"',;]{8,}")
_AFTER_USER = re.compile(r"((?:^|[\s\"'])(?:-[A-Za-z]*u|--(?:proxy-)?user)[\s=]++[\"']?[^\s:\"']+:)[^\s\"']+")
"""As curl takes it."""

_QUOTE = r"(?:\\?[\"'])?"
_NO_PREFIX = r"(?!(?i:[bfru]{1,2})[\"'])"
"""What stands before a string in Python is no value."""
# Not possessive: Python before 3.11.5 matches a possessive group too far. Its branches exclude each other, so that costs nothing.
_BARE = r"(?:[^\s\"',;)\]}]|[,;)\]}](?![\s,;)\]}]|$))+"
"""A value without quotes: what ends a sentence or closes a bracket behind it is not of it."""
_STRING = r"(?:'(?:[^'\\\n]|\\.)+'|\"(?:[^\"\\\n]|\\.)+\")"
_AUTHORIZATION = re.compile(
    rf"((?<![A-Za-z0-9])(?i:(?:proxy-)?authorization){_QUOTE}[ \t]*+[:=][ \t]*+{_QUOTE}"
    rf"(?:(?i:basic|bearer|digest|negotiate|token|api-?key)[ \t]++)?){_NO_PREFIX}([^\s\"',;]++)"
)
_NAMED_IN_TEXT = (
    r"(?:(?<![A-Za-z0-9])|(?<=[a-z0-9])(?=[A-Z]))"
    r"(?:(?i:api[-_]?keys?|(?:secret[-_]?)?access[-_]?key(?:[-_]?id)?|(?:secret|private)[-_]?key|client[-_]?secret"
    r"|(?:access|api|auth|bearer|hf|hub|refresh|session)[-_]?tokens?|(?:pg)?passw(?:or)?d|passphrase)"
    r"|(?<=--)(?:token|secret)"
    # The rest of what a variable of the environment may be called.
    r"|(?<=[A-Z0-9]_)(?<!MAX_)(?<!MIN_)(?<!EOS_)(?<!BOS_)(?<!PAD_)(?<!STOP_)(?:TOKEN|SECRET|KEY|PASS|CREDENTIALS?)(?==))"
    r"(?:[-_](?i:read|write|ro|rw|\d{1,3}))?"
)
"""The names of secrets that no other text has: in a log ``token=`` and ``key:`` are mostly none."""
_ASSIGNED = re.compile(
    rf"({_NAMED_IN_TEXT}{_QUOTE}[ \t]{{0,4}}[:=][ \t]{{0,4}})"
    rf"(?:(?P<list>\[[ \t]*{_STRING}(?:[ \t]*,[ \t]*{_STRING})*)"
    rf"|(?P<string>{_STRING})|\\[\"'](?P<escaped>[^\"'\\\n]++)"
    rf"|{_NO_PREFIX}(?P<bare>{_BARE}))"
)
_AFTER_OPTION = re.compile(
    rf"((?:^|[\s\"'\[(])--[\w.-]*?{_NAMED_IN_TEXT}[ \t]++)"
    rf"(?:(?P<string>{_STRING})|(?P<bare>(?!-){_BARE})(?P<before_option>(?=[ \t]+-))?)"
)
_BY_FORM = re.compile(
    r"(?<![A-Za-z0-9])(?:(?:AKIA|ASIA)[A-Z0-9]{16}|hf_[A-Za-z0-9]{16,}|sk-(?=[A-Za-z_-]{0,20}\d)[\w-]{16,}"
    r"|gh[opsur]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{20,})(?![A-Za-z0-9])"
)
"""Keys of AWS, Hugging Face, OpenAI and code forges, which say themselves what they are."""
_NO_VALUE = re.compile(
    r"(?i:none|null|nil|true|false|undefined|unset|set|missing|required|optional|invalid|incorrect|wrong|expired|given|empty|not|must"
    r"|is|are|was|the|an?|no|yes|or|and|enabled|disabled|string|str)[.,:;!?)\]}]*"
)
"""What stands behind the name of a secret and is none."""
_PLACEHOLDER = re.compile(r"\$[({]{0,2}\w+[)}]{0,2}|%\w|%\(\w+\)s|\{[\w.]*\}|<[\w .-]*>?|\.{3}|\[.*|\{.*")
_CODE = re.compile(r"\w+\.[\w.]+[(\[].*|(?:get_?env|get_?pass)\(.*")
_PATH_IN_CODE = re.compile(r"(?:\w+\.)*([A-Za-z_]\w*)")


class Hidden(str):
    """A secret that no list of a program's variables shows, as pytest prints it with ``--showlocals``: a str in all else."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(MASK)


class HiddenBytes(bytes):
    """The same for what holds a secret on its way."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(MASK.encode())


def hiding(environ: Mapping[str, str]) -> Mapping[str, str]:
    """A copy of an environment whose secrets are ``Hidden``."""
    return {name: Hidden(value) if is_secret(name) else value for name, value in environ.items()}


def is_secret(name: str) -> bool:
    """Whether an option, a variable, a header or a key of this name holds a secret."""
    return _NAME.fullmatch(name) is not None


def without_credentials(text: str) -> str:
    """A URL, or what holds one, without the user before its host and the secrets of its query."""
    return _IN_QUERY.sub(rf"\1{MASK}", _USER_IN_URL.sub(rf"\1{MASK}@", text))


def masked_text(text: str) -> str:
    """What a program says of itself, or anybody's text, without what its form alone tells to be a secret.

    Those are a URL's user and the secrets of its query; what follows ``Authorization:`` and ``Bearer``; the password of
    ``-u NAME:PASSWORD``; the values of ``X-Api-Key: …``, ``--password=…``, ``--api-key …``, ``'api_key': ['…']`` and the like;
    and keys of well-known forms (``AKIA…``, ``hf_…``, ``sk-…``). What a sentence or a line of code says of one stays. The time
    it takes grows with the text's length, and no faster.
    """
    text = _AFTER_USER.sub(rf"\1{MASK}", without_credentials(text))
    text = _AUTHORIZATION.sub(lambda found: found[0] if _is_none(found[2]) or _is_code(found[2]) else found[1] + MASK, text)
    text = _AFTER_BEARER.sub(rf"\1{MASK}", text)
    text = _AFTER_OPTION.sub(_without_operand, _ASSIGNED.sub(_without_value, text))
    return _BY_FORM.sub(MASK, text)


def _without_value(found: re.Match[str]) -> str:
    head, string, bare, escaped = found[1], found["string"], found["bare"], found["escaped"]
    if found["list"] is not None:
        return f"{head}[{MASK}"
    if string is not None:
        return found[0] if _is_none(string[1:-1]) else f"{head}{string[0]}{MASK}{string[-1]}"
    if escaped is not None:
        return found[0] if _is_none(escaped) else f"{found[0].removesuffix(escaped)}{MASK}"
    return found[0] if _is_none(bare) or _is_code(bare) else head + MASK


def _without_operand(found: re.Match[str]) -> str:
    string, bare = found["string"], found["bare"]
    if string is not None:
        return found[0] if _is_none(string[1:-1]) else f"{found[1]}{string[0]}{MASK}{string[-1]}"
    # In "--api-key is not set" a sentence goes on, and in "--api-key API_KEY" a help text.
    word = bare.rstrip(".,:;!?")
    is_word = (word.isalpha() and word.islower() and found["before_option"] is None) or re.fullmatch(r"[A-Z_]+\]*", word)
    return found[0] if is_word or _is_none(bare) else found[1] + MASK


def _is_none(value: str) -> bool:
    """Whether it is no secret: it says that there is none, stands for one, or is masked already."""
    return value.startswith(MASK) or any(one.fullmatch(value) is not None for one in (_NO_VALUE, _PLACEHOLDER))


def _is_code(value: str) -> bool:
    """Whether a program looks a secret up there: ``args.api_key``, ``os.environ.get(``."""
    path = _PATH_IN_CODE.fullmatch(value)
    return (path is not None and is_secret(path[1])) or _CODE.fullmatch(value) is not None


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
    """A command line with ``***`` where its secrets stand, and where a text would have some (``masked_text``)."""
    words = tuple(words)
    return tuple(masked_text(_masked(word, places)) for word, places in zip(words, _places(words), strict=True))


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
