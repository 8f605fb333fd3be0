"""A client that reads streams and throws them away, in its own process so that it takes no time from the server's.

``python sim_client.py PORT CONCURRENCY TOKENS``: opens the streams at once, prints the number of bytes when all ended.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import cast

import uvloop


class Reader(asyncio.Protocol):
    """Sends one request and counts what comes back."""

    def __init__(self, body: bytes, done: asyncio.Future[int]) -> None:
        self._body = body
        self._done = done
        self._n_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
        cast(asyncio.Transport, transport).write(head % len(self._body) + self._body)

    def data_received(self, data: bytes) -> None:
        self._n_bytes += len(data)

    def connection_lost(self, _exc: Exception | None) -> None:
        self._done.set_result(self._n_bytes)


async def _main(port: int, concurrency: int, tokens: int) -> None:
    loop = asyncio.get_running_loop()
    ends: list[asyncio.Future[int]] = []
    for index in range(concurrency):
        document = {"prompt": [index + 1] * 32, "max_tokens": tokens, "ignore_eos": True, "stream": True}
        done: asyncio.Future[int] = loop.create_future()
        ends.append(done)
        await loop.create_connection(lambda: Reader(json.dumps(document).encode(), done), "127.0.0.1", port)  # noqa: B023
    sys.stdout.write(f"{sum(await asyncio.gather(*ends))}\n")


if __name__ == "__main__":
    uvloop.run(_main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
