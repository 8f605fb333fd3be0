"""Every way a request can end has a record, against a server that really does it."""

from __future__ import annotations

import shutil
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pytest_llmperf.deploy.base import Endpoint
from pytest_llmperf.experiment.profile import Concurrency, Constant
from pytest_llmperf.load.engine import LoadOptions
from pytest_llmperf.load.records import LoadResult, Outcome
from pytest_llmperf.measure.compute import measure
from pytest_llmperf.measure.trust import TrustLimits, distrust
from tests.unit.load.conftest import PacedServer, running_server
from tests.unit.load.loads import outcomes, run, workload


def assert_consistent(result: LoadResult) -> None:
    """What holds for every log, whatever happened."""
    log = result.log
    n = len(log)
    assert result.health.planned_requests == n
    assert len(log.error) == n
    assert len(log.chunk_start) == n + 1
    assert log.chunk_start[-1] == len(log.chunk_s) == len(log.chunk_tokens)
    assert np.all(np.diff(log.scheduled_s) >= 0)
    assert not np.isnan(log.end_s).any()
    sums = [int(log.chunk_tokens[log.chunk_start[i] : log.chunk_start[i + 1]].sum()) for i in range(n)]
    assert sums == log.output_tokens.tolist()
    assert [bool(error) for error in log.error] == [value != Outcome.OK for value in log.outcome]
    sent = ~np.isnan(log.sent_s)
    assert np.all(log.connected_s[sent] <= log.sent_s[sent])
    assert np.all(log.scheduled_s[sent] <= log.sent_s[sent])
    for i in range(n):
        chunk_s = log.chunk_s[log.chunk_start[i] : log.chunk_start[i + 1]]
        assert np.all(np.diff(chunk_s) >= 0)
        if len(chunk_s):
            assert log.sent_s[i] <= log.first_byte_s[i] <= chunk_s[0]
            assert chunk_s[-1] == log.last_token_s[i] <= log.end_s[i]


ENDINGS = {
    "ok": (Outcome.OK, ""),
    "two_in_one": (Outcome.OK, ""),
    "cut_character": (Outcome.OK, ""),
    "empty_text": (Outcome.OK, ""),
    "three_a_chunk": (Outcome.OK, ""),
    "no_done": (Outcome.OK, ""),
    "no_length": (Outcome.OK, ""),
    "stale": (Outcome.OK, ""),
    "no_end": (Outcome.TRUNCATED, "truncated stream"),
    "truncate": (Outcome.TRUNCATED, "closed mid-response"),
    "hang_up": (Outcome.RESET, "closed before a response"),
    "reset": (Outcome.RESET, "reset before a response"),
    "reset_late": (Outcome.RESET, "reset mid-response"),
    "refuses": (Outcome.HTTP_ERROR, "http 429 RateLimitError"),
    "unavailable": (Outcome.HTTP_ERROR, "http 503"),
    "bad_json": (Outcome.MALFORMED, "malformed json"),
    "bad_http": (Outcome.MALFORMED, "malformed http"),
    "whole": (Outcome.MALFORMED, "malformed not an event stream"),
    "error_event": (Outcome.SERVER_ERROR_EVENT, "server error event InternalServerError"),
}


@pytest.fixture(scope="module")
def endings(server: PacedServer) -> dict[str, LoadResult]:
    """A load for each behaviour, several at once: most of each is a process that starts."""
    with ThreadPoolExecutor(4) as threads:
        results = threads.map(lambda behaviour: run(server.endpoint(behaviour)), ENDINGS)
        return dict(zip(ENDINGS, results, strict=True))


@pytest.mark.parametrize("behaviour", ENDINGS)
def test_ending(endings: dict[str, LoadResult], behaviour: str) -> None:
    outcome, error = ENDINGS[behaviour]
    result = endings[behaviour]
    assert_consistent(result)
    assert outcomes(result) == {outcome: 4}
    assert set(result.log.error) == {error}
    if outcome is Outcome.OK:
        assert result.log.output_tokens.tolist() == [6] * 4
        assert result.log.usage_reported.all() == (behaviour not in {"no_done", "no_length"})


def test_partial_tokens_of_a_failed_stream_are_kept(endings: dict[str, LoadResult]) -> None:
    log = endings["truncate"].log
    assert log.output_tokens.tolist() == [2] * 4
    assert not np.isnan(log.first_token_s).any()


@pytest.mark.parametrize("behaviour", ["silent", "stall"])
def test_total_timeout(server: PacedServer, behaviour: str) -> None:
    result = run(server.endpoint(behaviour), max_requests=2, asked=workload(timeout=0.3))
    assert_consistent(result)
    assert outcomes(result) == {Outcome.TIMEOUT: 2}
    assert set(result.log.error) == {"timeout total"}
    assert np.all(result.log.end_s - result.log.scheduled_s >= 0.3)
    assert result.log.output_tokens.tolist() == [0 if behaviour == "silent" else 2] * 2


