"""From plain data to a frozen record; what pydantic finds wrong becomes one error that names file, line and key."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Collection, Hashable, Mapping
from functools import cache
from types import UnionType
from typing import Any, TypeVar, Union

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from pytest_llmperf.errors import ConfigError, Where, nearest, unknown
from pytest_llmperf.experiment.yaml_source import KeyPath, YamlDocument

Record = TypeVar("Record")


def build(
    record_type: type[Record],
    document: YamlDocument,
    path: KeyPath,
    data: object,
    given: Mapping[str, object] | None = None,
    derived: Collection[str] = (),
) -> Record:
    """The record that ``data``, found at ``path`` of the document, describes.

    ``given`` are fields that the place decides (the name): the data need not hold them, and may not contradict them.
    ``derived`` are fields that are computed, which the data may not hold. Raises ``ConfigError`` for the first thing that is
    wrong, unknown keys before all else.
    """
    given = given or {}
    if not isinstance(data, Mapping):
        raise ConfigError(f"must be a mapping of keys to values, not {_plain(data)}", where=document.where(path))
    check_given(document, path, data, given)
    for key in data:
        if key in derived:
            raise unknown("key", key, _keys_of(record_type, derived), document.where((*path, key)))
    try:
        record: Record = _adapter(typing.cast(Hashable, record_type)).validate_python({**data, **given})
    except ValidationError as error:
        raise _first_error(error, record_type, document, path, derived) from None
    return record


def check_given(document: YamlDocument, path: KeyPath, data: Mapping[str, Any], given: Mapping[str, object]) -> None:
    """Whether the data contradicts what its place decides. Raises ``ConfigError``."""
    for key, value in given.items():
        if data.get(key, value) != value:
            raise ConfigError(f"must be {value!r}, as its place says, not {data[key]!r}", where=document.where((*path, key)))


@cache
def _adapter(record_type: Any) -> TypeAdapter[Any]:
    return TypeAdapter(record_type)


def _first_error(
    error: ValidationError, record_type: type, document: YamlDocument, path: KeyPath, derived: Collection[str]
) -> ConfigError:
    def order(found: ErrorDetails) -> tuple[bool, int]:
        # A mistyped key is usually reported twice, as unknown and as missing: the first is the cause.
        return (not _is_unknown_key(found), document.where((*path, *found["loc"])).line or 0)

    first = min(error.errors(include_url=False), key=order)
    loc: KeyPath = first["loc"]
    where = document.where((*path, *loc))
    if _is_unknown_key(first):
        parent = _type_at(record_type, loc[:-1])
        return unknown("key", str(loc[-1]), _keys_of(parent, derived if len(loc) == 1 else ()), where)
    if first["type"] == "missing":
        return ConfigError(f"the key {str(loc[-1])!r} is missing", where=document.where((*path, *loc[:-1])))
    return ConfigError(_sentence(first), where=_existing(document, (*path, *loc)))


def _is_unknown_key(found: ErrorDetails) -> bool:
    return found["type"] in {"unexpected_keyword_argument", "extra_forbidden"}


def _existing(document: YamlDocument, path: KeyPath) -> Where:
    """The place, less what pydantic adds to a location (the branch of a union it tried, ``[key]``)."""
    while path and path not in document.lines:
        path = path[:-1]
    return document.where(path)


_EXPECTED = {
    "string_type": "text",
    "dataclass_type": "a mapping of keys to values",
    "mapping_type": "a mapping of keys to values",
    "dict_type": "a mapping of keys to values",
    "tuple_type": "a list",
    "list_type": "a list",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
}
"""What pydantic's kinds of error were looking for."""


def _sentence(found: ErrorDetails) -> str:
    value, kind = found["input"], found["type"]
    if kind == "value_error":
        return str(found["ctx"]["error"])
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", found["ctx"]["expected"])
        close = nearest(str(value), choices)
        meant = f"; did you mean {close!r}?" if close else ""
        return f"{_plain(value)} is not one of {', '.join(choices)}{meant}"
    if kind == "string_type" and isinstance(value, int | float) and not isinstance(value, bool):
        return f"must be text, not the number {value!r}; put it in quotes"
    if kind in _EXPECTED:
        return f"must be {_EXPECTED[kind]}, not {_plain(value)}"
    return f"{found['msg'][:1].lower()}{found['msg'][1:]}, not {_plain(value)}"


def _plain(value: object) -> str:
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case Mapping():
            return "a mapping"
        case list() | tuple():
            return "a list"
        case _:
            return repr(value)


def _keys_of(record_type: object, derived: Collection[str]) -> list[str]:
    if not (isinstance(record_type, type) and dataclasses.is_dataclass(record_type)):
        return []
    return [field.name for field in dataclasses.fields(record_type) if field.name not in derived]


def _type_at(record_type: object, loc: KeyPath) -> object:
    """The record type that a pydantic location leads to (``("turns", "count")`` of a Workload is Lengths)."""
    current: Any = record_type
    for part in loc:
        if isinstance(part, str) and dataclasses.is_dataclass(current) and isinstance(current, type):
            current = typing.get_type_hints(current).get(part)
        elif isinstance(part, int):
            current = (typing.get_args(current) or (None,))[0]
        if typing.get_origin(current) in {Union, UnionType}:
            current = next(arm for arm in typing.get_args(current) if arm is not type(None))
    return current
