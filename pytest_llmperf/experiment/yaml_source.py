"""YAML with line numbers: plain data, and for every key the line it stands on, so that errors can point there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from pytest_llmperf.errors import ConfigError, Where

KeyPath = tuple[str | int, ...]
"""The way to a value: keys of mappings and (0-based) positions in lists."""

Plain = str | int | float | bool | None | list["Plain"] | dict[str, "Plain"]

# libyaml's parser, where PyYAML was built with it, is about ten times faster; the nodes are the same.
_Loader: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_STANDARD_TAG = "tag:yaml.org,2002:"
_TAGS = {_STANDARD_TAG + name for name in ("str", "int", "float", "bool", "null", "timestamp", "value", "merge", "map", "seq")}
"""What PyYAML calls nodes that carry no tag of their own; and tags that say no more than that."""
_INT = re.compile(r"[-+]?\d+")
_FLOAT = re.compile(r"[-+]?(?:\d+\.\d*|\.\d+|\d+)(?:[eE][-+]?\d+)?")
_NOT_FINITE = re.compile(r"[-+]?\.inf|\.nan", re.IGNORECASE)
_WORDS: Mapping[str, bool | None] = {"true": True, "false": False, "null": None, "~": None, "": None}


@dataclass(frozen=True)
class YamlDocument:
    """A parsed file. ``file`` is how errors name it; ``lines`` are 1-based."""

    file: str
    data: Plain
    lines: Mapping[KeyPath, int]

    def where(self, path: KeyPath) -> Where:
        """The place of a value; the nearest enclosing one that the file has, when ``path`` itself is not in it."""
        known = next((path[:length] for length in range(len(path), -1, -1) if path[:length] in self.lines), ())
        return Where(file=self.file, line=self.lines.get(known), key=key_text(path) or None)


def key_text(path: KeyPath) -> str:
    """``("include", 0, "hardware")`` -> ``include[0].hardware``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def shown(path: Path) -> str:
    """A path as errors show it: relative to the working directory where it lies below it."""
    absolute, here = path.absolute(), Path.cwd()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(path)


def read_yaml(path: Path) -> YamlDocument:
    """Parse one YAML file. Raises ``ConfigError`` when it is missing, not YAML, empty, or gives a key twice."""
    file = shown(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError("the file does not exist", where=Where(file=file)) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"the file is not UTF-8 text (byte {error.start})", where=Where(file=file)) from None
    except OSError as error:
        raise ConfigError(f"the file cannot be read: {error.strerror}", where=Where(file=file)) from None
    return parse_yaml(text, file)


def parse_yaml(text: str, file: str) -> YamlDocument:
    """Parse YAML text; ``file`` is the name errors show. Raises ``ConfigError``."""
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = error.problem or error.context
        raise ConfigError(f"not YAML: {problem}", where=Where(file, mark.line + 1 if mark else None)) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"not YAML: {str(error).splitlines()[0]}", where=Where(file)) from None
    if root is None:
        raise ConfigError("the file is empty", where=Where(file))
    reader = _Reader(file)
    return YamlDocument(file, reader.value(root, (), root.start_mark.line + 1), reader.lines)


class _Reader:
    """Walks one document's nodes into plain data, noting where each key stands."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.lines: dict[KeyPath, int] = {}
        self._open: set[int] = set()

    def value(self, node: yaml.Node, path: KeyPath, line: int) -> Plain:
        self.lines[path] = line
        if node.tag not in _TAGS:
            raise self._error(f"the tag {node.tag!r} has no meaning here", path)
        if isinstance(node, yaml.ScalarNode):
            if not node.style and node.tag == f"{_STANDARD_TAG}float" and _NOT_FINITE.fullmatch(node.value):
                raise self._error(f"{node.value} is a number that nothing here can be; quotes make a text of it", path)
            return _scalar(node)
        if id(node) in self._open:
            raise self._error("the alias refers to what it is part of", path)
        self._open.add(id(node))
        inner = self._mapping(node, path) if isinstance(node, yaml.MappingNode) else self._sequence(node, path)
        self._open.discard(id(node))
        return inner

    def _sequence(self, node: yaml.Node, path: KeyPath) -> Plain:
        return [self.value(child, (*path, index), _line(child)) for index, child in enumerate(node.value)]

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> Plain:
        mapping: dict[str, Plain] = {}
        for key_node, value_node in node.value:
            line = _line(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConfigError("a key must be plain text", where=Where(self.file, line, key_text(path) or None))
            key = str(key_node.value)
            if key in mapping:
                first = self.lines[(*path, key)]
                raise ConfigError(
                    f"the key is given twice (first on line {first})", where=Where(self.file, line, key_text((*path, key)))
                )
            mapping[key] = self.value(value_node, (*path, key), line)
        return mapping

    def _error(self, what: str, path: KeyPath) -> ConfigError:
        return ConfigError(what, where=Where(self.file, self.lines[path], key_text(path) or None))


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _scalar(node: yaml.ScalarNode) -> Plain:
    """YAML 1.2's core types only: ``no`` and ``2026-07-20`` and ``1:30`` stay the text they look like."""
    text = str(node.value)
    if node.style or node.tag == f"{_STANDARD_TAG}str":
        return text
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if _INT.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text
