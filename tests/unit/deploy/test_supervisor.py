"""The supervisor's log: bounded, without secrets, whatever the pieces it comes in; and which texts are secrets."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from tempfile import TemporaryFile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmperf.deploy import supervisor
from pytest_llmperf.deploy.secrets import api_key_of, masked, secret_values
from pytest_llmperf.deploy.supervisor import BoundedLog, descendants

SECRET = "hf_abcdefghijklmnop"


def logged(pieces: list[bytes], secrets: tuple[str, ...] = ()) -> bytes:
    """What the file holds after these writes."""
    with TemporaryFile() as file:
        log = BoundedLog(file.fileno(), secrets)
        for piece in pieces:
            log.write(piece)
        log.close()
        file.seek(0)
        return file.read()


@given(
    st.lists(st.sampled_from([SECRET, "token ", "\n", "\r", "é", "hf_abc"]), max_size=20),
    st.lists(st.integers(1, 30), max_size=20),
)
def test_no_split_of_a_line_lets_a_secret_through(words: list[str], lengths: list[int]) -> None:
    whole = "".join(words).encode()
    pieces, start = [], 0
    for length in lengths:
        pieces.append(whole[start : start + length])
        start += length
    assert logged([*pieces, whole[start:]], (SECRET,)) == whole.replace(SECRET.encode(), b"***")


LONGER = SECRET + "qrstuvwxyz"
OTHER = "sk-0123456789"


@given(
    st.lists(st.sampled_from([SECRET, LONGER, OTHER, "hf_", "sk-01", "hf_hf_abc", "\n", "plain text "]), max_size=12),
    st.lists(st.integers(1, 30), max_size=20),
)
def test_however_long_it_takes_no_secret_is_seen_in_part(words: list[str], lengths: list[int]) -> None:
    whole, secrets = "".join(words).encode(), (OTHER, SECRET, LONGER)
    masked_whole = whole
    for secret in (LONGER, SECRET, OTHER):
        masked_whole = masked_whole.replace(secret.encode(), b"***")
    with TemporaryFile() as file:
        log, start = BoundedLog(file.fileno(), secrets), 0
        for length in [*lengths, len(whole)]:
            log.write(whole[start : start + length])
            start += length
            seen = os.pread(file.fileno(), 10_000, 0)
            # What is seen at any moment is the beginning of what is seen at the end.
            assert masked_whole.startswith(seen)
            assert len(whole[:start]) - len(seen) < len(LONGER) + len(whole) - len(masked_whole)


def test_half_a_secret_waits_for_the_other_half_however_long_and_is_not_shown_at_the_end() -> None:
    with TemporaryFile() as file:
        log = BoundedLog(file.fileno(), (SECRET,))
        log.write(b"key " + SECRET[:12].encode())
        assert os.pread(file.fileno(), 100, 0) == b"key "
        log.write(SECRET[12:].encode() + b" and " + SECRET[:12].encode())
        assert os.pread(file.fileno(), 100, 0) == b"key *** and "
        log.close()
        assert os.pread(file.fileno(), 100, 0) == b"key *** and ***"


def test_what_is_no_secret_does_not_wait_for_the_end_of_its_line() -> None:
    with TemporaryFile() as file:
        BoundedLog(file.fileno(), (SECRET,)).write(b"Loading weights: 12%")
        assert os.pread(file.fileno(), 100, 0) == b"Loading weights: 12%"


def test_a_long_log_keeps_its_beginning_and_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "LOG_HEAD_BYTES", 1_000)
    monkeypatch.setattr(supervisor, "LOG_TAIL_BYTES", 2_000)
    monkeypatch.setattr(supervisor, "LOG_BYTES", 10_000)
    lines = [b"line %05d\n" % number for number in range(20_000)]
    kept = logged(lines)
    assert len(kept) <= 10_000 + len(lines[0])
    assert kept.startswith(b"line 00000\nline 00001\n")
    assert kept.endswith(b"line 19998\nline 19999\n")
    assert kept.count(b"bytes are left out here") == 1


def test_descendants_are_found(tmp_path: Path) -> None:
    with subprocess.Popen(
        ["sh", "-c", f"sleep 600 & echo $! > {tmp_path / 'pid'}; echo started; wait"], stdout=subprocess.PIPE
    ) as shell:
        assert shell.stdout is not None
        shell.stdout.readline()
        sleeper = int((tmp_path / "pid").read_text())
        found = descendants(os.getpid())
        os.kill(sleeper, 9)
    assert {shell.pid, sleeper} <= set(found)
    assert shell.pid not in descendants(os.getpid())


@pytest.mark.parametrize(
    ("words", "environment", "expected"),
    [
        (["vllm", "--api-key", "sk-12345678"], {}, ("sk-12345678",)),
        (["vllm", "--api-key=sk-12345678", "--tokenizer=no-secret-at-all"], {}, ("sk-12345678",)),
        (["env", "MY_TOKEN=sk-12345678"], {}, ("sk-12345678",)),
        ([], {"HF_TOKEN": SECRET, "TOKENIZERS_PARALLELISM": "false-false", "MAX_TOKEN": "12345678"}, (SECRET,)),
        ([], {"AWS_SECRET_ACCESS_KEY": "0123456789", "DB_PASSWORD": "01234567"}, ("0123456789", "01234567")),
        ([], {"HF_TOKEN": "short"}, ()),
        (["vllm", "--api-key", "--next-option"], {}, ()),
        (["vllm", "--api-key", "sk-12345678", "sk-second-one", "--port=1"], {}, ("sk-second-one", "sk-12345678")),
        (["sh", "-c", "exec vllm --api-key sk-12345678 --port=1"], {}, ("sk-12345678",)),
        (["curl", "-H", "Authorization: Bearer sk-12345678"], {}, ("Bearer sk-12345678", "sk-12345678")),
        ([], {"TLS_KEY": "line-number-one\nline-two"}, ("line-number-one\nline-two", "line-number-one", "line-two")),
    ],
)
def test_names_say_which_values_are_secrets(words: list[str], environment: dict[str, str], expected: tuple[str, ...]) -> None:
    assert secret_values(words, environment) == expected


def test_a_secret_that_begins_another_leaves_nothing_of_it() -> None:
    secrets = secret_values([], {"A_TOKEN": "01234567", "B_TOKEN": "0123456789"})
    assert masked("key 0123456789, key 01234567", secrets) == "key ***, key ***"


@pytest.mark.parametrize(
    ("words", "environment", "expected"),
    [
        (["vllm", "--api-key", "k"], {"VLLM_API_KEY": "other"}, "k"),
        (["vllm", "--api-key=k"], {}, "k"),
        (["vllm"], {"VLLM_API_KEY": "k"}, "k"),
        (["vllm", "--api-key", "k", "l"], {}, "k"),
        (["sh", "-c", "exec vllm --api-key k --port=1"], {}, "k"),
        (["sh", "-c", 'exec vllm --api-key "$KEY"'], {"KEY": "k"}, "k"),
        (["env", "VLLM_API_KEY=k", "vllm"], {}, "k"),
        (["vllm"], {}, None),
    ],
)
def test_the_key_that_an_engine_asks_for_is_known(words: list[str], environment: dict[str, str], expected: str | None) -> None:
    assert api_key_of(words, environment) == expected
