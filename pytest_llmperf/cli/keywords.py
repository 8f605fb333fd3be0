"""Choosing names with ``-k``, as pytest does: words with ``and``, ``or``, ``not`` and parentheses; a word is part of the name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from pytest_llmperf.errors import ConfigError, Where

_TOKEN = re.compile(r"\s*(?:([()])|([^\s()]+))")

Matcher = Callable[[str], bool]


def keywords(expression: str, option: str = "-k") -> Matcher:
    """Whether a name has the words that the expression asks for, in upper or lower case. Raises ``ConfigError``."""
    return _Expression(expression, Where(option=option)).parsed()


class _Expression:
    """Reads an expression from left to right: ``or`` binds least, then ``and``, then ``not``."""

    def __init__(self, text: str, where: Where) -> None:
        self._text = text
        self._where = where
        self._tokens: Iterator[str] = (match[1] or match[2] for match in _TOKEN.finditer(text))
        self._next = next(self._tokens, "")

    def parsed(self) -> Matcher:
        matcher = self._either()
        if self._next:
            raise self._error(f"{self._next!r} was not expected")
        return matcher

    def _either(self) -> Matcher:
        found = [self._both()]
        while self._take("or"):
            found.append(self._both())
        return lambda name: any(matches(name) for matches in found)

    def _both(self) -> Matcher:
        found = [self._single()]
        while self._take("and"):
            found.append(self._single())
        return lambda name: all(matches(name) for matches in found)

    def _single(self) -> Matcher:
        if self._take("not"):
            inner = self._single()
            return lambda name: not inner(name)
        if self._take("("):
            inner = self._either()
            if not self._take(")"):
                raise self._error("a ')' is missing")
            return inner
        word = self._next
        if not word or word in ("and", "or", ")"):
            raise self._error("it ends where a word was expected" if not word else f"{word!r} stands where a word was expected")
        self._advance()
        return lambda name: word.lower() in name.lower()

    def _take(self, token: str) -> bool:
        if self._next != token:
            return False
        self._advance()
        return True

    def _advance(self) -> None:
        self._next = next(self._tokens, "")

    def _error(self, problem: str) -> ConfigError:
        return ConfigError(
            f"{self._text!r} cannot be read: {problem}",
            where=self._where,
            hint="Words with and, or, not and parentheses: 'h100 and not (gke or ocp)'.",
        )
