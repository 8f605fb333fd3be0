"""One answer on its way to a client: what to send with each token, and when to break off on purpose."""

from __future__ import annotations

from collections.abc import Callable

from pytest_llmperf.sim.answer import Answer
from pytest_llmperf.sim.http import Connection, response
from pytest_llmperf.sim.request import FinishReason, Request


class Stream:
    """Binds an engine request to the connection that waits for it."""

    __slots__ = (
        *("_answer", "_connection", "_cut_after", "_finish_reason", "_n_tokens", "_sent", "_streamed"),
        *("on_cut", "request", "send"),
    )

    def __init__(
        self,
        connection: Connection,
        answer: Answer,
        n_tokens: int,
        finish_reason: FinishReason,
        *,
        streamed: bool,
        cut_after: int | None,
        on_cut: Callable[[Stream], None],
    ) -> None:
        self._connection = connection
        self._answer = answer
        self._n_tokens = n_tokens
        self._finish_reason: FinishReason = finish_reason
        self._streamed = streamed
        self._cut_after = cut_after
        self._sent = 0
        self.on_cut = on_cut
        self.request: Request | None = None
        self.send: Callable[[bytes], None] = connection.write

    def advance(self) -> bytes:
        """The bytes of the next token; empty where there is nothing to send yet."""
        index = self._sent
        self._sent = index + 1
        if self._cut_after is not None and index >= self._cut_after:
            self.send = self._cut
            return b"cut"
        last = index + 1 == self._n_tokens
        if not self._streamed:
            return response(200, self._answer.body(self._n_tokens, self._finish_reason)) if last else b""
        data = self._answer.last_event(index, self._finish_reason) if last else self._answer.event(index)
        return self._answer.first_event() + data if index == 0 else data

    def _cut(self, _data: bytes) -> None:
        self._connection.cut()
        self.on_cut(self)

    def finish(self) -> None:
        """All bytes are out: the connection may take its next request."""
        if self._cut_after is None or self._sent <= self._cut_after:
            self._connection.done()
