"""Every way a request can end has a record, against a server that really does it."""

from __future__ import annotations

import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pytest_llmperf.deploy.base import Endpoint
from pytest_llmperf.errors import LoadError
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
    assert set(result.log.error) <= {"timeout connect", "reset before a response", "timeout total"}
    assert "timeout connect" in result.log.error


@pytest.mark.parametrize(("connect_s", "total_s"), [(0.3, 20.0), (5.0, 0.3), (0.3, 0.3)])
def test_a_server_that_takes_no_connection_was_not_reached_whichever_timeout_ends_it(connect_s: float, total_s: float) -> None:
    with socket.socket() as listening, socket.socket() as first, socket.socket() as second:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for sock in (first, second):
            sock.setblocking(False)
            sock.connect_ex(listening.getsockname())
        endpoint = Endpoint(f"http://127.0.0.1:{listening.getsockname()[1]}", "m")
        asked, options = workload(timeout=total_s), LoadOptions(connect_timeout_s=connect_s)
        result = run(endpoint, Constant(20), 0.5, asked=asked, options=options)
    unreached = [error for error in result.log.error if error == "timeout connect"]
    # The kernel may have taken one more for the server.
    assert len(unreached) >= 9
    assert result.health.unreachable_requests == len(unreached)
    assert result.health.sent_requests == 10 - len(unreached)
    assert distrust(result.health, TrustLimits(lateness_p99_s=1.0, loop_lag_p99_s=1.0)) == ()


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


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PacedServer, Path]]:
    """A server behind TLS, and the file of the certificate that has signed its own."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    made = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(folder / "key"), "-out", str(folder / "cert")]
    subprocess.run([openssl, *made, *names], check=True, capture_output=True)
    (folder / "server.pem").write_text((folder / "key").read_text() + (folder / "cert").read_text())
    with running_server(str(folder / "server.pem")) as running:
        yield running, folder / "cert"


def test_tls_with_a_certificate_nobody_knows(secure: tuple[PacedServer, Path]) -> None:
    server, _ = secure
    result = run(server.endpoint("ok"))
    assert_consistent(result)
    assert outcomes(result) == {Outcome.CONNECT_FAILED: 4}
    assert set(result.log.error) == {"connect certificate not trusted"}


@pytest.mark.parametrize("trust", ["ca_file", "no verification"])
def test_tls_with_a_certificate_that_is_trusted(secure: tuple[PacedServer, Path], trust: str) -> None:
    server, certificate = secure
    changes = {"ca_file": str(certificate)} if trust == "ca_file" else {"verify": False}
    result = run(replace(server.endpoint("ok"), **changes))
    assert_consistent(result)
    assert outcomes(result) == {Outcome.OK: 4}
    # What a transport decrypts nobody but the client has a clock for.
    assert result.health.workers[0].kernel_stamped_share == 0.0
    assert any("timed when the client read them" in note for note in result.health.notes)


@pytest.mark.parametrize("linger", [True, False])
def test_tls_that_is_hung_up_on_is_a_reset_however_it_was(linger: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as threads:

        def hang_up() -> None:
            for _ in range(4):
                accepted, _ = listening.accept()
                # Without lingering the hello that came in is thrown away, and the client hears of a reset with a number.
                if not linger:
                    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                accepted.recv(4096)
                accepted.close()

        hanging_up = threads.submit(hang_up)
        result = run(Endpoint(f"https://127.0.0.1:{listening.getsockname()[1]}", "m"))
        hanging_up.result()
    assert set(result.log.error) == {"connect reset"}
    assert result.health.unreachable_requests == 4


def test_tls_with_a_file_that_holds_no_certificate(secure: tuple[PacedServer, Path], tmp_path: Path) -> None:
    server, _ = secure
    (tmp_path / "empty.pem").write_text("")
    for name, reason in (("missing.pem", "No such file or directory"), ("empty.pem", "it holds no certificate")):
        with pytest.raises(LoadError, match=f"{name}: {reason}"):
            run(replace(server.endpoint("ok"), ca_file=str(tmp_path / name)))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux's kernel says when what is read had arrived")
def test_arrivals_are_by_the_kernels_clock(server: PacedServer) -> None:
    result = run(server.endpoint("ok/5/2"), Concurrency(4), max_requests=12)
    log, health = result.log, result.health.workers[0]
    assert_consistent(result)
    assert len(log.chunk_read_lag_s) == len(log.chunk_s)
    assert log.chunk_read_lag_s.min() >= 0.0
    assert health.kernel_stamped_share == np.mean(log.chunk_read_lag_s > 0) > 0.9
    assert 0.0 < health.read_lag_p99_s <= log.chunk_read_lag_s.max()
    # What had been written had been received before it was read: on the server's wall clock.
    first_written = sorted(truth["first"] for truth in server.truth("ok/5/2"))
    assert np.all(np.sort(log.first_token_s) + result.started_at >= np.array(first_written) - 0.001)


def test_our_own_words_are_no_secrets(server: PacedServer) -> None:
    headers = (("X-A", "http"), ("X-B", "429 "), ("X-C", "RateLimit"), ("X-D", "connect"))
    refused = run(replace(server.endpoint("refuses"), headers=headers))
    assert set(refused.log.error) == {"http 429 ***Error"}
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        nobody = Endpoint(f"http://127.0.0.1:{sock.getsockname()[1]}", "m", headers=headers)
        assert set(run(nobody).log.error) == {"connect refused"}
