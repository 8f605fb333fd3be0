"""What a session tells of the server's side: in the run's document, and below the summary."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

SUITE = """
import pytest
from pytest_llmperf import concurrency

pytestmark = pytest.mark.llmperf(workload="interactive-chat")

def test_chat(load):
    load(concurrency(8), "3s", warmup="1s")
"""
ONE_CELL = ("-k", "h100_standalone_llama-3.1")
Sessions = Callable[..., pytest.RunResult]


def test_a_run_tells_what_the_server_said_and_what_it_waited_for(pytester: pytest.Pytester, llmperf: Sessions) -> None:
    pytester.makepyfile(SUITE)
    result = llmperf("--llmperf-json=out.json", *ONE_CELL)
    result.assert_outcomes(passed=1, deselected=2)
    (run,) = json.loads((pytester.path / "out.json").read_text())["runs"]
    server = run["server"]
    assert server["source"] == "metrics"
    assert 0 < server["running_mean"] <= server["running_max"] <= 8
    assert server["generation_tokens_per_s"] == pytest.approx(run["metrics"]["output_tokens_per_s"]["value"], rel=0.1)
    assert run["bottleneck"]["kind"] == "decode"
    shown = " ".join(line.strip() for line in result.outlines)
    assert "SIMULATED, bottleneck decode: " in shown
    assert all(len(line) <= 80 for line in result.outlines if "bottleneck" in line)


def test_a_source_that_was_named_and_is_not_there_fails_the_test_with_its_option(
    pytester: pytest.Pytester, llmperf: Sessions
) -> None:
    pytester.makepyfile(SUITE)
    result = llmperf("--llmperf-prometheus=http://127.0.0.1:9", *ONE_CELL)
    result.assert_outcomes(failed=1, deselected=2)
    result.stdout.fnmatch_lines(["*ConfigError: --llmperf-prometheus: no Prometheus answers there: ConnectError*"])
    result = llmperf("--llmperf-scrape=http://127.0.0.1:9", *ONE_CELL)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--llmperf-scrape: no page with its kind*"])
