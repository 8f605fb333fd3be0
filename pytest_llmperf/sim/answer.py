"""Response bodies and stream events as bytes, in vLLM's shape key for key.

A stream's events differ in the word and, with continuous usage, in the counts: everything else is formatted once.
"""

from __future__ import annotations

import time
from typing import Any

from pytest_llmperf.sim.openai import Ask, dump
from pytest_llmperf.sim.tokens import Writer

DONE = b"data: [DONE]\n\n"
_WORD = "\x00WORD\x00"
_USAGE = "\x00USAGE\x00"


def chunked(data: bytes) -> bytes:
    """One HTTP/1.1 chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"


class Answer:
    """Formats one request's answer."""

    __slots__ = ("_ask", "_created", "_fingerprint", "_head", "_id", "_model", "_tail", "_usage", "writer")

    def __init__(self, ask: Ask, writer: Writer, model_id: str, answer_id: str, fingerprint: str) -> None:
        self._ask = ask
        self._id = f"{'chatcmpl' if ask.api == 'chat' else 'cmpl'}-{answer_id}"
        self._created = int(time.time())
        self._model = model_id
        self._fingerprint = fingerprint
        self.writer = writer
        self._head, self._tail, self._usage = self._split_event(None)

    def _envelope(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model, "choices": choices}

    @property
    def _stream_object(self) -> str:
        return "chat.completion.chunk" if self._ask.api == "chat" else "text_completion"

    def _choice(self, finish_reason: str | None) -> dict[str, Any]:
        if self._ask.api == "completion":
            choice: dict[str, Any] = {"index": 0, "text": _WORD, "logprobs": None, "finish_reason": finish_reason}
            return {**choice, "stop_reason": None, "prompt_token_ids": None, "token_ids": None}
        choice = {"index": 0, "delta": {"content": _WORD}, "logprobs": None, "finish_reason": finish_reason}
        stop = {"stop_reason": None} if finish_reason else {}
        return {**choice, **stop, "token_ids": None}

    def _split_event(self, finish_reason: str | None) -> tuple[bytes, bytes, bytes]:
        """An event as (before the word, after it up to the usage, after the usage)."""
        event = self._envelope(self._stream_object, [self._choice(finish_reason)])
        if self._ask.continuous_usage:
            event["usage"] = _USAGE
        head, _, rest = (b"data: " + dump(event) + b"\n\n").partition(b"\\u0000WORD\\u0000")
        tail, _, after = rest.partition(b'"\\u0000USAGE\\u0000"')
        return head, tail, after

    def _usage_bytes(self, n_tokens: int) -> bytes:
        prompt = len(self._ask.prompt_ids)
        return b'{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d,"completion_tokens_details":null}' % (
            prompt,
            prompt + n_tokens,
            n_tokens,
        )

    def _usage_counts(self, n_tokens: int) -> dict[str, Any]:
        prompt = len(self._ask.prompt_ids)
        return {"prompt_tokens": prompt, "total_tokens": prompt + n_tokens, "completion_tokens": n_tokens}

    def event(self, index: int) -> bytes:
        """The chunk of token ``index``, a token that is not the last."""
        usage = self._usage_bytes(index + 1) if self._ask.continuous_usage else b""
        data = b"%b%b%b%b%b" % (self._head, self.writer.word(index), self._tail, usage, self._usage)
        return b"%x\r\n%b\r\n" % (len(data), data)

    def first_event(self) -> bytes:
        """What precedes the first token: a chat names its role."""
        if self._ask.api == "completion":
            return b""
        choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        event = self._envelope(self._stream_object, [choice])
        if self._ask.continuous_usage:
            event["usage"] = {**self._usage_counts(0), "completion_tokens_details": None}
        event |= {"prompt_token_ids": None, "prompt_text": None}
        return chunked(b"data: " + dump(event) + b"\n\n")

    def last_event(self, index: int, finish_reason: str) -> bytes:
        """The chunk of the last token, the usage if asked for, and the end of the response."""
        head, tail, after = self._split_event(finish_reason)
        usage = self._usage_bytes(index + 1) if self._ask.continuous_usage else b""
        out = chunked(b"%b%b%b%b%b" % (head, self.writer.word(index), tail, usage, after))
        if self._ask.include_usage:
            event = self._envelope(self._stream_object, [])
            event |= {"usage": self._usage_counts(index + 1), "system_fingerprint": self._fingerprint}
            out += chunked(b"data: " + dump(event) + b"\n\n")
        return out + chunked(DONE) + LAST_CHUNK

    def body(self, n_tokens: int, finish_reason: str) -> bytes:
        """The whole answer of a request that does not stream."""
        usage = {**self._usage_counts(n_tokens), "prompt_tokens_details": None, "completion_tokens_details": None}
        text = self.writer.text(n_tokens)
        common = {"logprobs": None, "finish_reason": finish_reason, "stop_reason": None, "token_ids": None}
        end: dict[str, Any] = {"service_tier": None, "system_fingerprint": self._fingerprint, "usage": usage}
        transfer = {"kv_transfer_params": None, "ec_transfer_params": None, "metrics": None}
        if self._ask.api == "completion":
            prompt = {"prompt_logprobs": None, "prompt_token_ids": None, "routed_experts": None}
            document = self._envelope("text_completion", [{"index": 0, "text": text, **common, **prompt}])
            return dump(document | end | transfer)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": text,
            "refusal": None,
            "annotations": None,
            "audio": None,
        }
        message |= {"function_call": None, "tool_calls": [], "reasoning": None}
        choice = {"index": 0, "message": message, **common, "routed_experts": None}
        document = self._envelope("chat.completion", [choice])
        return dump(document | end | {"prompt_logprobs": None, "prompt_token_ids": None, "prompt_text": None} | transfer)
