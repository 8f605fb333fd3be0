"""Frozen dataclasses to and from plain JSON values; a wrong key or type is a ConfigError that names its place."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from pytest_llmperf.errors import ConfigError, Where, unknown

T = TypeVar("T")


def encode(value: Any) -> Any:
    """A dataclass (with nested dataclasses, tuples, mappings and scalars) as JSON-ready values."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    return value


def decode(cls: type[T], document: object, place: str = "") -> T:
    """The dataclass ``cls`` from a JSON object; absent keys take the dataclass' defaults."""
    if not isinstance(document, dict):
        raise _wrong(place, "an object", document)
    known = {field.name for field in fields(cast(Any, cls))}
    for key in document:
        if key not in known:
            raise unknown(f"key in {place or 'the spec'}", str(key), known, where=Where(key=_join(place, str(key))))
    hints = get_type_hints(cls)
    values = {key: _convert(hints[key], item, _join(place, key)) for key, item in document.items()}
    try:
        return cls(**values)
    except TypeError as error:
        raise ConfigError(f"incomplete {cls.__name__}: {error}", where=Where(key=place or None)) from None


def _join(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key


def _wrong(place: str, wanted: str, got: object) -> ConfigError:
    return ConfigError(f"needs {wanted}, got {got!r}", where=Where(key=place or "spec"))


def _convert(hint: Any, value: Any, place: str) -> Any:
    origin = get_origin(hint)
    if is_dataclass(hint):
        return decode(cast(type[Any], hint), value, place)
    if origin is Literal:
        if value not in get_args(hint):
            raise unknown("value", str(value), [str(item) for item in get_args(hint)], where=Where(key=place))
        return value
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        return _convert(next(arg for arg in get_args(hint) if arg is not type(None)), value, place)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise _wrong(place, "an object", value)
        return {key: _convert(get_args(hint)[1], item, _join(place, key)) for key, item in value.items()}
    return _scalar(hint, value, place)


def _scalar(hint: Any, value: Any, place: str) -> Any:
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise _wrong(place, {int: "a whole number", float: "a number", str: "a string"}.get(hint, "true or false"), value)
    return value
