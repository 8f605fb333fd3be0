"""A second Ctrl-C, while an engine that will not go is waited for: what was measured is written by then."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ENGINE = Path(__file__).parents[1] / "unit" / "deploy" / "fake_engine.py"
SUITE = """
import os, signal
from pathlib import Path
import pytest
from pytest_llmperf import constant

@pytest.mark.llmperf(workload="interactive-chat")
def test_one(deployment, load):
    load(constant("20/s"), "200ms", warmup="0s")
    Path("pid").write_text(str(deployment.process.pid))
    os.kill(os.getpid(), signal.SIGINT)
"""


def test_it_costs_no_results(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_suite=SUITE)
    engine = f"{shlex.quote(sys.executable)} {shlex.quote(str(ENGINE))} --deaf --port {{port}}"
    options = ("-k", "gke_h100", "--llmperf-target=process", f"--llmperf-engine-command={engine}", "--llmperf-json=out.json")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options]
    with subprocess.Popen(
        command, cwd=pytester.path, text=True, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as session:
        assert session.stdout is not None
        said = ""
        while "ending the engine (up to 20s)" not in said:
            line = session.stdout.readline()
            assert line, said
            said += line
        written = (pytester.path / "out.json").read_bytes()
        session.send_signal(signal.SIGINT)
        session.communicate(timeout=60)
        # The supervisor waits for it as long as it always does.
        os.kill(int((pytester.path / "pid").read_text()), signal.SIGKILL)
    assert len(json.loads(written)["runs"]) == 1
    assert (pytester.path / "out.json").read_bytes() == written
