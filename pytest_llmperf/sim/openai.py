"""What clients may ask for: request bodies checked as vLLM checks them, and its error bodies."""

from __future__ import annotations

import json
from array import array
from dataclasses import dataclass
from typing import Any, Literal

from pytest_llmperf.sim.tokens import encode, encode_chat
from pytest_llmperf.sim.unsupported import unsupported

Api = Literal["completion", "chat"]
DEFAULT_COMPLETION_TOKENS = 16


class ApiError(Exception):
    """A request that is answered with an error body."""

    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        self.status = status
        self.kind = kind
        self.param = param
        super().__init__(message)

    def body(self) -> bytes:
        """The JSON vLLM answers with."""
        error = {"message": str(self), "type": self.kind, "param": self.param, "code": self.status}
        return dump({"error": error})


@dataclass(frozen=True, slots=True)
class Ask:
    """A valid generation request."""

    api: Api
    prompt_ids: array[int]
    max_tokens: int
    min_tokens: int
    ignore_eos: bool
    stream: bool
    include_usage: bool
    continuous_usage: bool
    seed: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What requests are checked against."""

    model_id: str
    max_model_len: int
    vocab_size: int


def dump(value: object) -> bytes:
    """Compact JSON as vLLM's server writes it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def bad_request(message: str, param: str | None = None, value: object = None) -> ApiError:
    """vLLM's own 400; it appends the parameter and its value to the message."""
    suffix = f" (parameter={param}, value={value})" if param else ""
    return ApiError(400, "BadRequestError", message + suffix, param)


def invalid_body(kind: str, loc: tuple[object, ...], message: str, got: object = None) -> ApiError:
    """The 400 of a body that does not have the right shape: pydantic's list of errors as text."""
    return ApiError(400, "Bad Request", str([{"type": kind, "loc": ("body", *loc), "msg": message, "input": got}]))


def parse_json(body: bytes) -> dict[str, Any]:
    """The body as a JSON object, or the error FastAPI gives for it."""
    try:
        document = json.loads(body)
    except json.JSONDecodeError as error:
        problem = {"type": "json_invalid", "loc": ("body", error.pos), "msg": "JSON decode error", "input": {}}
        raise ApiError(400, "Bad Request", str([{**problem, "ctx": {"error": error.msg}}])) from None
    except UnicodeDecodeError:
        raise ApiError(400, "Bad Request", "There was an error parsing the body") from None
    if not isinstance(document, dict):
        raise invalid_body("model_attributes_type", (), "Input should be a valid dictionary", document)
    return document


def check_model(document: dict[str, Any], limits: Limits) -> None:
    """404 for a model that is not served; no model means the one there is."""
    model = document.get("model")
    if model is not None and model != limits.model_id:
        message = f"The model `{model}` does not exist. Valid aliases: {limits.model_id}."
        raise ApiError(404, "NotFoundError", message, "model")


def parse_ask(api: Api, body: bytes, limits: Limits) -> Ask:
    """A generation request, checked in vLLM's order: shape, model, parameters, length."""
    document = parse_json(body)
    prompt = _messages(document, limits) if api == "chat" else _prompt(document, limits)
    check_model(document, limits)
    name = unsupported(document)
    if name is not None:
        raise bad_request(f"the simulator does not support {name}.", name, document[name])
    stream = _boolean(document, "stream")
    options = document.get("stream_options") or {}
    if not isinstance(options, dict):
        raise invalid_body("model_type", ("stream_options",), "Input should be a valid dictionary", options)
    if options and not stream:
        raise invalid_body("value_error", (), "Value error, Stream options can only be defined when `stream=True`.")
    max_tokens = _max_tokens(api, document, len(prompt), limits)
    min_tokens = _integer(document, "min_tokens", 0)
    if not 0 <= min_tokens <= max_tokens:
        message = f"min_tokens must be less than or equal to max_tokens={max_tokens}, got {min_tokens}."
        raise bad_request(message, "min_tokens", min_tokens)
    return Ask(
        api=api,
        prompt_ids=prompt,
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        ignore_eos=_boolean(document, "ignore_eos"),
        stream=stream,
        include_usage=_boolean(options, "include_usage"),
        continuous_usage=_boolean(options, "include_usage") and _boolean(options, "continuous_usage_stats"),
        seed=_integer(document, "seed", 0),
    )


