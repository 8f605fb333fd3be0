"""The same work by other load generators and by this one, against a server that knows the truth: ``make bench-peers``.

1,000 streamed completions of 100 tokens by 100 users at once; the server paces TTFT 20 ms and ITL 10 ms. Each tool is installed
in a virtual environment of its own under ``~/.cache/pytest-llmperf/bench`` (vLLM in the one of ``make test-engine``). One that
does not install or does not run is listed with the reason. CPU is of the whole command and everything it started.
"""

from __future__ import annotations

import csv
import json
import os
import resource
import subprocess
import sys
import venv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np

from tests.engine.install import environment, is_complete
from tests.montecarlo.tables import write_between
from tests.perf import paced_go
from tests.perf.figures import aligned
from tests.perf.paced_go import CACHE, Paced

REQUESTS, USERS, INPUT_TOKENS, OUTPUT_TOKENS = 1000, 100, 32, 100
TTFT_MS, ITL_MS = 20, 10
TIMEOUT_S = 300
ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "performance.md"
SUITE = f"""
import pytest
from pytest_llmperf import concurrency

pytestmark = pytest.mark.llmperf(workload="peer")

def test_load(load):
    load(concurrency({USERS}), requests={REQUESTS})
"""
WORKLOADS = f"""
peer:
  title: Peer
  input: {{mean: {INPUT_TOKENS}}}
  output: {{mean: {OUTPUT_TOKENS}}}
  warmup: 0s
"""


class NotRunError(Exception):
    """Why a tool has no numbers."""


@dataclass(frozen=True)
class Task:
    """What every tool is given."""

    port: int
    path: str
    tokenizer: Path
    folder: Path
    """Empty, for what the tool writes."""

    @property
    def url(self) -> str:
        """The server with its pace, without ``/v1``."""
        return f"http://127.0.0.1:{self.port}{self.path}"


@dataclass(frozen=True)
class Reported:
    """What a tool says it measured."""

    ttft_p50_s: float
    ttft_p99_s: float
    rate_per_s: float


@dataclass(frozen=True)
class Tool:
    """How a tool is installed, called and read. ``package`` is its name on PyPI; None for what is installed already."""

    name: str
    package: str | None
    command: Callable[[Task], list[str]]
    read: Callable[[Path], Reported]
    variables: Mapping[str, str]

    @property
    def place(self) -> Path:
        """Its virtual environment."""
        return CACHE / (self.package or "")

    def program(self, name: str) -> str:
        """One of its programs."""
        return str(self.place / "bin" / name)


def ours(task: Task) -> list[str]:
    """A suite of one test, against the endpoint."""
    (task.folder / "fixtures").mkdir()
    (task.folder / "fixtures" / "matrix.yaml").write_text(
        "default: {platforms: [gke], hardware: [h100], models: [llama-3.2-3b]}\n"
    )
    (task.folder / "fixtures" / "workloads.yaml").write_text(WORKLOADS)
    (task.folder / "test_peer.py").write_text(SUITE)
    options = ("-p", "no:cacheprovider", "--llmperf-target=endpoint", f"--llmperf-url={task.url}", "--llmperf-served-model=m")
    return [sys.executable, "-m", "pytest", "-q", "test_peer.py", "--llmperf-json=out.json", *options]


def read_ours(folder: Path) -> Reported:
    """The session's document."""
    run = json.loads((folder / "out.json").read_text())["runs"][0]
    value = {name: float(metric["value"]) for name, metric in run["metrics"].items() if metric["value"] is not None}
    return Reported(value["ttft_p50"], value["ttft_p99"], value["request_rate"])


def vllm(task: Task) -> list[str]:
    """``vllm bench serve``, closed loop."""
    place = environment()
    if not is_complete(place):
        raise NotRunError("not installed: `make test-engine` installs a vLLM for CPU")
    lengths = ("--random-input-len", str(INPUT_TOKENS), "--random-output-len", str(OUTPUT_TOKENS))
    return [
        *(str(place / "bin" / "vllm"), "bench", "serve", "--backend", "openai", "--base-url", task.url),
        *("--endpoint", "/v1/completions", "--model", "m", "--tokenizer", str(task.tokenizer), "--dataset-name", "random"),
        *(*lengths, "--num-prompts", str(REQUESTS), "--max-concurrency", str(USERS), "--ignore-eos", "--disable-tqdm"),
        *("--percentile-metrics", "ttft", "--metric-percentiles", "50,99"),
        *("--save-result", "--result-dir", str(task.folder), "--result-filename", "out.json"),
    ]


