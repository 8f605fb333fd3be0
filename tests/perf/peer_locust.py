"""A locustfile: users that stream completions one after another, in the way Locust's own documentation reads a stream.

Locust knows no tokens: the time to the first event is reported as a request of its own named ``ttft``.
"""

from __future__ import annotations

import os
import time

import gevent  # type: ignore[import-untyped]
from locust import HttpUser, task  # type: ignore[import-not-found]
from locust.exception import StopUser  # type: ignore[import-not-found]

REQUESTS, OUTPUT_TOKENS = int(os.environ["PEER_REQUESTS"]), int(os.environ["PEER_TOKENS"])
BODY = {
    "model": "m",
    "prompt": "answer bench chunk decode " * 8,
    "max_tokens": OUTPUT_TOKENS,
    "stream": True,
    "ignore_eos": True,
}
begun = 0


class Streaming(HttpUser):  # type: ignore[misc]
    """One user."""

    @task  # type: ignore[untyped-decorator]
    def complete(self) -> None:
        """One request; the last one of all ends the run."""
        global begun  # noqa: PLW0603  (Locust's users are greenlets of one process)
        if begun == REQUESTS:
            raise StopUser
        begun += 1
        started, first = time.perf_counter(), True
        with self.client.post("/v1/completions", json=BODY, stream=True, name="all", catch_response=True) as answer:
            for line in answer.iter_lines():
                if first and line.startswith(b"data:"):
                    first = False
                    ttft_ms = 1000 * (time.perf_counter() - started)
                    self.environment.events.request.fire(
                        request_type="SSE", name="ttft", response_time=ttft_ms, response_length=0, exception=None, context={}
                    )
            answer.success()
        if self.environment.stats.get("all", "POST").num_requests >= REQUESTS:
            # From a greenlet of its own: it ends every user, and this one is one of them.
            gevent.spawn(self.environment.runner.quit)