def parse_tokenize(body: bytes, limits: Limits) -> array[int]:
    """The tokens of a /tokenize request, of a prompt or of messages."""
    document = parse_json(body)
    ids = _messages(document, limits) if "messages" in document else _prompt(document, limits)
    check_model(document, limits)
    return ids


def _max_tokens(api: Api, document: dict[str, Any], prompt_tokens: int, limits: Limits) -> int:
    room = limits.max_model_len - prompt_tokens
    name = "max_completion_tokens" if document.get("max_completion_tokens") is not None else "max_tokens"
    default = room if api == "chat" else min(DEFAULT_COMPLETION_TOKENS, max(room, 1))
    asked = _integer(document, name, default)
    if asked < 1 and room >= 1:
        raise bad_request(f"max_tokens must be at least 1, got {asked}.", "max_tokens", asked)
    if asked > limits.max_model_len:
        message = f"max_tokens={asked} cannot be greater than max_model_len={limits.max_model_len}. "
        raise bad_request(message + "Please request fewer output tokens.", "max_tokens", asked)
    if asked > room or room < 1:
        message = (
            f"This model's maximum context length is {limits.max_model_len} tokens. However, you requested "
            f"{max(asked, 0)} output tokens and your prompt contains {prompt_tokens} input tokens, for a total of "
            f"{prompt_tokens + max(asked, 0)} tokens. Please reduce the length of the input prompt or the number of "
            "requested output tokens."
        )
        raise bad_request(message, "input_tokens", prompt_tokens)
    return asked


def _prompt(document: dict[str, Any], limits: Limits) -> array[int]:
    prompt = document.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and not isinstance(prompt[0], int):
        prompt = prompt[0]
    if prompt is None or prompt in ("", []):
        message = "Value error, Either prompt or prompt_embeds must be provided and non-empty."
        raise invalid_body("value_error", (), message, document)
    if isinstance(prompt, str):
        return encode(prompt, limits.vocab_size)
    if not isinstance(prompt, list) or not all(type(token) is int for token in prompt):
        if isinstance(prompt, list) and len(prompt) > 1:
            raise bad_request("the simulator takes one prompt a request.", "prompt", f"{len(prompt)} prompts")
        raise invalid_body("string_type", ("prompt",), "Input should be a valid string", prompt)
    if min(prompt) < 0 or max(prompt) >= limits.vocab_size:
        token = min(prompt) if min(prompt) < 0 else max(prompt)
        raise bad_request(f"Token id {token} is out of vocabulary.", "prompt", token)
    return array("I", prompt)


def _messages(document: dict[str, Any], limits: Limits) -> array[int]:
    messages = document.get("messages")
    if messages is None:
        raise invalid_body("missing", ("messages",), "Field required", document)
    if not isinstance(messages, list) or not messages:
        raise invalid_body("list_type", ("messages",), "Input should be a valid, non-empty list", messages)
    pairs: list[tuple[str, str]] = []
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise invalid_body("missing", ("messages", index, "role"), "Field required", message)
        content = message.get("content") or ""
        if isinstance(content, list):
            content = "".join(_text_of(part, index) for part in content)
        pairs.append((message["role"], str(content)))
    return encode_chat(pairs, limits.vocab_size)


def _text_of(part: object, message: int) -> str:
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        raise invalid_body("missing", ("messages", message, "content", "type"), "Field required", part)
    if part["type"] != "text":
        raise bad_request("the simulator has no multimodal models.", "messages", part["type"])
    return str(part.get("text", ""))


def _integer(document: dict[str, Any], name: str, default: int) -> int:
    value = document.get(name)
    if value is None:
        return default
    if type(value) is not int:
        raise invalid_body("int_type", (name,), "Input should be a valid integer", value)
    return value


def _boolean(document: dict[str, Any], name: str) -> bool:
    value = document.get(name)
    if value is not None and not isinstance(value, bool):
        raise invalid_body("bool_type", (name,), "Input should be a valid boolean", value)
    return bool(value)