def read_vllm(folder: Path) -> Reported:
    """Its saved result."""
    found = json.loads((folder / "out.json").read_text())
    return Reported(found["p50_ttft_ms"] / 1e3, found["p99_ttft_ms"] / 1e3, found["request_throughput"])


def guidellm(task: Task) -> list[str]:
    """``guidellm run``, closed loop."""
    return [
        *(GUIDELLM.program("guidellm"), "run", "--disable-progress"),
        *("--backend", f"kind=openai_http,target={task.url},model=m,request_format=/v1/completions"),
        *("--profile", f"kind=concurrent,streams={USERS}", "--constraint", f"kind=max_requests,count={REQUESTS}"),
        *("--tokenizer", f"kind=hf_auto,model={task.tokenizer}"),
        *("--data", f"kind=synthetic_text,prompt_tokens={INPUT_TOKENS},output_tokens={OUTPUT_TOKENS}"),
        *("--output", f"kind=json,path={task.folder / 'out.json'}"),
    ]


def read_guidellm(folder: Path) -> Reported:
    """Its report's first benchmark; the rate from its own duration, as its mean is of momentary rates."""
    found = json.loads((folder / "out.json").read_text())["benchmarks"][0]
    ttft = found["metrics"]["time_to_first_token_ms"]["successful"]
    return Reported(ttft["percentiles"]["p50"] / 1e3, ttft["percentiles"]["p99"] / 1e3, ttft["count"] / found["duration"])


def aiperf(task: Task) -> list[str]:
    """``aiperf profile``, closed loop."""
    return [
        *(AIPERF.program("aiperf"), "profile", "--model", "m", "--url", f"http://127.0.0.1:{task.port}"),
        *("--custom-endpoint", f"{task.path}/v1/completions", "--endpoint-type", "completions", "--streaming"),
        *("--concurrency", str(USERS), "--request-count", str(REQUESTS), "--isl", str(INPUT_TOKENS), "--osl", str(OUTPUT_TOKENS)),
        *("--tokenizer", str(task.tokenizer), "--extra-inputs", "ignore_eos:true"),
        *("--artifact-dir", str(task.folder), "--ui", "none"),
    ]


def read_aiperf(folder: Path) -> Reported:
    """Its exported profile."""
    found: dict[str, Any] = json.loads((folder / "profile_export_aiperf.json").read_text())
    ttft = found["time_to_first_token"]
    return Reported(ttft["p50"] / 1e3, ttft["p99"] / 1e3, found["request_throughput"]["avg"])


def locust(task: Task) -> list[str]:
    """Locust with users that read streams."""
    return [
        *(LOCUST.program("locust"), "-f", str(ROOT / "tests" / "perf" / "peer_locust.py"), "--headless", "--only-summary"),
        *("--users", str(USERS), "--spawn-rate", str(USERS), "--host", task.url, "--csv", str(task.folder / "out")),
    ]


def read_locust(folder: Path) -> Reported:
    """Its statistics; they hold whole milliseconds, and two digits above 100."""
    with (folder / "out_stats.csv").open(newline="") as file:
        rows = {row["Name"]: row for row in csv.DictReader(file)}
    ttft = rows["ttft"]
    return Reported(float(ttft["50%"]) / 1e3, float(ttft["99%"]) / 1e3, float(rows["all"]["Requests/s"]))


OURS = Tool("pytest-llmperf", None, ours, read_ours, {})
VLLM = Tool("vllm bench serve", None, vllm, read_vllm, {"HF_HUB_OFFLINE": "1"})
GUIDELLM = Tool("guidellm", "guidellm", guidellm, read_guidellm, {"HF_HUB_OFFLINE": "1"})
# In the Hub's offline mode it takes a tokenizer's folder for the name of a repository.
AIPERF = Tool("aiperf", "aiperf", aiperf, read_aiperf, {})
LOCUST = Tool("locust", "locust", locust, read_locust, {"PEER_REQUESTS": str(REQUESTS), "PEER_TOKENS": str(OUTPUT_TOKENS)})
TOOLS = (OURS, VLLM, GUIDELLM, AIPERF, LOCUST)


