"""Kubernetes objects as plain data: from YAML, with the line where each stands, and back to YAML without its secrets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pytest_llmperf.deploy.kubernetes.api.kinds import Manifest
from pytest_llmperf.errors import ConfigError, Where
from pytest_llmperf.experiment.yaml_source import shown
from pytest_llmperf.secrets import MASK, Hidden, is_secret, masked_text, masked_words

if TYPE_CHECKING:
    _ParserOfYaml = yaml.SafeLoader
else:
    # libyaml's parser, where PyYAML was built with it, is about ten times faster; the nodes are the same.
    _ParserOfYaml = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_TAG = "tag:yaml.org,2002:"
_STRING, _MERGE = f"{_TAG}str", f"{_TAG}merge"
_SCALARS = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF", list("yYnNtTfFoO")),
    ("int", r"[-+]?(?:0b[01]+|0o?[0-7]+|0x[0-9a-fA-F]+|0|[1-9][0-9]*)", list("-+0123456789")),
    ("float", r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("merge", r"<<", ["<"]),
)
"""What kubectl takes for something else than text. PyYAML's own rules also know dates and 1:30, which are text here."""
_OF_THE_CLUSTER = ("uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "selfLink")
"""Keys of ``metadata`` that only the API server writes: an object that was exported has them."""
_UNUSUAL_BREAK = re.compile("[\r\x85\u2028\u2029]")
"""What YAML 1.1 takes for the end of a line and hands on as another: it must be escaped."""
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


class _Loader(_ParserOfYaml):
    """Reads scalars as kubectl does."""

    yaml_implicit_resolvers = {}  # noqa: RUF012  PyYAML's own way to replace its rules


class _Dumper(yaml.SafeDumper):
    """Writes what any reader of YAML takes for the same."""

    def ignore_aliases(self, _: object) -> bool:
        """No anchors: who reads an object wants to see all of it."""
        return True


for _name, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(rf"^(?:{_pattern})$"), _first)
# Text that some readers take for a number or a truth value: 12345e6, 08, y.
_Dumper.add_implicit_resolver(
    f"{_TAG}float", re.compile(r"^[-+]?(?:0o[0-7]+|[0-9.]+(?:[eE][-+]?[0-9]+)?)$"), list("-+.0123456789")
)
_Dumper.add_implicit_resolver(f"{_TAG}bool", re.compile(r"^[yYnN]$"), list("yYnN"))


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if _UNUSUAL_BREAK.search(text) else "|" if "\n" in text else None
    return dumper.represent_scalar(_STRING, text, style=style)


_Dumper.add_representer(str, _text)


@dataclass(frozen=True)
class Sourced:
    """An object and where it was read."""

    manifest: Manifest
    where: Where

    @property
    def title(self) -> str:
        """``Deployment/vllm``, as kubectl writes it."""
        return title(self.manifest)


def title(manifest: Manifest) -> str:
    """``Deployment/vllm``."""
    return f"{manifest['kind']}/{manifest['metadata']['name']}"


def read_manifests(path: Path) -> list[Manifest]:
    """The objects of one file. Raises ``ConfigError`` with file and line."""
    return [sourced.manifest for sourced in read_objects(path)]


def read_objects(path: Path) -> list[Sourced]:
    """The objects of one file, each with its place. Raises ``ConfigError``."""
    file = shown(path)
    try:
        text = Hidden(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"the file is not UTF-8 text (byte {error.start})", where=Where(file)) from None
    except OSError as error:
        raise ConfigError(f"the file cannot be read: {error.strerror}", where=Where(file)) from None
    return parse_objects(text, file)


def parse_objects(text: str, file: str) -> list[Sourced]:
    """The objects of all documents of a text; lists are taken apart. ``file`` is how errors name it. Raises ``ConfigError``."""
    text = Hidden(text)
    try:
        return list(_objects(text, file))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = error.problem or error.context
        raise ConfigError(f"not YAML: {problem}", where=Where(file, mark.line + 1 if mark else None)) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"not YAML: {str(error).splitlines()[0]}", where=Where(file)) from None


def copied(manifest: Manifest) -> Manifest:
    """A copy that shares nothing, not even with itself, and whose secrets no list of a program's variables shows."""
    copy: Manifest = _veiled(_plain(manifest))
    _hide_data(copy)
    return copy


def hidden(manifest: Manifest) -> Manifest:
    """The object without its secrets: of a Secret its data, elsewhere what a name or a form tells to be one."""
    kind = manifest.get("kind")
    bare: Manifest = {key: _hidden(value, key) for key, value in manifest.items()}
    for part in ("data", "stringData"):
        if isinstance(data := bare.get(part), dict):
            bare[part] = {key: MASK if kind == "Secret" or is_secret(key) else value for key, value in data.items()}
    return bare


def dump(objects: Sequence[Manifest]) -> str:
    """YAML, a document for each object, without secrets."""
    documents = (
        yaml.dump(hidden(one), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=130, default_flow_style=False)
        for one in objects
    )
    return "---\n".join(documents)


def _objects(text: str, file: str) -> Iterator[Sourced]:
    loader = _Loader(str(text))  # libyaml's takes nothing else
    try:
        while loader.check_node():
            node = loader.get_node()
            assert node is not None
            _check_keys(node, file, set())
            data = loader.construct_document(node)
            if data is not None:
                yield from _flattened(node, data, file)
    finally:
        loader.dispose()


