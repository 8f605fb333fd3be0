"""Recorded traces: what is read, and where a bad line is."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from pytest_llmperf.errors import ConfigError
from pytest_llmperf.experiment.profile import TraceReplay
from pytest_llmperf.load.plan import plan_load
from pytest_llmperf.load.prompts import session_tokens
from pytest_llmperf.load.trace import read_trace
from tests.unit.load.loads import WORKLOAD

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:15:51.2226670,879,0
"""


@pytest.fixture
def azure(tmp_path: Path) -> Path:
    path = tmp_path / "azure.csv"
    path.write_text(AZURE)
    return path


@pytest.fixture
def mooncake(tmp_path: Path) -> Path:
    rows = [
        {"timestamp": 0, "input_length": 1100, "output_length": 10, "hash_ids": [0, 1, 2]},
        {"timestamp": 1500, "input_length": 1200, "output_length": 20, "hash_ids": [0, 1, 3]},
        {"timestamp": 3000, "input_length": 600, "output_length": 5, "hash_ids": [9, 1]},
    ]
    path = tmp_path / "mooncake.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    return path


def test_azure(azure: Path) -> None:
    trace = read_trace(TraceReplay(azure))
    assert np.allclose(trace.time_s, [0, 4.314579, 4.542077], atol=1e-6)
    assert trace.prompt_tokens.tolist() == [374, 396, 879]
    # A server gives one token at least.
    assert trace.output_tokens.tolist() == [44, 109, 1]


def test_azure_with_offsets(tmp_path: Path) -> None:
    path = tmp_path / "2024.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00.009930+00:00,1,2\n2024-05-10 00:00:01+00:00,3,4\n"
    )
    assert np.allclose(read_trace(TraceReplay(path)).time_s, [0, 0.99007])


def test_scale_and_start(azure: Path) -> None:
    scaled = read_trace(TraceReplay(azure, time_scale=2.0))
    assert np.allclose(scaled.time_s, [0, 8.629158, 9.084154], atol=1e-6)
    skipped = read_trace(TraceReplay(azure, time_scale=2.0, start_s=4.5))
    assert np.allclose(skipped.time_s, [0.084154], atol=1e-6)
    assert skipped.prompt_tokens.tolist() == [879]


def test_mooncake_prompts_share_what_their_hash_ids_share(mooncake: Path) -> None:
    plan = plan_load(TraceReplay(mooncake, "mooncake"), WORKLOAD, None, seed=1, warmup_s=0)
    assert plan.arrivals_s.tolist() == [0, 1.5, 3.0]
    assert plan.window_end_s == 4.5
    first, second, third = (session_tokens(s, 1, 0, s.turns[0].prompt_tokens) for s in plan.sessions())
    assert [len(first), len(second), len(third)] == [1100, 1200, 600]
    assert np.array_equal(first[:1024], second[:1024])
    assert not np.array_equal(first[1024:1100], second[1024:1100])
    assert not np.array_equal(first[:512], third[:512])
    # Block 1 is the same tokens wherever it stands.
    assert np.array_equal(first[512:600], third[512:600])


def test_the_warm_up_of_a_trace_does_not_ask_its_prompts(mooncake: Path) -> None:
    plan = plan_load(TraceReplay(mooncake, "mooncake"), WORKLOAD, None, seed=1, warmup_s=20.0)
    warmup = list(plan.warmup_sessions())
    assert warmup
    assert all(session.hash_ids == () for session in warmup)
    assert {session.turns[0].prompt_tokens for session in warmup} <= {1100, 1200, 600}


def test_duration_and_max_requests(azure: Path) -> None:
    cut = plan_load(TraceReplay(azure), WORKLOAD, 4.4, seed=1, warmup_s=0)
    assert (len(cut.arrivals_s), cut.window_end_s) == (2, 4.4)
    counted = plan_load(TraceReplay(azure), WORKLOAD, None, seed=1, warmup_s=1.0, max_requests=1)
    assert len(counted.arrivals_s) == 1
    assert counted.window_end_s == pytest.approx(5.314579)
    longer = plan_load(TraceReplay(azure), WORKLOAD, 600.0, seed=1, warmup_s=0)
    assert longer.window_end_s == pytest.approx(4.542077 * 1.5)
    for duration_s in (None, 600.0):
        with pytest.raises(ConfigError) as caught:
            plan_load(TraceReplay(azure), WORKLOAD, duration_s, seed=1, warmup_s=0, max_requests=1000)
        assert str(caught.value) == (
            "load profile: trace azure.csv ends after 3 arrivals, before the 1,000 requests that are asked for\n"
            "  Leave requests= out."
        )
    assert len(plan_load(TraceReplay(azure), WORKLOAD, None, seed=1, warmup_s=0, max_requests=3).arrivals_s) == 3
    assert len(plan_load(TraceReplay(azure), WORKLOAD, 4.4, seed=1, warmup_s=0, max_requests=3).arrivals_s) == 2


