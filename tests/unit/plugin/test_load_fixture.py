"""The ``load`` fixture without a session: seeds, and what ends a load that did not end well; on a real simulator."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import pytest

from pytest_llmperf.deploy.sim import SimDeployment, SimTarget
from pytest_llmperf.errors import ConfigError, DeployError, LlmperfError, LoadError
from pytest_llmperf.experiment.catalog import builtin_directory, load_catalog
from pytest_llmperf.experiment.matrix import expand
from pytest_llmperf.experiment.profile import LoadProfile, bursts, concurrency, constant, trace
from pytest_llmperf.experiment.stages import hold, ramp, stages
from pytest_llmperf.load.options import LoadProgress
from pytest_llmperf.load.plan import LoadPlan, plan_load
from pytest_llmperf.load.records import LoadResult
from pytest_llmperf.measure.server_sources import ServerSources
from pytest_llmperf.measure.server_watch import OnProgress, Told, Watching
from pytest_llmperf.plugin.cells import sla_given
from pytest_llmperf.plugin.drift import drift
from pytest_llmperf.plugin.load import Load, SlaMissError
from pytest_llmperf.plugin.progress import ProgressLine
from pytest_llmperf.plugin.recorder import Recorder
from tests.unit.measure.logs import result_of, streamed
from tests.unit.measure.pages_server import pages_server

CATALOG = load_catalog([builtin_directory()])
CELL = expand(CATALOG.matrix_named("default"), CATALOG)[0]


@pytest.fixture(scope="module")
def standing() -> Iterator[SimDeployment]:
    deployment = SimTarget(ready_timeout_s=30.0).deploy(CELL, lambda _: None)
    yield deployment
    deployment.close()


class Assassin(ProgressLine):
    """A progress line that strikes once, when the load is under way."""

    def __init__(self, strike: Callable[[], None]) -> None:
        super().__init__(None, None, 0, simulated=True)
        self._strike = strike
        self._struck = False

    @contextmanager
    def loading(self, what: str) -> Iterator[Callable[[LoadProgress], None]]:
        with super().loading(what) as report:

            def strike_once(progress: LoadProgress) -> None:
                report(progress)
                if progress.finished and not self._struck:
                    self._struck = True
                    self._strike()

            yield strike_once


def load_on(
    deployment: SimDeployment,
    recorder: Recorder,
    *,
    node_id: str = "t.py::t[c]",
    seed: int = 0,
    workers: int = 1,
    strike: Callable[[], None] = lambda: None,
) -> Load:
    return Load(
        deployment=deployment,
        workload=CATALOG.workloads["classification"],
        node_id=node_id,
        seed=seed,
        workers=workers,
        price=None,
        keep=recorder.keep,
        progress=Assassin(strike),
        read_sla=partial(sla_given, catalog=CATALOG, gate="acceptable"),
    )


def seeds(load: Load, count: int = 3) -> list[int]:
    found = []
    for load.runs in range(1, count + 1):
        found.append(load.seed_of_run())
    return found


def test_seeds_are_the_same_in_every_session_and_different_in_every_load(standing: SimDeployment, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    first = seeds(load_on(standing, recorder))
    assert first == seeds(load_on(standing, recorder)) == [3762972639, 2034447973, 239339251]
    others = [
        *seeds(load_on(standing, recorder, node_id="t.py::t[d]")),
        *seeds(load_on(standing, recorder, node_id="t.py::u[c]")),
        *seeds(load_on(standing, recorder, seed=1)),
    ]
    assert len({*first, *others}) == 12


GRADED = {"e2e": {"p50": {"target": "1ms", "acceptable": "30s"}}}


def test_a_run_is_held_against_limits_and_named_slas_too(standing: SimDeployment, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    load = load_on(standing, recorder)
    run = load(constant("20/s"), "1s", warmup="0s", until=GRADED)
    assert run.meets(GRADED)
    (document,) = recorder.drain()
    assert document.sla is not None
    assert (document.sla.name, document.sla.gate) == ("inline", "acceptable")
    assert run.judge("classification").sla_name == "classification"
    with pytest.raises(SlaMissError):
        run.meets({"e2e": {"p50": "1us"}})
    with pytest.raises(ConfigError, match=r"run\.meets\(\): unknown SLA 'clasification'\n  Did you mean 'classification'"):
        run.meets("clasification")
    with pytest.raises(ConfigError, match=r"run\.judge\(\): takes an SLA, not int"):
        run.judge(1)  # type: ignore[arg-type]


def test_a_run_knows_whether_its_load_changed_and_drift_refuses_one_that_did(standing: SimDeployment, tmp_path: Path) -> None:
    load = load_on(standing, Recorder(tmp_path))
    steady = load(concurrency(4), "1s", warmup="0s")
    assert steady.run.is_stationary
    assert drift(steady, "e2e_p50").run is steady
    for profile in (stages(hold("60/s", "500ms"), hold("20/s", "1s")), concurrency(4, ramp="500ms"), bursts(5, every="500ms")):
        changed = load(profile, "1s", warmup="0s")
        assert not changed.run.is_stationary
        with pytest.raises(ConfigError, match=r"^drift\(\): .* changes by plan"):
            drift(changed, "e2e_p50")


def test_what_changes_with_the_load_is_no_warm_up_of_a_load_that_changes(standing: SimDeployment, tmp_path: Path) -> None:
    load = load_on(standing, Recorder(tmp_path))
    result = result_of([streamed(i / 10, 0.1, gap_s=0.01 + i / 10_000, tokens=3) for i in range(600)], (0.0, 60.0))
    identity = load(constant("20/s"), "200ms", warmup="0s").run.identity

    def unstable(profile: LoadProfile) -> str:
        plan = plan_load(profile, load.workload, 60.0, seed=1, warmup_s=0.0)
        return load._measured(identity, result, None, plan).run.steadiness.unstable

    assert unstable(constant("10/s")).startswith("still warming up")
    assert unstable(stages(ramp("5/s", "15/s", "60s"))) == ""
    assert unstable(concurrency(8)).startswith("still warming up")
    assert unstable(concurrency(8, ramp="60s")) == ""


def test_the_planned_duration_of_a_trace_is_the_traces_where_that_is_shorter(standing: SimDeployment, tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text("\n".join(f'{{"timestamp": {at}, "input_length": 5, "output_length": 2}}' for at in (0, 100, 200)))
    recorder = Recorder(tmp_path)
    load = load_on(standing, recorder)
    load.workload = CATALOG.workloads["trace-replay"]
    assert load(trace(file, kind="mooncake"), "60s", warmup="300ms").run.identity.duration_s == pytest.approx(0.3)
    assert load(trace(file, kind="mooncake"), "150ms", warmup="300ms").run.identity.duration_s == 0.15
    assert load(constant("20/s"), "60s", requests=4, warmup="0s").run.identity.duration_s == 0.2
    assert [document.timing.planned_s for document in recorder.drain()] == [pytest.approx(0.3), 0.15, 0.2]


@pytest.mark.parametrize("until", ["clasification", {"tfft": {"p99": "1s"}}, 1])
def test_nothing_is_loaded_until_what_is_no_sla(standing: SimDeployment, tmp_path: Path, until: object) -> None:
    recorder = Recorder(tmp_path)
    load = load_on(standing, recorder)
    with pytest.raises(ConfigError, match=r"^load\(…, until=\)"):
        load(constant("20/s"), "1s", warmup="0s", until=until)  # type: ignore[arg-type]
    assert load.runs == 0
    assert recorder.drain() == []


def test_a_deployment_lost_under_load_is_an_error_and_what_was_measured_is_kept(tmp_path: Path) -> None:
    deployment = SimTarget(ready_timeout_s=30.0).deploy(CELL, lambda _: None)
    recorder = Recorder(tmp_path)
    load = load_on(deployment, recorder, strike=deployment.process.kill)
    with pytest.raises(DeployError, match=rf"{CELL.id}: the deployment was lost: its process was killed by SIGKILL"):
        load(constant("20/s"), "2s", warmup="0s")
    deployment.close()
    (run,) = recorder.drain()
    assert (tmp_path / "runs" / run.run_id / "run.json").is_file()
    assert run.counts.total == 40
    assert run.counts.ok > 0
    assert run.counts.failed > 0


class Faulty:
    """Hears of a load, finds its run stored, and cannot tell anything."""

    def __init__(self, storage: Path, fault: BaseException) -> None:
        self._storage, self._fault = storage, fault
        self.found = 0

    def also(self, report: OnProgress) -> OnProgress:
        return report

    def ended(self) -> None:
        """Nothing."""

    def told(self, result: LoadResult, extra_warmup_s: float) -> Told:  # noqa: ARG002
        self.found = len(list(self._storage.glob("runs/*/requests.parquet")))
        raise self._fault


@dataclass(repr=False)
class LoadOfFaulty(Load):
    """A load whose server is watched as a test says."""

    watching: Watching | None = None

    def _watched(self, plan: LoadPlan) -> AbstractContextManager[Watching]:  # noqa: ARG002
        assert self.watching is not None
        return nullcontext(self.watching)


def faulty_load(deployment: SimDeployment, recorder: Recorder, fault: BaseException) -> tuple[Load, Faulty]:
    load, faulty = load_on(deployment, recorder), Faulty(recorder.storage, fault)
    given = {each.name: getattr(load, each.name) for each in fields(load)}
    return LoadOfFaulty(**given, watching=faulty), faulty


def test_whatever_goes_wrong_with_the_server_s_side_is_noted_and_the_run_is_there(
    standing: SimDeployment, tmp_path: Path
) -> None:
    recorder = Recorder(tmp_path)
    load, faulty = faulty_load(standing, recorder, ZeroDivisionError("an odd page"))
    run = load(constant("20/s"), "300ms", warmup="0s").run
    note = "the server's side is not known: what it says cannot be reckoned (ZeroDivisionError)"
    assert (run.server, run.result.health.notes[-1], faulty.found) == (None, note, 1)
    (document,) = recorder.drain()
    assert document.counts.ok == 6
    assert note in document.client.notes


def test_a_run_is_stored_before_the_server_s_side_is_waited_for(standing: SimDeployment, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    load, faulty = faulty_load(standing, recorder, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        load(constant("20/s"), "300ms", warmup="0s")
    (document,) = recorder.drain()
    assert (document.counts.ok, faulty.found) == (6, 1)
    assert (tmp_path / "runs" / document.run_id / "run.json").is_file()


def test_the_accelerators_power_makes_the_energy_known(standing: SimDeployment, tmp_path: Path) -> None:
    with pages_server() as pages:
        pages.lines = b"DCGM_FI_DEV_POWER_USAGE 300\n"
        load = load_on(standing, Recorder(tmp_path))
        load.server = ServerSources((("dcgm", pages.url("/gpus")),))
        run = load(constant("20/s"), "500ms", warmup="0s")
    assert run["joules_per_token"] == pytest.approx(300 / run["output_tokens_per_s"])


@pytest.mark.skipif(sys.platform != "linux", reason="finds its children in /proc")
def test_a_lost_worker_is_an_error_and_no_ctrl_c(standing: SimDeployment, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    load = load_on(standing, recorder, workers=2, strike=kill_a_worker)
    with pytest.raises(LoadError, match=r"load worker . was killed by signal 9"):
        load(constant("20/s"), "20s", warmup="0s")
    (run,) = recorder.drain()
    assert run.counts.ok > 0


@pytest.mark.skipif(sys.platform != "linux", reason="finds its children in /proc")
def test_how_a_load_ended_says_more_than_a_disk_that_will_not_keep_it(standing: SimDeployment, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    recorder = Recorder(tmp_path / "file")
    with pytest.raises(LlmperfError, match=r"run\.json: cannot write the results: Not a directory"):
        load_on(standing, recorder)(constant("20/s"), "200ms", warmup="0s")
    with pytest.raises(LoadError, match=r"load worker . was killed by signal 9"):
        load_on(standing, recorder, workers=2, strike=kill_a_worker)(constant("20/s"), "20s", warmup="0s")
    assert len(recorder.drain()) == 2


def kill_a_worker() -> None:
    """Kills one of this process's load workers."""
    children = [int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()]
    workers = [pid for pid in children if b"pytest_llmperf.load.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(workers[0], signal.SIGKILL)
