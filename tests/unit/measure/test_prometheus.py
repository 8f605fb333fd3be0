"""A real Prometheus that scrapes a real simulator: what it tells of a run is what reading the page oneself tells."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import time

import httpx
import pytest

from pytest_llmperf.deploy.base import Endpoint
from pytest_llmperf.errors import ConfigError
from pytest_llmperf.experiment.profile import Concurrency, Poisson
from pytest_llmperf.experiment.records import Lengths
from pytest_llmperf.load.engine import run_load
from pytest_llmperf.load.options import LoadOptions
from pytest_llmperf.load.plan import plan_load
from pytest_llmperf.measure.prometheus import Prometheus
from pytest_llmperf.measure.server_sources import ITS_OWN_PAGE, ServerSources
from pytest_llmperf.measure.server_watch import watching_server
from tests.unit.load.loads import WORKLOAD, workload
from tests.unit.measure.logs import result_of
from tests.unit.measure.pages_server import pages_server
from tests.unit.measure.simulated import simulator, watched

CONFIG = """
global: {{scrape_interval: 1s, scrape_timeout: 900ms}}
scrape_configs:
  - job_name: llm
    static_configs: [{{targets: ["{engine}"], labels: {{namespace: x}}}}]
  - job_name: prometheus
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


@dataclass(frozen=True)
class Scraped:
    """A simulator, and the Prometheus that scrapes it."""

    endpoint: Endpoint
    url: str


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_ready(process: subprocess.Popen[bytes], url: str) -> None:
    """Until it has scraped the engine; pytest's own timeout ends a wait for nothing."""
    with httpx.Client(base_url=url, trust_env=False) as client:
        while process.poll() is None:
            try:
                answer = client.get("/api/v1/query", params={"query": "vllm:num_requests_running"})
            except httpx.HTTPError:
                continue
            if answer.is_success and answer.json()["data"]["result"]:
                return
    raise AssertionError("the Prometheus ended")


@contextmanager
def prometheus_of(endpoint: Endpoint, folder: Path) -> Iterator[Scraped]:
    """A Prometheus that scrapes the endpoint and itself, once a second."""
    if (program := shutil.which("prometheus")) is None:
        pytest.skip("no Prometheus on this machine: apt-get install prometheus")
    port = free_port()
    (folder / "prometheus.yml").write_text(CONFIG.format(engine=endpoint.base_url.removeprefix("http://"), port=port))
    command = (program, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}")
    process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stderr=subprocess.DEVNULL)
    try:
        wait_ready(process, f"http://127.0.0.1:{port}")
        yield Scraped(endpoint, f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraped]:
    with simulator() as endpoint, prometheus_of(endpoint, tmp_path_factory.mktemp("prometheus")) as running:
        yield running


def test_it_tells_what_the_page_tells(scraped: Scraped) -> None:
    plan = plan_load(Poisson(20.0), workload(input=Lengths(200), output=Lengths(40)), 5.0, seed=1, warmup_s=1.0)
    sources = ServerSources(prometheus=scraped.url, labels='namespace="x"')
    with (
        watching_server(ITS_OWN_PAGE, scraped.endpoint, 1, plan) as reading,
        watching_server(sources, scraped.endpoint, 1, plan) as asking,
    ):
        result = run_load(plan, scraped.endpoint, LoadOptions(), reading.also(asking.also(lambda _: None)))
    direct, told = reading.told(result, 0.0).server, asking.told(result, 0.0).server
    assert direct is not None
    assert told is not None
    assert (direct.source, told.source) == ("metrics", "prometheus")
    # Both read once a second, at other instants: a rate over 5 s differs by what comes within a fraction of one.
    assert told.generation_tokens_per_s == pytest.approx(direct.generation_tokens_per_s, rel=0.15)
    assert told.prompt_tokens_per_s == pytest.approx(direct.prompt_tokens_per_s, rel=0.15)
    assert told.times.keys() == direct.times.keys() == {"ttft", "itl", "e2e", "queue", "prefill", "decode"}
    for name, times in direct.times.items():
        assert told.times[name].count == pytest.approx(times.count, rel=0.15)
        assert told.times[name].mean_s == pytest.approx(times.mean_s, rel=0.15, abs=0.002)
        assert told.times[name].resolution_s == times.resolution_s
    assert told.preemptions == direct.preemptions == 0
    assert set(told.values) == set(direct.values)
    # The window's end is known: it was waited for.
    assert told.at_s[-1] >= result.window_end_s
    assert told.notes == ()
    # What Prometheus says of its own process is not the engine's.
    assert told.values["memory_bytes"].max() == pytest.approx(direct.values["memory_bytes"].max(), rel=0.05)


def test_labels_of_nobody_leave_nothing_known(scraped: Scraped) -> None:
    sources = ServerSources(prometheus=scraped.url, labels='namespace="y"')
    result, told = watched(scraped.endpoint, Concurrency(1), 0.3, WORKLOAD, warmup_s=0.0, sources=sources)
    assert told.server is None
    assert told.note == "the server's side is not known: the Prometheus has no sample of an engine in the run's window"
    assert told.noted_in(result).health.notes[-1] == told.note


