"""A small OpenAI-shaped HTTP server for tests: paced, honest about when it wrote what, and able to misbehave.

Run as ``python paced_server.py``; it prints its port. The first part of the path names a behaviour, optional parts after it the
time to first token and between tokens in milliseconds: ``/ok/20/5/v1/completions``. ``GET /truth`` returns every request it has
answered and the instants (seconds since the epoch) at which it was received and its first and last token were written.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from typing import Any

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"


@dataclass
class Truth:
    """What happened to one request, as the server saw it."""

    number: int
    received: float
    first: float = 0.0
    last: float = 0.0
    tokens: int = 0
    connection: int = 0
    path: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)


class Stepper:
    """Writes one token to every stream each period, as an inference engine's step does."""

    def __init__(self) -> None:
        self._streams: dict[float, dict[Reply, asyncio.Future[None]]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def join(self, reply: Reply, period_s: float) -> asyncio.Future[None]:
        done = asyncio.get_running_loop().create_future()
        if period_s not in self._streams:
            self._streams[period_s] = {}
            self._tasks.append(asyncio.get_running_loop().create_task(self._step(period_s)))
        self._streams[period_s][reply] = done
        return done

    async def _step(self, period_s: float) -> None:
        streams = self._streams[period_s]
        due = time.monotonic()
        while True:
            due = max(due + period_s, time.monotonic())
            await asyncio.sleep(due - time.monotonic())
            for reply, done in list(streams.items()):
                reply.token()
                if reply.truth.tokens >= reply.asked:
                    del streams[reply]
                    done.set_result(None)


STEPPER = Stepper()


class Reply:
    """One response being written."""

    def __init__(self, connection: Connection, truth: Truth, pace: list[float]) -> None:
        self.connection = connection
        self.truth = truth
        self.is_chat = truth.path.endswith("/chat/completions")
        self.asked = int(truth.body.get("max_tokens", 1))
        self.ttft_s = pace[0] / 1000 if pace else 0.0
        self.itl_s = pace[1] / 1000 if len(pace) > 1 else 0.0
        text = {"delta": {"content": " w"}} if self.is_chat else {"text": " w"}
        self.plain = self.framed(self.event({"index": 0, **text, "finish_reason": None}))

    def write(self, data: bytes) -> None:
        if self.connection.transport is not None:
            self.connection.transport.write(data)

    @staticmethod
    def framed(data: bytes) -> bytes:
        return b"%x\r\n%s\r\n" % (len(data), data)

    @staticmethod
    def event(choice: dict[str, Any] | None, usage: dict[str, int] | None = None) -> bytes:
        document: dict[str, Any] = {"id": "cmpl-0", "object": "text_completion", "created": 1, "model": "m"}
        document["choices"] = [choice] if choice is not None else []
        if usage is not None:
            document["usage"] = usage
        return b"data: " + json.dumps(document, ensure_ascii=False).encode() + b"\n\n"

    def usage(self, tokens: int | None = None) -> dict[str, int]:
        prompt = self.truth.body.get("prompt", "")
        prompt_tokens = len(prompt) if isinstance(prompt, list) else len(str(prompt).split())
        completion = self.truth.tokens if tokens is None else tokens
        return {"prompt_tokens": prompt_tokens, "completion_tokens": completion}

    def note_token(self, count: int = 1) -> None:
        self.truth.last = time.time()
        self.truth.first = self.truth.first or self.truth.last
        self.truth.tokens += count

    def token(self) -> None:
        self.note_token()
        self.write(self.plain)

    def begin(self) -> None:
        self.write(HEAD)
        if self.is_chat:
            self.write(
                self.framed(self.event({"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}))
            )

    async def tokens(self, count: int | None = None) -> None:
        await asyncio.sleep(self.ttft_s)
        for number in range(self.asked if count is None else count):
            if number:
                await asyncio.sleep(self.itl_s)
            self.token()

    def finish(self) -> None:
        ending = self.event({"index": 0, **({"delta": {}} if self.is_chat else {}), "finish_reason": "length"})
        self.write(self.framed(ending))
        self.write(self.framed(self.event(None, self.usage())))
        self.write(self.framed(b"data: [DONE]\n\n") + LAST_CHUNK)

    def json(self, status: str, document: object, headers: str = "") -> None:
        body = json.dumps(document).encode()
        head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{headers}content-length: {len(body)}\r\n\r\n"
        self.write(head.encode() + body)

    def close(self) -> None:
        if self.connection.transport is not None:
            self.connection.transport.close()

    def reset(self) -> None:
        transport = self.connection.transport
        if transport is not None:
            sock = transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()


async def ok(reply: Reply) -> None:
    reply.begin()
    await reply.tokens()
    reply.finish()


async def step(reply: Reply) -> None:
    """Tokens come to all streams at once; the first at the first step after ttft."""
    reply.begin()
    await asyncio.sleep(reply.ttft_s)
    await STEPPER.join(reply, reply.itl_s)
    reply.finish()


async def whole(reply: Reply) -> None:
    await asyncio.sleep(reply.ttft_s)
    choice = {"index": 0, "text": " w" * reply.asked, "finish_reason": "length"}
    reply.note_token(reply.asked)
    reply.json("200 OK", {"choices": [choice], "usage": reply.usage()})


async def two_in_one(reply: Reply) -> None:
    """Every token in one write."""
    await asyncio.sleep(reply.ttft_s)
    reply.write(HEAD)
    reply.note_token(reply.asked)
    reply.write(b"".join([reply.plain] * reply.asked))
    reply.finish()


async def cut_character(reply: Reply) -> None:
    """A character of three bytes arrives in two writes, the event with it."""
    reply.begin()
    event = reply.framed(reply.event({"index": 0, "text": "€", "finish_reason": None}))
    place = event.index("€".encode()) + 1
    for _ in range(reply.asked):
        reply.write(event[:place])
        await asyncio.sleep(0.01)
        reply.note_token()
        reply.write(event[place:])
        await asyncio.sleep(0.01)
    reply.finish()


async def empty_text(reply: Reply) -> None:
    reply.begin()
    event = reply.framed(reply.event({"index": 0, "text": "", "finish_reason": None}))
    for _ in range(reply.asked):
        reply.note_token()
        reply.write(event)
    reply.finish()


async def three_a_chunk(reply: Reply) -> None:
    """Several tokens an event, as with speculative decoding."""
    reply.begin()
    for _ in range(reply.asked // 3):
        reply.note_token(3)
        reply.write(reply.plain)
        await asyncio.sleep(reply.itl_s)
    reply.finish()


async def no_done(reply: Reply) -> None:
    reply.begin()
    await reply.tokens(reply.asked - 1)
    reply.note_token()
    reply.write(reply.framed(reply.event({"index": 0, "text": " w", "finish_reason": "length"})) + LAST_CHUNK)


async def no_end(reply: Reply) -> None:
    reply.begin()
    await reply.tokens()
    reply.write(LAST_CHUNK)


async def no_length(reply: Reply) -> None:
    """Neither chunks nor a length: the connection's end is the body's."""
    reply.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
    event = reply.event({"index": 0, "text": "a", "finish_reason": None})
    for _ in range(reply.asked):
        reply.note_token()
        reply.write(event)
    reply.write(b"data: [DONE]\n\n")
    reply.close()


async def truncate(reply: Reply) -> None:
    reply.begin()
    await reply.tokens(2)
    reply.close()


async def reset(reply: Reply) -> None:
    reply.reset()


async def reset_late(reply: Reply) -> None:
    reply.begin()
    await reply.tokens(2)
    await asyncio.sleep(0.02)
    reply.reset()


async def hang_up(reply: Reply) -> None:
    reply.close()


async def silent(_reply: Reply) -> None:
    await asyncio.Event().wait()


async def stall(reply: Reply) -> None:
    reply.begin()
    await reply.tokens(2)
    await asyncio.Event().wait()


async def stall_before_token(reply: Reply) -> None:
    """The headers come, and in a chat the event that names the role."""
    reply.begin()
    await asyncio.Event().wait()


async def stale(reply: Reply) -> None:
    """Closes the connection, without having said so, after ttft when a second request comes on it."""
    if reply.connection.served:
        reply.truth.path += "#stale"
        await asyncio.sleep(reply.ttft_s)
        reply.close()
    else:
        await ok(reply)


async def refuses(reply: Reply) -> None:
    error = {"message": "slow down", "type": "RateLimitError", "code": 429}
    reply.json("429 Too Many Requests", {"error": error}, "retry-after: 1\r\n")


async def unavailable(reply: Reply) -> None:
    body = b"<html>no</html>"
    reply.write(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))


async def bad_json(reply: Reply) -> None:
    reply.begin()
    await reply.tokens(1)
    reply.write(reply.framed(b'data: {"choices": [{"text": oops}]}\n\n'))
    reply.finish()


async def bad_http(reply: Reply) -> None:
    reply.write(b"SMTP ready\r\n\r\n")


async def error_event(reply: Reply) -> None:
    reply.begin()
    await reply.tokens(1)
    reply.write(reply.framed(b'data: {"error": {"message": "engine died", "type": "InternalServerError", "code": 500}}\n\n'))
    reply.write(reply.framed(b"data: [DONE]\n\n") + LAST_CHUNK)


async def fails_sometimes(reply: Reply) -> None:
    await (unavailable(reply) if reply.truth.number % 3 == 0 else ok(reply))


BEHAVIOURS: dict[str, Callable[[Reply], Awaitable[None]]] = {
    behaviour.__name__: behaviour
    for behaviour in (
        ok, step, whole, two_in_one, cut_character, empty_text, three_a_chunk, no_done, no_end, no_length, truncate, reset,
        reset_late, hang_up, silent, stall, stall_before_token, stale, refuses, unavailable, bad_json, bad_http, error_event,
        fails_sometimes,
    )
}  # fmt: skip


class Server:
    """The requests it has seen."""

    def __init__(self) -> None:
        self.truths: list[Truth] = []
        self.connections = 0
        self.tasks: set[asyncio.Task[None]] = set()


class Connection(asyncio.Protocol):
    """Requests of one connection, one after the other."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._buffer = b""
        self.transport: asyncio.Transport | None = None
        self.served = 0
        server.connections += 1
        self._number = server.connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def connection_lost(self, _exc: Exception | None) -> None:
        self.transport = None

    def data_received(self, data: bytes) -> None:
        received = time.time()
        self._buffer += data
        while b"\r\n\r\n" in self._buffer:
            head, _, rest = self._buffer.partition(b"\r\n\r\n")
            first, *lines = head.decode().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            length = int(headers.get("content-length", "0"))
            if len(rest) < length:
                return
            self._buffer = rest[length:]
            self._answer(first.split()[1], headers, rest[:length], received)

    def _answer(self, path: str, headers: dict[str, str], body: bytes, received: float) -> None:
        behaviour, *rest = path.strip("/").split("/")
        truth = Truth(len(self._server.truths), received, connection=self._number, path=path)
        if behaviour == "truth":
            Reply(self, truth, []).json("200 OK", [asdict(each) for each in self._server.truths])
            return
        self._server.truths.append(truth)
        truth.body = json.loads(body)
        pace = [float(part) for part in rest if part.replace(".", "").isdigit()]
        reply = Reply(self, truth, pace)
        if behaviour == "step":
            truth.body = {}
        else:
            truth.headers = headers
        task = asyncio.get_running_loop().create_task(self._serve(BEHAVIOURS[behaviour], reply))
        self._server.tasks.add(task)
        task.add_done_callback(self._server.tasks.discard)

    async def _serve(self, behaviour: Callable[[Reply], Awaitable[None]], reply: Reply) -> None:
        await behaviour(reply)
        self.served += 1


async def main(certificate: str | None) -> None:
    tls = None
    if certificate is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
    server = Server()
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(lambda: Connection(server), "127.0.0.1", 0, ssl=tls, backlog=4096)
    print(listening.sockets[0].getsockname()[1], flush=True)
    # The test that started it holds its input: when that ends, so does this.
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    try:
        import uvloop
    except ImportError:
        asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else None))
    else:
        uvloop.run(main(sys.argv[1] if len(sys.argv) > 1 else None))
