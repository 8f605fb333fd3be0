"""A tokenizer and a writer that cost next to nothing, deterministic and consistent with each other.

Four bytes of UTF-8 are one token, which is about what a trained tokenizer makes of English. The writer's words are
four bytes long, so that an answer sent back as a prompt has the tokens it was generated from.
"""

from __future__ import annotations

import random
import sys
from array import array
from collections.abc import Hashable, Sequence
from zlib import crc32

_BYTES_PER_TOKEN = 4
_CONSONANTS = "bdfghjklmnprstvwz"
WORDS = tuple(f" {a}{vowel}{b}" for a in _CONSONANTS for vowel in "aeiou" for b in _CONSONANTS)
WORD_BYTES = tuple(word.encode() for word in WORDS)
CHAT_OVERHEAD_TOKENS = 4
"""Special tokens around every message of a chat."""


def encode(text: str, vocab_size: int) -> array[int]:
    """Token ids of a text, one for each four bytes begun."""
    data = text.encode("utf-8", "surrogatepass")
    data += b" " * (-len(data) % _BYTES_PER_TOKEN)
    words = array("I")
    words.frombytes(data)
    if sys.byteorder == "big":
        words.byteswap()
    return array("I", [word % vocab_size for word in words])


def encode_chat(messages: Sequence[tuple[str, str]], vocab_size: int) -> array[int]:
    """Token ids of (role, content) messages as a chat template would lay them out, ready for an answer."""
    ids = array("I")
    for role, content in messages:
        ids += encode(f"<|{role}|>".ljust(_BYTES_PER_TOKEN * CHAT_OVERHEAD_TOKENS)[: _BYTES_PER_TOKEN * 4], vocab_size)
        ids += encode(content, vocab_size)
    ids += encode("<|assistant|>".ljust(_BYTES_PER_TOKEN * CHAT_OVERHEAD_TOKENS), vocab_size)
    return ids


def chain_keys(ids: array[int], block_size: int) -> list[Hashable]:
    """One key per full block; equal keys mean equal tokens up to the end of that block."""
    data, width = ids.tobytes(), ids.itemsize * block_size
    keys: list[Hashable] = []
    key = 0
    for start in range(0, len(data) - width + 1, width):
        key = hash((key, data[start : start + width]))
        keys.append(key)
    return keys


class Writer:
    """The answer to one prompt: a fixed sequence of words, and the length at which it would end by itself."""

    __slots__ = ("_seed", "_start", "_stride", "_vocab_size")

    def __init__(self, prompt_ids: array[int], seed: int, vocab_size: int) -> None:
        self._seed = crc32(prompt_ids.tobytes(), seed & 0xFFFFFFFF)
        self._start = self._seed % len(WORDS)
        # 1 modulo 5 and 17, so coprime to the 5 * 17 * 17 words: the answer goes through all of them before it repeats.
        self._stride = 86 + 85 * (self._seed >> 12 & 0xF)
        self._vocab_size = vocab_size

    def word(self, index: int) -> bytes:
        """The text of token ``index``; letters and a space, so it needs no escaping in JSON."""
        return WORD_BYTES[(self._start + index * self._stride) % len(WORD_BYTES)]

    def text(self, n_tokens: int) -> str:
        """The first ``n_tokens`` of the answer."""
        return b"".join(map(self.word, range(n_tokens))).decode()

    def ids(self, n_tokens: int) -> array[int]:
        """The token ids of that text."""
        return encode(self.text(n_tokens), self._vocab_size)

    def natural_length(self, median_tokens: int) -> int:
        """Where the answer ends if nothing else ends it: log-normal, the shape of chat answers."""
        return max(1, round(median_tokens * random.Random(self._seed).lognormvariate(0.0, 0.7)))