def test_labels_that_it_does_not_understand_end_the_load_before_it_begins(scraped: Scraped) -> None:
    sources = ServerSources(prometheus=scraped.url, labels='pod=~"("')
    with pytest.raises(ConfigError, match=r"^--llmperf-prometheus-labels: it answers 400 .*error parsing regexp"):
        watched(scraped.endpoint, Concurrency(1), 0.3, WORKLOAD, sources=sources)


def test_what_is_no_prometheus_ends_the_load_before_it_begins() -> None:
    with pages_server() as server:
        sources = ServerSources(prometheus=server.url(""))
        elsewhere = Endpoint(server.url(""), "m")
        with pytest.raises(ConfigError, match=r"^--llmperf-prometheus: no Prometheus answers there: it answers 501 and not in"):
            watched(elsewhere, Concurrency(1), 0.3, WORKLOAD, sources=sources)
    with pytest.raises(ConfigError, match=r"^--llmperf-prometheus: no Prometheus answers there: ConnectError"):
        watched(elsewhere, Concurrency(1), 0.3, WORKLOAD, sources=sources)


def test_one_that_is_gone_afterwards_is_noted_and_no_error(scraped: Scraped, tmp_path: Path) -> None:
    plan = plan_load(Concurrency(1), WORKLOAD, 0.2, seed=1, warmup_s=0.0)
    with (
        prometheus_of(scraped.endpoint, tmp_path) as other,
        watching_server(ServerSources(prometheus=other.url), scraped.endpoint, 1, plan) as asking,
    ):
        result = run_load(plan, scraped.endpoint)
    assert asking.told(result, 0.0).note == "the server's side is not known: the Prometheus did not tell: ConnectError"


class Answers(ThreadingHTTPServer):
    """Answers the question for the time as a Prometheus does, and every other with ``result``."""

    daemon_threads = True

    def __init__(self, result: object) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.result = result

    def answer(self) -> object:
        """To a question that is not for the time."""
        return self.result


class _Answers(BaseHTTPRequestHandler):
    server: Answers

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers["content-length"]))
        result = [0, str(time())] if asked == b"query=time%28%29" else self.server.answer()
        body = json.dumps({"status": "success", "data": {"result": result}}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


RUNNING = {"__name__": "vllm:num_requests_running"}


@pytest.mark.parametrize(
    "result",
    [
        [{"values": [[1, "2"]]}],
        [{"metric": RUNNING, "histograms": [[1, {}]]}],
        [{"metric": {}, "values": [[1, "2"]]}],
        [{"metric": RUNNING, "values": [[1, "x"]]}],
        [{"metric": RUNNING, "values": [[1, "2"], 3]}],
        [{"metric": "m", "values": [[1, "2"]]}],
        None,
        [1, "2"],
        "x",
    ],
)
@pytest.mark.parametrize("interrupted", [False, True], ids=["waits", "asks"])
def test_an_answer_of_another_form_is_noted_and_no_error(result: object, interrupted: bool) -> None:
    load = replace(result_of([]), interrupted=interrupted, started_at=time())
    with Answers(result) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        plan = plan_load(Concurrency(1), WORKLOAD, 0.2, seed=1, warmup_s=0.0)
        sources = ServerSources(prometheus=f"http://127.0.0.1:{server.server_port}")
        with watching_server(sources, Endpoint("http://127.0.0.1:9", "m"), 1, plan) as asking:
            told = asking.told(load, 0.0)
        server.shutdown()
        thread.join()
    note = "the server's side is not known: the Prometheus did not tell: it answers, and not in the way of a Prometheus"
    assert (told.server, told.note) == (None, note)


class TwoEngines(Answers):
    """Scrapes one engine after the other, and from the third question on has done so again; a third engine is long gone."""

    def __init__(self, until: float) -> None:
        super().__init__([])
        self.until = until
        self.asked = 0

    def answer(self) -> object:
        """With the engine that was scraped last at first."""
        self.asked += 1
        ends_s = {"first": 0.5, "second": -0.2 if self.asked < 3 else 0.8, "gone": -300.0}
        return [self._row(name, end_s) for name, end_s in ends_s.items()]

    def _row(self, name: str, end_s: float) -> dict[str, object]:
        labels = RUNNING | {"model_name": "m", "instance": name}
        return {"metric": labels, "values": [[self.until + end_s - i, "1"] for i in (3, 2, 1, 0)]}


def test_every_engine_that_is_still_there_is_waited_for() -> None:
    started_at = time() - 2.0
    with TwoEngines(started_at + 2.0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        prometheus = Prometheus(f"http://127.0.0.1:{server.server_port}")
        prometheus.await_samples(server.until)
        asked = server.asked
        found = prometheus.series(started_at, 2.0)
        prometheus.close()
        server.shutdown()
        thread.join()
    assert asked == 3
    assert [one.labels["instance"] for one in found] == ["first", "second"]
