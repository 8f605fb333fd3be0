"""Reading the plain events of a stream without parsing each: they differ in one string only.

The first plain event (one token and nothing else to say) is parsed and taken for a template: what precedes its text and what
follows. An event with the same beginning, the same end and a valid JSON string between them must mean the same with another
text. Whatever differs is parsed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import NamedTuple

# JSON strings without a byte beyond ASCII, which would have to be checked as UTF-8 (RFC 8259, section 7).
_ESCAPE = rb'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})'
_STRING = re.compile(rb'[^"\\\x00-\x1f\x80-\xff]*(?:' + _ESCAPE + rb'[^"\\\x00-\x1f\x80-\xff]*)*')
_WIDE_STRING = re.compile(rb'[^"\\\x00-\x1f]*(?:' + _ESCAPE + rb'[^"\\\x00-\x1f]*)*')
_TEXT_KEY = re.compile(rb'"text": ?"')
_CONTENT_KEY = re.compile(rb'"content": ?"')
_PROBE = "probe"


class Template(NamedTuple):
    """A plain event around its text; ``shortest`` is the length of an event with the empty text."""

    before: bytes
    after: bytes
    shortest: int

    def text_of(self, data: bytes) -> bytes | None:
        """The text of an event of this template, still as JSON; None for any other event."""
        if len(data) < self.shortest or not data.startswith(self.before) or not data.endswith(self.after):
            return None
        text = data[len(self.before) : len(data) - len(self.after)]
        return text if _STRING.fullmatch(text) is not None else None


def are_strings(texts: Sequence[bytes]) -> bool:
    """Whether each text would be a JSON string between quotes, in a document that a JSON parser takes for UTF-8."""
    # A space is a character of its own in any string, so the joined text is one exactly when each of its parts is. It cannot
    # complete an escape or a character that a part leaves open.
    joined = b" ".join(texts)
    if _WIDE_STRING.fullmatch(joined) is None:
        return False
    if joined.isascii():
        return True
    try:
        joined.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


def learn(data: bytes, *, is_chat: bool) -> Template | None:
    """The template of a plain event; None when its text is not where it is looked for."""
    key = (_CONTENT_KEY if is_chat else _TEXT_KEY).search(data)
    if key is None:
        return None
    text = _STRING.match(data, key.end())
    if text is None or data[text.end() : text.end() + 1] != b'"':
        return None
    template = Template(data[: text.start()], data[text.end() :], text.start() + len(data) - text.end())
    # The proof that this string, and not another of that name, is the token's text.
    choice = json.loads(template.before + _PROBE.encode() + template.after)["choices"][0]
    found = choice["delta"].get("content") if is_chat else choice["text"]
    return template if found == _PROBE else None
