"""What is asked, as bytes: a session's tokens, and the HTTP request of each of its turns.

Content is a function of (seed, session, position), computed by hashing counters: no state, no random stream to keep in order, so
any worker can make any request. A session's prompts are prefixes of one sequence of tokens: its shared prefix or blocks, then
its own tokens; the prompt of turn t + 1 goes on where the answer to turn t (whose place is held by as many tokens) would end.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Protocol
from urllib.parse import urlsplit
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from pytest_llmperf.deploy.base import Endpoint
from pytest_llmperf.errors import LoadError
from pytest_llmperf.experiment.records import Workload
from pytest_llmperf.load.http_api import Form, body_form, in_path, in_string
from pytest_llmperf.load.plan import SessionPlan
from pytest_llmperf.load.trace import BLOCK_TOKENS

FIRST_TOKEN_ID = 100
TOKEN_IDS = 900
"""Ids 100 to 999: above the special tokens of common vocabularies, below the end of the tiniest, three digits each."""

_SESSION, _WARMUP, _PREFIX, _BLOCK, _SESSION_ID, _QUERY = range(6)
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


class RequestWriter(Protocol):
    """Writes the HTTP requests of a workload for an endpoint: head and body in one piece of bytes."""

    def request(self, session: SessionPlan, turn: int) -> bytes:
        """The bytes of one turn's request."""
        ...


@dataclass(frozen=True)
class Prompts:
    """What the sessions of a workload ask. ``seed`` makes the words, ``query_seed`` chooses among the workload's queries."""

    workload: Workload
    seed: int
    query_seed: int

    def tokens(self, session: SessionPlan, turn: int) -> NDArray[np.int64]:
        """The token indices of a turn's whole prompt, history included."""
        shared = self.workload.shared_prefix
        return session_tokens(session, self.seed, shared.tokens if shared else 0, session.turns[turn].prompt_tokens)

    def text(self, session: SessionPlan, turn: int) -> str:
        """What a turn asks, without what came before."""
        if self.workload.queries:
            return self._query(session, turn)
        return words(self.tokens(session, turn)[_answered(session, turn) :])

    def messages(self, session: SessionPlan, turn: int) -> list[dict[str, str]]:
        """A chat's history: the user's words and the place of each answer, in turns."""
        tokens = self.tokens(session, turn)
        messages: list[dict[str, str]] = []
        for number, before in enumerate(session.turns[: turn + 1]):
            start = _answered(session, number)
            if number:
                messages.append({"role": "assistant", "content": words(tokens[session.turns[number - 1].prompt_tokens : start])})
            asked = self._query(session, number) if self.workload.queries else words(tokens[start : before.prompt_tokens])
            messages.append({"role": "user", "content": asked})
        return messages

    def session_id(self, session: SessionPlan) -> str:
        """A UUID, the same in all turns of a session and in no other run's."""
        high, low = (_key(self.seed, _SESSION_ID, 2 * session.id + half) for half in (0, 1))
        return str(UUID(int=high << 64 | low, version=4))

    def _query(self, session: SessionPlan, turn: int) -> str:
        """By weight; from the plan's seed, so that every run asks the same of the same sessions."""
        until = self._weights
        drawn = _key(self.query_seed, _QUERY, (session.id << 16) + turn) / 2**64 * until[-1]
        return self.workload.queries[min(bisect_right(until, drawn), len(until) - 1)].text

    @cached_property
    def _weights(self) -> tuple[float, ...]:
        """Of each query, its weight and those before it."""
        return tuple(accumulate(query.weight for query in self.workload.queries))


def _answered(session: SessionPlan, turn: int) -> int:
    """How many tokens a session has behind it when a turn begins."""
    if turn == 0:
        return 0
    before = session.turns[turn - 1]
    return before.prompt_tokens + before.output_tokens


@dataclass(frozen=True)
class OpenAIWriter:
    """Requests for completions and chats."""

    prompts: Prompts
    head: bytes = field(repr=False)
    """Holds the credentials."""
    body_start: bytes

    def request(self, session: SessionPlan, turn: int) -> bytes:
        """The bytes of one turn's request."""
        plan, workload = session.turns[turn], self.prompts.workload
        if workload.api == "chat":
            asked = b'"messages":' + json.dumps(self.prompts.messages(session, turn)).encode()
        elif workload.queries:
            asked = b'"prompt":' + json.dumps(self.prompts.text(session, turn)).encode()
        elif workload.prompt == "token_ids":
            asked = b'"prompt":' + ids_json(self.prompts.tokens(session, turn))
        else:
            asked = b'"prompt":"' + words(self.prompts.tokens(session, turn)).encode() + b'"'
        limits = b',"max_tokens":%d' % plan.output_tokens
        if workload.ignore_eos:
            limits += b',"min_tokens":%d,"ignore_eos":true' % plan.output_tokens
        body = self.body_start + asked + limits + b"}"
        return self.head + b"Content-Length: %d\r\n\r\n" % len(body) + body