def test_idle_timeout(server: PacedServer) -> None:
    result = run(server.endpoint("stall"), max_requests=2, options=LoadOptions(idle_timeout_s=0.2))
    assert set(result.log.error) == {"timeout idle"}


def test_connect_refused_and_users_do_not_hammer() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        result = run(Endpoint(f"http://127.0.0.1:{port}", "m"), Concurrency(3), 1.0, options=LoadOptions(failure_pause_s=0.2))
    assert_consistent(result)
    assert set(result.log.error) == {"connect refused"}
    assert outcomes(result).keys() == {Outcome.CONNECT_FAILED}
    assert 3 <= len(result.log) <= 15
    assert result.health.workers[0].connect_failures == len(result.log)
    assert (result.health.sent_requests, result.health.unreachable_requests) == (0, len(result.log))
    # That nobody listens is what was measured, not a fault of the measurement.
    assert measure(result, price_per_hour=None).scalars["error_rate"].value == 1.0
    assert distrust(result.health, TrustLimits(lateness_p99_s=1.0, loop_lag_p99_s=1.0)) == ()


def test_connect_timeout() -> None:
    # A full accept queue: the kernel leaves further connections unanswered.
    with socket.socket() as listening, socket.socket() as first, socket.socket() as second:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for sock in (first, second):
            sock.setblocking(False)
            sock.connect_ex(listening.getsockname())
        endpoint = Endpoint(f"http://127.0.0.1:{listening.getsockname()[1]}", "m")
        result = run(endpoint, max_requests=2, options=LoadOptions(connect_timeout_s=0.3))
    assert set(result.log.error) <= {"connect timeout", "reset before a response", "timeout total"}
    assert "connect timeout" in result.log.error


def test_requests_left_after_the_drain_are_cancelled(server: PacedServer) -> None:
    result = run(server.endpoint("ok/5000"), Constant(20), 0.5, options=LoadOptions(drain_timeout_s=0.1))
    assert_consistent(result)
    assert outcomes(result) == {Outcome.CANCELLED: 10}
    assert not result.interrupted


def test_requests_in_flight_at_the_end_are_awaited(server: PacedServer) -> None:
    result = run(server.endpoint("ok/600"), Constant(20), 0.5)
    assert outcomes(result) == {Outcome.OK: 10}
    assert result.log.end_s.max() > result.window_end_s == 0.5


def test_open_loop_goes_on_past_failures(server: PacedServer) -> None:
    result = run(server.endpoint("fails_sometimes"), Constant(60), 1.0)
    assert_consistent(result)
    assert outcomes(result) == {Outcome.HTTP_ERROR: 20, Outcome.OK: 40}


def test_a_stale_connection_is_retried_once_and_says_when_it_was_really_sent(server: PacedServer) -> None:
    result = run(server.endpoint("stale/1"), Concurrency(1), max_requests=4)
    seen = server.truth("stale/1")
    # Each fresh connection serves one request; the next finds it closed.
    assert [truth["path"].endswith("#stale") for truth in seen] == [False, True, False, True, False, True, False]
    answered = [truth["received"] for truth in seen if not truth["path"].endswith("#stale")]
    sent = result.log.sent_s + result.started_at
    assert np.all(sent <= np.array(answered) + 0.001)
    assert any("worker 0: 3 times a request was sent again" in note for note in result.health.notes)
    assert np.all(sent[1:] >= [truth["received"] - 0.001 for truth in seen if truth["path"].endswith("#stale")])


def test_a_request_that_was_given_up_is_no_stale_connection(server: PacedServer) -> None:
    result = run(server.endpoint("stale/600"), Concurrency(1), max_requests=2)
    # The server had it for 0.6 s and hung up: sent again it would have been answered, and nobody would know.
    assert result.log.error == ("", "closed before a response")
    assert len(server.truth("stale/600")) == 2


def test_not_streaming(server: PacedServer) -> None:
    result = run(server.endpoint("whole/20"), asked=workload(stream=False))
    assert_consistent(result)
    assert outcomes(result) == {Outcome.OK: 4}
    assert result.log.output_tokens.tolist() == [6] * 4
    # Nobody saw its first token arrive.
    assert np.isnan(result.log.first_token_s).all()
    assert np.array_equal(result.log.last_token_s, result.log.end_s)


def test_tls_with_a_trusted_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    pem = tmp_path / "server.pem"
    made = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "cert")]
    subprocess.run([openssl, *made, *names], check=True, capture_output=True)
    pem.write_text((tmp_path / "key").read_text() + (tmp_path / "cert").read_text())
    with running_server(str(pem)) as secure:
        untrusted = run(secure.endpoint("ok"))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert"))
        trusted = run(secure.endpoint("ok"))
    assert set(untrusted.log.error) == {"connect certificate not trusted"}
    assert outcomes(trusted) == {Outcome.OK: 4}
    assert_consistent(trusted)
