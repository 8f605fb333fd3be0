"""The simulated server's routes: what a vLLM API server answers, and /admin for tests."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from functools import partial
from secrets import token_hex
from typing import Any

from pytest_llmperf.errors import LlmperfError
from pytest_llmperf.sim.answer import Answer
from pytest_llmperf.sim.codec import decode, encode
from pytest_llmperf.sim.driver import Driver
from pytest_llmperf.sim.engine import Engine
from pytest_llmperf.sim.faults import FaultInjector
from pytest_llmperf.sim.http import STREAM_HEAD, Connection
from pytest_llmperf.sim.lateness import Lateness
from pytest_llmperf.sim.metrics import Metrics
from pytest_llmperf.sim.openai import ApiError, Ask, Limits, dump, parse_ask, parse_json, parse_tokenize
from pytest_llmperf.sim.request import FinishReason, Request
from pytest_llmperf.sim.spec import Faults, SimSpec
from pytest_llmperf.sim.stream import Stream
from pytest_llmperf.sim.tokens import Writer, chain_keys

VERSION = "0.32.0+sim"
FINGERPRINT = f"vllm-{VERSION}-simulated"
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Route = Callable[[Connection, bytes], None]


class App:
    """One simulated deployment behind one port."""

    def __init__(self, spec: SimSpec) -> None:
        self._spec = spec
        engine = Engine(spec)
        self._metrics = Metrics(spec, engine)
        self._driver = Driver(engine, self._metrics.observe)
        self._faults = FaultInjector(spec.faults, spec.seed)
        self._limits = Limits(spec.model_id, engine.config.max_model_len, spec.model.vocab_size)
        self._block_size = engine.config.block_size
        self._created = int(time.time())
        self._next_id = 0
        self._connections: set[Connection] = set()
        self.phase = "engine_start"
        self._routes: dict[str, tuple[str, Route]] = {
            "/health": ("GET", self._health),
            "/ping": ("GET", self._health),
            "/version": ("GET", self._version),
            "/v1/models": ("GET", self._models),
            "/metrics": ("GET", self._scrape),
            "/tokenize": ("POST", self._tokenize),
            "/v1/completions": ("POST", partial(self._generate, "completion")),
            "/v1/chat/completions": ("POST", partial(self._generate, "chat")),
            "/admin/lateness": ("GET", self._lateness),
            "/admin/lateness/reset": ("POST", self._reset_lateness),
            "/admin/stall": ("POST", self._stall),
            "/admin/crash": ("POST", self._crash),
        }

    async def start_up(self) -> None:
        """Go through the phases of a cold start; /health answers 503 until the last one is over."""
        cold, faults = self._spec.cold_start, self._spec.faults
        for phase, seconds in (
            ("engine_start", cold.engine_start_s + faults.slow_start_s),
            ("weights_load", cold.weights_load_s),
            ("compile", cold.compile_s),
        ):
            self.phase = phase
            await asyncio.sleep(seconds)
            if faults.crash_at_start and phase == "weights_load":
                os._exit(1)
        self.phase = "ready"
        self._driver.stall_every(faults.stall_every_s, faults.stall_s)

    def close(self) -> None:
        """Cut all connections and stop the clock."""
        for connection in list(self._connections):
            connection.cut()
        self._driver.close()

    def opened(self, connection: Connection) -> None:
        """A client connected."""
        self._connections.add(connection)

    def closed(self, connection: Connection) -> None:
        """A client went away."""
        self._connections.discard(connection)

    def handle(self, connection: Connection, method: str, path: str, body: bytes) -> None:
        """Route one request; whatever is wrong with it becomes vLLM's error body."""
        try:
            if path == "/admin/faults" and method in ("GET", "POST"):
                self._admin_faults(connection, method, body)
                return
            wanted, route = self._routes.get(path, (None, None))
            if route is None:
                raise ApiError(404, "Not Found", "Not Found")
            if method != wanted:
                raise ApiError(405, "Method Not Allowed", "Method Not Allowed")
            if self.phase != "ready" and not path.startswith("/admin/"):
                raise ApiError(503, "ServiceUnavailableError", f"the engine is starting: {self.phase}")
            route(connection, body)
        except ApiError as error:
            connection.reply(error.status, error.body())

    def _health(self, connection: Connection, _body: bytes) -> None:
        connection.reply(200, b"")

    def _version(self, connection: Connection, _body: bytes) -> None:
        connection.reply(200, dump({"version": VERSION, "simulated": True}))

    def _models(self, connection: Connection, _body: bytes) -> None:
        permission = {
            "id": f"modelperm-{token_hex(8)}",
            "object": "model_permission",
            "created": self._created,
            "allow_create_engine": False,
            "allow_sampling": True,
            "allow_logprobs": True,
            "allow_search_indices": False,
            "allow_view": True,
            "allow_fine_tuning": False,
            "organization": "*",
            "group": None,
            "is_blocking": False,
        }
        card = {
            "id": self._limits.model_id,
            "object": "model",
            "created": self._created,
            "owned_by": "pytest-llmperf-sim",
            "root": self._spec.model.name,
            "parent": None,
            "max_model_len": self._limits.max_model_len,
            "permission": [permission],
        }
        connection.reply(200, dump({"object": "list", "data": [card]}))

    def _scrape(self, connection: Connection, _body: bytes) -> None:
        connection.reply(200, self._metrics.render(), METRICS_TYPE)

    def _tokenize(self, connection: Connection, body: bytes) -> None:
        ids = parse_tokenize(body, self._limits)
        tokens = {"count": len(ids), "max_model_len": self._limits.max_model_len}
        connection.reply(200, dump({**tokens, "tokens": ids.tolist(), "token_strs": None}))

    def _generate(self, api: Any, connection: Connection, body: bytes) -> None:
        arrived_s = time.monotonic()
        ask = parse_ask(api, body, self._limits)
        fate = self._faults.next_fate()
        if fate.crash:
            os._exit(1)
        if fate.error is not None:
            raise fate.error
        writer = Writer(ask.prompt_ids, self._spec.seed + ask.seed, self._limits.vocab_size)
        n_tokens, reason = self._length(ask, writer)
        request_id, self._next_id = self._next_id, self._next_id + 1
        answer = Answer(ask, writer, self._limits.model_id, token_hex(8), FINGERPRINT)
        stream = Stream(
            connection,
            answer,
            n_tokens,
            reason,
            streamed=ask.stream,
            cut_after=fate.cut_after_tokens,
            on_cut=self._driver.withdraw,
        )
        connection.on_close = partial(self._driver.withdraw, stream)
        if ask.stream:
            connection.write(STREAM_HEAD)
        ready_s = arrived_s + self._spec.api_overhead_s
        self._driver.submit(ready_s, partial(self._admit, request_id, ask, stream, writer, arrived_s), stream)

    def _length(self, ask: Ask, writer: Writer) -> tuple[int, FinishReason]:
        """How many tokens the answer has, and why it ends there."""
        natural = max(writer.natural_length(self._spec.natural_output_tokens), ask.min_tokens)
        if ask.ignore_eos or natural >= ask.max_tokens:
            return ask.max_tokens, "length"
        return natural, "stop"

    def _admit(self, request_id: int, ask: Ask, stream: Stream, writer: Writer, arrived_s: float) -> Request:
        n_tokens, reason = self._length(ask, writer)

        def keys(n: int) -> list[Any]:
            answer = writer.ids(max(0, n - len(ask.prompt_ids)))
            return chain_keys((ask.prompt_ids + answer)[:n], self._block_size)

        return self._driver.engine.add_request(
            request_id,
            len(ask.prompt_ids),
            n_tokens,
            arrived_s,
            finish_reason=reason,
            prefix_keys=chain_keys(ask.prompt_ids, self._block_size),
            key_source=keys,
            payload=stream,
            max_tokens=ask.max_tokens,
        )

    def _lateness(self, connection: Connection, _body: bytes) -> None:
        connection.reply(200, dump(self._driver.lateness.summary()))

    def _reset_lateness(self, connection: Connection, _body: bytes) -> None:
        self._driver.lateness = Lateness()
        connection.reply(200, dump({}))

    def _stall(self, connection: Connection, body: bytes) -> None:
        seconds = parse_json(body).get("seconds")
        if not isinstance(seconds, (int, float)) or seconds < 0:
            raise ApiError(400, "BadRequestError", "needs {'seconds': a number}", "seconds")
        self._driver.stall(float(seconds))
        connection.reply(200, dump({}))

    def _crash(self, _connection: Connection, _body: bytes) -> None:
        os._exit(1)

    def _admin_faults(self, connection: Connection, method: str, body: bytes) -> None:
        """GET the faults; POST a JSON object to change the named ones."""
        if method == "POST":
            try:
                faults = decode(Faults, {**encode(self._faults.faults), **parse_json(body)}, "faults")
            except LlmperfError as error:
                raise ApiError(400, "BadRequestError", str(error)) from None
            self._faults.faults = faults
            self._driver.stall_every(faults.stall_every_s, faults.stall_s)
        connection.reply(200, dump(encode(self._faults.faults)))