def installed(tool: Tool) -> None:
    """Install a tool that is not there yet. Raises ``NotRunError``."""
    assert tool.package is not None
    done = tool.place / ".installed"
    if done.exists():
        return
    venv.create(tool.place, with_pip=True)
    pip = [tool.program("python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", tool.package]
    told = subprocess.run(pip, capture_output=True, text=True, check=False)
    if told.returncode != 0:
        raise NotRunError(f"does not install: {_last_line(told.stderr)}")
    done.touch()


def tokenizer_folder(python: str) -> Path:
    """A tiny tokenizer on this machine, made by a Python that has the ``tokenizers`` library."""
    folder = CACHE / "tokenizer"
    if not (folder / "tokenizer_config.json").exists():
        subprocess.run([python, str(ROOT / "tests" / "engine" / "tiny.py"), str(folder)], check=True)
    return folder


def row(tool: Tool, server: Paced) -> tuple[str, ...]:
    """Run one tool; its row of the table."""
    try:
        if tool.package is not None:
            installed(tool)
        return _measured(tool, server)
    except NotRunError as reason:
        return (tool.name, f"not run: {reason}", "", "", "", "", "")


def _measured(tool: Tool, server: Paced) -> tuple[str, ...]:
    installed(AIPERF)
    path = server.path("even", TTFT_MS, ITL_MS)
    with TemporaryDirectory(prefix="llmperf-peer-") as name:
        task = Task(server.port, path, tokenizer_folder(AIPERF.program("python")), Path(name))
        command = tool.command(task)
        server.reset()
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), perf_counter()
        _run(tool, command, task.folder)
        wall_s, after = perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        try:
            said = tool.read(task.folder)
        except (OSError, KeyError, ValueError) as error:
            raise NotRunError(f"no result that can be read: {error!r}") from None
    truth = server.truth()
    # A first request to see whether the server answers is not part of the work.
    counted = slice(max(0, len(truth.id) - REQUESTS), None)
    p50, p99 = np.quantile(truth.ttft_s[counted], [0.5, 0.99])
    ended = truth.wrote_s[(truth.start + truth.written - 1)[counted]].max()
    achieved = len(truth.id[counted]) / (ended - truth.arrived_s[counted].min())
    return (
        tool.name,
        f"{cpu_s:.1f} s",
        f"{wall_s:.1f} s",
        f"{said.ttft_p50_s * 1e3:.1f} / {p50 * 1e3:.1f} ms",
        f"{said.ttft_p99_s * 1e3:.1f} / {p99 * 1e3:.1f} ms",
        f"{(said.ttft_p50_s - p50) * 1e3:+.1f}, {(said.ttft_p99_s - p99) * 1e3:+.1f} ms",
        f"{achieved:.1f}/s (says {said.rate_per_s:.1f})",
    )


def _run(tool: Tool, command: list[str], folder: Path) -> None:
    ignored = ("LLMPERF_", "PYTEST_", "HF_")
    variables = {name: value for name, value in os.environ.items() if not name.startswith(ignored)}
    try:
        told = subprocess.run(
            command,
            cwd=folder,
            env={**variables, **tool.variables},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NotRunError(f"had not ended after {TIMEOUT_S} s") from None
    if told.returncode != 0:
        raise NotRunError(f"exit status {told.returncode}: {_last_line(told.stderr or told.stdout)}")


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1][:200]


def main(names: list[str]) -> int:
    """Print the table, of the named tools or of all; into the page too with ``LLMPERF_WRITE_DOCS=1``."""
    if reason := paced_go.why_not():
        print(reason)
        return 1
    heads = ("tool", "CPU", "wall", "TTFT p50: says / true", "TTFT p99: says / true", "error p50, p99", "achieved")
    with paced_go.running() as server:
        rows = []
        for tool in TOOLS:
            if not names or tool.name in names:
                rows.append(row(tool, server))
                print(*rows[-1], sep="   ", flush=True)
    text = aligned([heads, *rows])
    print(f"\n{text}")
    if os.environ.get("LLMPERF_WRITE_DOCS"):
        write_between(PAGE, "peers", text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