def _check_keys(node: yaml.Node, file: str, open_nodes: set[int]) -> None:
    """Keys are text, each is there once, and nothing is part of itself. Raises ``ConfigError``."""
    if isinstance(node, yaml.ScalarNode):
        return
    if id(node) in open_nodes:
        raise ConfigError("the alias refers to what it is part of", where=_place(node, file))
    inner = open_nodes | {id(node)}
    if isinstance(node, yaml.SequenceNode):
        for child in node.value:
            _check_keys(child, file, inner)
        return
    lines: dict[str, int] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise ConfigError("a key must be plain text", where=_place(key, file))
        if key.tag != _MERGE:
            key.tag = _STRING
        line = key.start_mark.line + 1
        if lines.setdefault(key.value, line) != line and key.tag != _MERGE:
            problem = f"the key {key.value!r} is given twice (first on line {lines[key.value]})"
            raise ConfigError(problem, where=Where(file, line))
        _check_keys(value, file, inner)


def _flattened(node: yaml.Node, data: object, file: str) -> Iterator[Sourced]:
    where = _place(node, file)
    if not isinstance(data, dict):
        raise ConfigError("is no Kubernetes object: it must be a mapping with apiVersion, kind and metadata", where=where)
    if str(data.get("kind", "")).endswith("List") and isinstance(data.get("items"), list):
        items = next(value for key, value in node.value if key.value == "items")
        for child, item in zip(items.value, data["items"], strict=True):
            yield from _flattened(child, item, file)
        return
    manifest = copied(data)
    _check_object(manifest, where)
    yield Sourced(_without_the_clusters(manifest), where)


def _check_object(manifest: Manifest, where: Where) -> None:
    for key in ("apiVersion", "kind"):
        if not isinstance(manifest.get(key), str) or not manifest[key]:
            raise ConfigError(f"is no Kubernetes object: it has no {key!r}", where=where)
    metadata = manifest.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str) or not metadata["name"]:
        hint = (
            "Names must be known beforehand: give it 'name', not 'generateName'." if "generateName" in (metadata or {}) else None
        )
        raise ConfigError(f"the {manifest['kind']} has no 'metadata.name'", where=where, hint=hint)
    for key in ("labels", "annotations"):
        if not isinstance(metadata.get(key) or {}, dict):
            raise ConfigError(f"'metadata.{key}' of {title(manifest)} must be a mapping", where=where)


def _hide_data(manifest: Manifest) -> None:
    """What a Secret holds is shown to nobody, nor what another object's key says to be a secret."""
    is_whole = manifest.get("kind") == "Secret"
    for part in ("data", "stringData"):
        if isinstance(data := manifest.get(part), dict):
            secrets = {
                key: Hidden(value) for key, value in data.items() if isinstance(value, str) and (is_whole or is_secret(key))
            }
            manifest[part] = {**data, **secrets}


def _without_the_clusters(manifest: Manifest) -> Manifest:
    """The object without what only a cluster writes into it."""
    manifest.pop("status", None)
    metadata = manifest["metadata"]
    for key in _OF_THE_CLUSTER:
        metadata.pop(key, None)
    if isinstance(annotations := metadata.get("annotations"), dict):
        annotations.pop(_LAST_APPLIED, None)
    return manifest


def _place(node: yaml.Node, file: str) -> Where:
    return Where(file, node.start_mark.line + 1)


def _plain(value: Any) -> Any:
    """A copy in which an alias's mapping is one of its own, so that a change here is none there."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    # What has a tag of its own (a date, binary data) travels as text.
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)


def _veiled(value: Any, key: str = "") -> Any:
    """The same, but no list of a program's variables shows the secrets of its commands and environments."""
    if isinstance(value, dict):
        veiled = {inner_key: _veiled(inner, inner_key) for inner_key, inner in value.items()}
        if _is_secret_variable(value):
            veiled["value"] = Hidden(value["value"])
        return veiled
    if isinstance(value, list):
        if _are_words(value, key):
            return [word if word == shown else Hidden(word) for word, shown in zip(value, masked_words(value), strict=True)]
        return [_veiled(inner, key) for inner in value]
    return value


def _is_secret_variable(value: Manifest) -> bool:
    """Whether a mapping is a variable of an environment that holds a secret."""
    name = value.get("name")
    return isinstance(name, str) and is_secret(name) and isinstance(value.get("value"), str)


def _are_words(value: list[Any], key: str) -> bool:
    """Whether a list is a command line."""
    return key in ("command", "args") and all(isinstance(word, str) for word in value)


def _hidden(value: Any, key: str) -> Any:
    if isinstance(value, Hidden):
        return MASK
    if isinstance(value, dict):
        if _is_secret_variable(value):
            value = {**value, "value": MASK}
        return {inner_key: _hidden(inner, inner_key) for inner_key, inner in value.items()}
    if isinstance(value, list):
        if _are_words(value, key):
            return list(masked_words(value))
        return [_hidden(inner, key) for inner in value]
    return masked_text(value) if isinstance(value, str) else value