@dataclass(frozen=True)
class HttpWriter:
    """Requests of a template."""

    prompts: Prompts
    method: str
    path: Form
    body: Form | None
    head: bytes = field(repr=False)
    """All lines but the first; holds the credentials."""
    model: str

    def request(self, session: SessionPlan, turn: int) -> bytes:
        """The bytes of one turn's request."""
        texts = {
            "prompt": self.prompts.text(session, turn),
            "session": self.prompts.session_id(session),
            "output_tokens": str(session.turns[turn].output_tokens),
            "model": self.model,
        }
        path = self.path.filled(lambda name: in_path(texts[name]))
        head = b"%b %b HTTP/1.1\r\n%b" % (self.method.encode(), path, self.head)
        if self.body is None:
            return head + b"\r\n"
        body = self.body.filled(lambda name: in_string(texts[name]))
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def request_writer(workload: Workload, endpoint: Endpoint, seed: int, query_seed: int = 0) -> RequestWriter:
    """The writer for an endpoint. Credentials are in the head's bytes and nowhere else.

    Raises ``LoadError`` where the endpoint lacks what the workload asks.
    """
    prompts, url = Prompts(workload, seed, query_seed), urlsplit(endpoint.base_url)
    prefix = url.path.rstrip("/")
    if (template := workload.http) is not None:
        # A template without a body has none to speak of, but for a method of which a server expects one.
        body = body_form(template.body) if template.body is not None or template.method != "GET" else None
        head = _headers(endpoint, template.headers, has_body=template.body is not None)
        return HttpWriter(prompts, template.method, Form(prefix + template.path), body, head, endpoint.model)
    _check_openai(workload, endpoint)
    path = "/v1/chat/completions" if workload.api == "chat" else "/v1/completions"
    head = f"POST {prefix}{path} HTTP/1.1\r\n".encode() + _headers(endpoint, {}, has_body=True)
    start: dict[str, object] = {"model": endpoint.model, "stream": workload.stream}
    if workload.stream and endpoint.stream_usage:
        continuous = {"continuous_usage_stats": True} if workload.continuous_usage else {}
        start["stream_options"] = {"include_usage": True, **continuous}
    return OpenAIWriter(prompts, head, json.dumps(start).encode()[:-1] + b",")


def _check_openai(workload: Workload, endpoint: Endpoint) -> None:
    if not endpoint.openai:
        raise LoadError(
            f"the workload {workload.name!r} asks for {workload.api}, and {endpoint.base_url} has no OpenAI-compatible API: "
            "it lists no models at /v1/models",
            hint="Give --llmperf-url the server's root; --llmperf-served-model where it does not list its models; or choose a "
            "workload of 'api: http', with a template of the service's requests.",
        )
    if workload.continuous_usage and not (endpoint.stream_usage and endpoint.continuous_usage):
        lacking = "continuous_usage_stats" if endpoint.stream_usage else "stream_options"
        raise LoadError(
            f"the workload {workload.name!r} asks for 'continuous_usage', and {endpoint.base_url} takes no {lacking!r}",
            hint="Leave 'continuous_usage' out: an answer's tokens are then spread evenly over its events, or counted by event "
            "where the server says no number.",
        )


def _headers(endpoint: Endpoint, own: Mapping[str, str], *, has_body: bool) -> bytes:
    """The lines of the headers but for the length. What the command line says comes before what a template says."""
    url = urlsplit(endpoint.base_url)
    lines = {"host": ("Host", url.netloc.rpartition("@")[2]), "user-agent": ("User-Agent", "pytest-llmperf")}
    lines["accept"] = ("Accept", "*/*")
    if has_body:
        lines["content-type"] = ("Content-Type", "application/json")
    lines |= {name.lower(): (name, value) for name, value in own.items()}
    if endpoint.api_key is not None:
        lines["authorization"] = ("Authorization", f"Bearer {endpoint.api_key}")
    lines |= {name.lower(): (name, value) for name, value in endpoint.headers}
    return "".join(f"{name}: {value}\r\n" for name, value in lines.values()).encode()
