"""YAML with lines: plain data as it looks, every key's line, and one clear error for what is not YAML."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmperf.errors import ConfigError
from pytest_llmperf.experiment.yaml_source import key_text, parse_yaml, read_yaml, shown

DOCUMENT = """\
# a comment
h100:
  memory: 79.2Gi
  counts: [1, 2,
           4]
  labels:
    gke: "true"
l4: {memory: 22Gi}
"""


def test_every_key_has_its_line() -> None:
    document = parse_yaml(DOCUMENT, "hardware.yaml")
    assert document.data == {
        "h100": {"memory": "79.2Gi", "counts": [1, 2, 4], "labels": {"gke": "true"}},
        "l4": {"memory": "22Gi"},
    }
    lines = {key_text(path): line for path, line in document.lines.items()}
    assert lines == {
        "": 2,
        "h100": 2,
        "h100.memory": 3,
        "h100.counts": 4,
        "h100.counts[0]": 4,
        "h100.counts[1]": 4,
        "h100.counts[2]": 5,
        "h100.labels": 6,
        "h100.labels.gke": 7,
        "l4": 8,
        "l4.memory": 8,
    }


def test_a_missing_key_is_placed_where_it_should_be() -> None:
    where = parse_yaml(DOCUMENT, "hardware.yaml").where(("h100", "labels", "eks"))
    assert str(where) == "hardware.yaml:6: h100.labels.eks"


def test_scalars_stay_what_they_look_like() -> None:
    text = "[1, -2, 1.5, 1e3, .5, true, False, null, ~, no, on, 1:30, 2026-07-20, 0x10, 4/s, '1', !!str 2, 007]"
    values = parse_yaml(text, "x").data
    expected = [1, -2, 1.5, "1e3", 0.5, True, False, None, None, "no", "on", "1:30", "2026-07-20", "0x10", "4/s", "1", "2", 7]
    assert values == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1\nb: 2\n", "x.yaml:2: not YAML: did not find expected ',' or ']'"),
        ("a: b: c\n", "x.yaml:1: not YAML: mapping values are not allowed in this context"),
        ("a: *nobody\n", "x.yaml:1: not YAML: found undefined alias"),
        ("a: 1\n---\nb: 2\n", "x.yaml:2: not YAML: but found another document"),
        ("a: \x07\n", "x.yaml: not YAML: "),
        ("", "x.yaml: the file is empty"),
        ("# only a comment\n", "x.yaml: the file is empty"),
        ("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n", "x.yaml:5: b.c: the key is given twice (first on line 3)"),
        ("a:\n  ? [1, 2]\n  : x\n", "x.yaml:2: a: a key must be plain text"),
        ("a:\n  b: .nan\n", "x.yaml:2: a.b: .nan is a number that nothing here can be; quotes make a text of it"),
        ("a: -.Inf\n", "x.yaml:1: a: -.Inf is a number that nothing here can be"),
        ("a: !vault secret\n", "x.yaml:1: a: the tag '!vault' has no meaning here"),
        ("a: !!python/name:os.system x\n", "x.yaml:1: a: the tag 'tag:yaml.org,2002:python/name:os.system' has no meaning here"),
        ("a: &a\n  - 1\n  - *a\n", "x.yaml:1: a[1]: the alias refers to what it is part of"),
    ],
)
def test_errors_name_file_and_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "x.yaml")
    assert str(caught.value).startswith(message)


def test_file_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"^a\.yaml: the file does not exist$"):
        read_yaml(tmp_path / "a.yaml")


def test_file_that_is_not_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_bytes(b"title: \xff")
    with pytest.raises(ConfigError, match=r"^a\.yaml: the file is not UTF-8 text \(byte 7\)$"):
        read_yaml(tmp_path / "a.yaml")


def test_directory_in_place_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").mkdir()
    with pytest.raises(ConfigError, match=r"^a\.yaml: the file cannot be read: Is a directory$"):
        read_yaml(tmp_path / "a.yaml")


def test_paths_elsewhere_are_shown_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert shown(tmp_path / "a.yaml") == str(tmp_path / "a.yaml")
    assert shown(Path("b.yaml")) == "b.yaml"


KEYS = st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True).filter(lambda key: key not in {"y", "n"})
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text("abc 4/s%:#-'\"\n", max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(KEYS, PLAIN, min_size=1, max_size=4))
def test_reads_back_what_yaml_writes(data: dict[str, object]) -> None:
    text = yaml.safe_dump(data)
    document = parse_yaml(text, "x")
    assert document.data == data
    last = text.count("\n") + 1
    assert all(1 <= line <= last for line in document.lines.values())