@pytest.mark.parametrize(
    ("kind", "text", "line", "what"),
    [
        ("azure", AZURE + "2023-11-16 18:15:52,many,1\n", 5, "many"),
        ("azure", AZURE + "yesterday,1,1\n", 5, "yesterday"),
        ("azure", AZURE + "2023-11-16 18:15:52,1\n", 5, "None"),
        ("azure", AZURE + "2023-11-16 18:15:52,-4,1\n", 5, "negative"),
        ("azure", "time,in,out\n1,2,3\n", 1, "TIMESTAMP"),
        ("mooncake", '{"timestamp": 0, "input_length": 5}\n', 1, "output_length"),
        ("mooncake", '\n{"timestamp": "x", "input_length": 5, "output_length": 1}\n', 2, "timestamp"),
        ("mooncake", '{"timestamp": 0, "input_length": 5, "output_length": 1}\n{oops\n', 2, "Expecting"),
        ("mooncake", "[1]\n", 1, "not a row"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, kind: str, text: str, line: int, what: str) -> None:
    path = tmp_path / "bad"
    path.write_text(text)
    with pytest.raises(ConfigError, match=what) as caught:
        read_trace(TraceReplay(path, kind))  # type: ignore[arg-type]
    assert str(caught.value).startswith(f"{path}:{line}: ")


@pytest.fixture
def published() -> Path:
    """A folder of published traces; skips where there is none."""
    shared = os.environ.get("LLMPERF_SHARED")
    folder = (Path(shared) if shared else Path(__file__).resolve().parents[4] / "shared") / "traces"
    if not folder.is_dir():
        pytest.skip("no published traces here; LLMPERF_SHARED names the folder that holds traces/")
    return folder


@pytest.mark.parametrize("name", ["azure-2023-code.csv", "azure-2023-conv.csv"])
def test_a_published_azure_trace(published: Path, name: str) -> None:
    with (published / name).open() as file:
        rows = sum(1 for line in file if line.strip()) - 1
    trace = read_trace(TraceReplay(published / name))
    assert len(trace) == rows > 1000
    assert trace.time_s[0] == 0
    assert np.all(np.diff(trace.time_s) >= 0)
    assert 3000 < trace.time_s[-1] < 4000  # an hour
    later = read_trace(TraceReplay(published / name, time_scale=0.5, start_s=600.0))
    kept = trace.time_s >= 600.0
    assert np.allclose(later.time_s, (trace.time_s[kept] - 600.0) / 2)
    assert np.array_equal(later.output_tokens, trace.output_tokens[kept])
    plan = plan_load(TraceReplay(published / name, time_scale=0.5, start_s=600.0), WORKLOAD, 60.0, seed=1, warmup_s=2.0)
    assert (plan.window_start_s, plan.window_end_s) == (2.0, 62.0)
    assert len(plan.arrivals_s) == np.count_nonzero((trace.time_s >= 600.0) & (trace.time_s < 720.0))
    asked = [session.turns[0] for session in plan.sessions()]
    assert [turn.prompt_tokens for turn in asked] == trace.prompt_tokens[kept][: len(asked)].tolist()


def test_a_published_mooncake_trace(published: Path) -> None:
    file = published / "mooncake-conversation.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    plan = plan_load(TraceReplay(file, "mooncake", start_s=60.0), WORKLOAD, 60.0, seed=1, warmup_s=0)
    first_ms = min(row["timestamp"] for row in rows)
    due = [row for row in rows if 60_000 <= row["timestamp"] - first_ms < 120_000]
    sessions = list(plan.sessions())
    assert len(sessions) == len(due) > 50
    assert [(s.turns[0].prompt_tokens, s.turns[0].output_tokens) for s in sessions] == [
        (row["input_length"], row["output_length"]) for row in due
    ]
    prompts = [session_tokens(s, 1, 0, s.turns[0].prompt_tokens) for s in sessions[:40]]
    shared = 0
    for one, tokens in zip(sessions, prompts, strict=False):
        for other, others in zip(sessions, prompts, strict=False):
            blocks = next((k for k, (a, b) in enumerate(zip(one.hash_ids, other.hash_ids, strict=False)) if a != b), None)
            if blocks is None or one is other:
                continue
            assert np.array_equal(tokens[: 512 * blocks], others[: 512 * blocks])
            assert not np.array_equal(tokens[512 * blocks : 512 * blocks + 512], others[512 * blocks : 512 * blocks + 512])
            shared += blocks
    assert shared > 0


def test_a_trace_with_nothing_left(azure: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="skips the whole trace, which is 4\\.54208s long"):
        read_trace(TraceReplay(azure, start_s=10.0))
    (tmp_path / "empty").write_text("")
    with pytest.raises(ConfigError, match="no request"):
        read_trace(TraceReplay(tmp_path / "empty", "mooncake"))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_trace(TraceReplay(tmp_path / "nowhere"))
