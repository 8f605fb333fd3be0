"""Server-sent events as an OpenAI-compatible server writes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

from pytest_llmperf.load.exchange import Reads
from pytest_llmperf.load.wall_clock import NO_STAMP

Api = Literal["completions", "chat"]


def event(choice: dict[str, Any] | None, usage: dict[str, int] | None = None, **spacing: Any) -> bytes:
    document: dict[str, Any] = {"id": "cmpl-8dce", "object": "text_completion", "created": 1795215010, "model": "tiny"}
    document["choices"] = [choice] if choice is not None else []
    if usage is not None:
        document["usage"] = usage
    return b"data: " + json.dumps(document, **spacing).encode() + b"\n\n"


def text(value: str, finish: str | None = None, **more: Any) -> bytes:
    return event({"index": 0, "text": value, "logprobs": None, "finish_reason": finish, "stop_reason": None}, **more)


def delta(value: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    return event({"index": 0, "delta": value, "logprobs": None, "finish_reason": finish}, **more)


def usage(completion: int, prompt: int = 8) -> bytes:
    return event(None, {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion})


DONE = b"data: [DONE]\n\n"

# As vLLM 0.32 answers a completion of six tokens, empty texts among them, and a chat of three.
COMPLETION = [text(""), text("THOD"), text(""), text("\u0001"), text(""), text("", "length"), usage(6), DONE]
CHAT = [
    delta({"role": "assistant", "content": ""}),
    delta({"content": "@"}),
    delta({"content": " harm"}),
    delta({"content": " dra"}, "length"),
    usage(3, 13),
    DONE,
]


def reads_of(parts: Sequence[bytes], read_s: Sequence[float]) -> Reads:
    """Reads of a body at these instants, without timestamps."""
    reads = Reads()
    for part, at_s in zip(parts, read_s, strict=False):
        reads.add(part, at_s, NO_STAMP)
    return reads
