"""What a header or a token holds reaches the server and nothing else: no file, no output, whatever the server says of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

Sessions = Callable[..., pytest.RunResult]

HEADER = "tenant-Zq8Rk2vT"
FROM_FILE = "agent-Xw4Lm9pB"
TOKEN = "token-Hj6Nc3yD"
SECRETS = (HEADER, FROM_FILE, TOKEN)

SUITE = """
import pytest
from pytest_llmperf import constant

pytestmark = pytest.mark.llmperf(workload="asked", sla={"error_rate": "50%"})

def test_passes(load, sla):
    assert load(constant("20/s"), "500ms", warmup="0s").meets(sla)

def test_fails(deployment, load, sla):
    endpoint, run = deployment.endpoint, load(constant("20/s"), "500ms", warmup="0s")
    assert run.meets({"error_rate": "1%"})
"""
WORKLOADS = "asked: {title: Asked, input: {mean: 8}, output: {mean: 1}, stream: false, warmup: 0s}\n"


BROKEN = """
import importlib

def broken(*given, **named):
    raise RuntimeError("nobody has foreseen this")

module, name = {module!r}, {name!r}
*classes, last = name.split(".")
owner = importlib.import_module(module)
for inner in classes:
    owner = getattr(owner, inner)
setattr(owner, last, broken)
"""
"""A conftest that breaks one function, wherever it is called from."""


class EchoingServer(ThreadingHTTPServer):
    """Answers completions, every fifth with an error that repeats all credentials."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answered = 0
        self.seen: set[tuple[str, ...]] = set()


class _Handler(BaseHTTPRequestHandler):
    server: EchoingServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        echo = " ".join(self._credentials)
        models = {"data": [{"id": "m"}, {"id": f"other {echo}"}]}
        found = {"/health": {}, "/v1/models": models, "/version": {"version": f"1.0 {echo}"}}.get(self.path)
        self._send(200 if found is not None else 404, found or {})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        credentials = self._credentials
        self.server.seen.add(credentials)
        self.server.answered += 1
        if self.server.answered % 5 == 0:
            self._send(403, {"error": {"message": " ".join(credentials), "type": "x" * 20 + " ".join(credentials)}})
        else:
            usage = {"prompt_tokens": 8, "completion_tokens": 1}
            self._send(200, {"choices": [{"text": "x", "finish_reason": "length"}], "usage": usage})

    @property
    def _credentials(self) -> tuple[str, ...]:
        return tuple(self.headers.get(name, "") for name in ("Authorization", "X-Tenant", "X-Agent"))

    def _send(self, status: int, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """The test's output is not the place."""


@pytest.fixture
def echoing() -> Iterator[EchoingServer]:
    server = EchoingServer()
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def arguments(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, echoing: EchoingServer) -> list[str]:
    """A suite, its server, and the credentials: one in a variable, one in a file outside of the suite, and a token."""
    pytester.makepyfile(test_suite=SUITE)
    (pytester.mkdir("fixtures") / "workloads.yaml").write_text(WORKLOADS)
    (tmp_path / "agent").write_text(FROM_FILE + "\n")
    monkeypatch.setenv("TENANT", HEADER)
    monkeypatch.setenv("TOKEN", TOKEN)
    return [
        "--llmperf-target=endpoint",
        f"--llmperf-url=http://127.0.0.1:{echoing.server_address[1]}",
        "--llmperf-header=X-Tenant=env:TENANT",
        f"--llmperf-header=X-Agent=file:{tmp_path / 'agent'}",
        "--llmperf-api-key-env=TOKEN",
        "--llmperf-served-model=m",
        "-k=gke_h100",
    ]


def check_hidden(folder: Path, result: pytest.RunResult, secrets: tuple[str, ...] = SECRETS) -> None:
    """No secret is in the output or in any file."""
    texts = {"output": (result.stdout.str() + result.stderr.str()).encode()}
    texts |= {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    # Nor how one begins: a cut leaves that.
    assert not [(place, secret) for place, text in texts.items() for secret in secrets if secret[:9].encode() in text]


def test_no_secret_is_shown_or_stored(
    pytester: pytest.Pytester, llmperf: Sessions, echoing: EchoingServer, arguments: list[str]
) -> None:
    written = ("--llmperf-json=out.json", "--llmperf-save=main", "--alluredir=allure", "--junitxml=junit.xml")
    told = ("--llmperf-markdown=summary.md", "--llmperf-requests-csv", "--llmperf-export=pytest-benchmark=bench.json")
    exported = ("--llmperf-export=openmetrics=metrics.txt", "--llmperf-export=llm-d=reports")
    result = llmperf(
        *arguments, *written, *told, *exported, "-rA", "-vv", "-l", "--full-trace", "--log-level=DEBUG", "--log-file=log.txt"
    )
    result.assert_outcomes(passed=1, failed=1)
    assert echoing.seen == {(f"Bearer {TOKEN}", HEADER, FROM_FILE)}
    runs = json.loads((pytester.path / "out.json").read_text())["runs"]
    assert [run["errors"] for run in runs] == [{f"http 403 {'x' * 20}Bearer *** *** ***": 2}] * 2, (
        "what the server repeated was there to be hidden"
    )
    assert (pytester.path / "log.txt").stat().st_size
    check_hidden(pytester.path, result)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("pytest_llmperf.deploy.headers", "header_problem"),
        ("pytest_llmperf.deploy.endpoint", "await_ready"),
        ("ssl", "create_default_context"),
        ("httpx", "Client.__init__"),
        ("httpx", "Client.get"),
        ("httpx", "Client.post"),
        ("pytest_llmperf.load.engine", "_Crew.gather"),
    ],
)
def test_what_nobody_has_foreseen_shows_none(
    pytester: pytest.Pytester, llmperf: Sessions, arguments: list[str], module: str, name: str
) -> None:
    pytester.makeconftest(BROKEN.format(module=module, name=name))
    result = llmperf(*arguments, "-k=gke_h100 and passes", "-vv", "-l", "--tb=long", "--junitxml=junit.xml")
    assert "nobody has foreseen this" in result.stdout.str() + result.stderr.str()
    check_hidden(pytester.path, result)


def test_the_models_a_server_lists_are_shown_without_secrets(
    pytester: pytest.Pytester, llmperf: Sessions, arguments: list[str]
) -> None:
    result = llmperf(*arguments, "--llmperf-served-model=unknown", "--junitxml=junit.xml")
    assert "it serves: m, other " in result.stdout.str()
    check_hidden(pytester.path, result)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (f"--llmperf-header=X-Tenant={HEADER}", "the header 'X-Tenant' has a value where its source belongs"),
        ("--llmperf-header=Authorization=env:TENANT", "the header 'Authorization' is given, and so is an API key"),
        ("--llmperf-header=x-agent=env:TENANT", "the header 'x-agent' is given twice"),
        ("--llmperf-header=X-Other=env:NO_SUCH_VARIABLE", "the environment variable 'NO_SUCH_VARIABLE' of the header 'X-Other'"),
    ],
)
def test_a_header_that_cannot_be_is_refused_without_its_value(
    pytester: pytest.Pytester, llmperf: Sessions, arguments: list[str], given: str, says: str
) -> None:
    result = llmperf(*arguments, given)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"llmperf: --llmperf-header: {says}" in result.stderr.str()
    check_hidden(pytester.path, result)
