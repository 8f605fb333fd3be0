"""What is asked, as bytes: a session's tokens, and the HTTP request of each of its turns.

Content is a function of (seed, session, position), computed by hashing counters: no state, no random stream to keep in order, so
any worker can make any request. A session's prompts are prefixes of one sequence of tokens: its shared prefix or blocks, then
its own tokens; the prompt of turn t + 1 goes on where the answer to turn t (whose place is held by as many tokens) would end.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from pytest_llmperf.deploy.base import Endpoint
from pytest_llmperf.experiment.records import Workload
from pytest_llmperf.load.plan import SessionPlan
from pytest_llmperf.load.trace import BLOCK_TOKENS

FIRST_TOKEN_ID = 100
TOKEN_IDS = 900
"""Ids 100 to 999: above the special tokens of common vocabularies, below the end of the tiniest, three digits each."""

_SESSION, _WARMUP, _PREFIX, _BLOCK = range(4)
_MASK = 2**64 - 1

# Short words of everyday English: each is one token, with its leading space, in the vocabularies of current models.
_WORDS = tuple(
    word
    for line in (
        "time year people way day man thing woman life child world school state family student group country problem hand part",
        "place case week company system program question work number night point home water room mother area money story fact",
        "month lot right study book eye job word business issue side kind head house service friend father power hour game line",
        "end member law car city community name president team minute idea kid body information back parent face others level",
        "office door health person art war history party result change morning reason research girl guy moment air teacher",
        "force education good new first last long great little own other old big high different small large next early young",
        "important few public bad same able be have do say get make go know take see come think look want give use find tell",
        "ask seem feel try leave call",
    )
    for word in line.split()
)


def tokens_of(key: int, start: int, stop: int) -> NDArray[np.int64]:
    """Token indices (0 to 899) at positions [start, stop) of the endless sequence named ``key``: shape (stop - start,).

    The finaliser of splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014) over a counter.
    """
    z = np.arange(start + 1, stop + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return ((z >> np.uint64(32)) * np.uint64(TOKEN_IDS) >> np.uint64(32)).astype(np.int64)


def _key(seed: int, domain: int, number: int) -> int:
    z = (seed * 0xD1342543DE82EF95 + domain * 0xABC98388FB8FAC03 + number * 0x8CB92BA72F3D8DD7 + 1) & _MASK
    z = ((z ^ (z >> 32)) * 0xD6E8FEB86659FD93) & _MASK
    z = ((z ^ (z >> 32)) * 0xD6E8FEB86659FD93) & _MASK
    return z ^ (z >> 32)


def session_tokens(session: SessionPlan, seed: int, prefix_tokens: int, length: int) -> NDArray[np.int64]:
    """The first ``length`` token indices of a session."""
    parts: list[NDArray[np.int64]] = []
    have = 0
    if session.prefix_group is not None:
        have = min(prefix_tokens, length)
        parts.append(tokens_of(_key(seed, _PREFIX, session.prefix_group), 0, have))
    for hash_id in session.hash_ids:
        size = min(BLOCK_TOKENS, length - have)
        if size <= 0:
            break
        parts.append(tokens_of(_key(seed, _BLOCK, hash_id), 0, size))
        have += size
    own = _key(seed, _WARMUP if session.warmup else _SESSION, session.number)
    parts.append(tokens_of(own, 0, length - have))
    return np.concatenate(parts)


# Every id with its comma is four bytes, so a prompt of n ids is a table look-up of n 32-bit words: no string is ever joined.
_ID_BYTES: NDArray[np.uint32] = np.frombuffer(
    b"".join(b"%d," % (FIRST_TOKEN_ID + index) for index in range(TOKEN_IDS)), dtype=np.uint32
)
_WORD_TABLE: NDArray[np.str_] = np.array([_WORDS[index % len(_WORDS)] for index in range(TOKEN_IDS)])


def ids_json(tokens: NDArray[np.int64]) -> bytes:
    """``[100,517,...]``."""
    return b"[" + _ID_BYTES[tokens].tobytes()[:-1] + b"]"


def words(tokens: NDArray[np.int64]) -> str:
    """As many words as tokens."""
    return " ".join(_WORD_TABLE[tokens].tolist())


@dataclass(frozen=True)
class RequestWriter:
    """Writes the HTTP requests of a workload for an endpoint: head and body in one piece of bytes."""

    workload: Workload
    seed: int
    head: bytes = field(repr=False)
    """Holds the api key."""
    body_start: bytes

    def request(self, session: SessionPlan, turn: int) -> bytes:
        """The bytes of one turn's request."""
        plan = session.turns[turn]
        shared = self.workload.shared_prefix
        tokens = session_tokens(session, self.seed, shared.tokens if shared else 0, plan.prompt_tokens)
        if self.workload.api == "chat":
            asked = b'"messages":' + json.dumps(_messages(session, turn, tokens)).encode()
        elif self.workload.prompt == "token_ids":
            asked = b'"prompt":' + ids_json(tokens)
        else:
            asked = b'"prompt":"' + words(tokens).encode() + b'"'
        limits = b',"max_tokens":%d' % plan.output_tokens
        if self.workload.ignore_eos:
            limits += b',"min_tokens":%d,"ignore_eos":true' % plan.output_tokens
        body = self.body_start + asked + limits + b"}"
        return self.head + b"%d\r\n\r\n" % len(body) + body


def _messages(session: SessionPlan, turn: int, tokens: NDArray[np.int64]) -> list[dict[str, str]]:
    """A chat's history: the user's words and the place of each answer, in turns."""
    messages: list[dict[str, str]] = []
    start = 0
    for before in session.turns[:turn]:
        answered = before.prompt_tokens + before.output_tokens
        messages.append({"role": "user", "content": words(tokens[start : before.prompt_tokens])})
        messages.append({"role": "assistant", "content": words(tokens[before.prompt_tokens : answered])})
        start = answered
    messages.append({"role": "user", "content": words(tokens[start:])})
    return messages


def request_writer(workload: Workload, endpoint: Endpoint, seed: int) -> RequestWriter:
    """The writer for an endpoint. The api key is in the head's bytes and nowhere else."""
    url = urlsplit(endpoint.base_url)
    path = "/v1/chat/completions" if workload.api == "chat" else "/v1/completions"
    lines = [
        f"POST {url.path.rstrip('/')}{path} HTTP/1.1",
        f"Host: {url.netloc.rpartition('@')[2]}",
        "User-Agent: pytest-llmperf",
        "Accept: */*",
        "Content-Type: application/json",
    ]
    if endpoint.api_key is not None:
        lines.append(f"Authorization: Bearer {endpoint.api_key}")
    head = "\r\n".join([*lines, "Content-Length: "]).encode()
    start: dict[str, object] = {"model": endpoint.model, "stream": workload.stream}
    if workload.stream:
        start["stream_options"] = {"include_usage": True}
    return RequestWriter(workload, seed, head, json.dumps(start).encode()[:-1] + b",")
