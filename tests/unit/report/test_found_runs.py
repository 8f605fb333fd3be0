"""Which runs a name means, and what is said to one that means none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_llmperf.errors import ConfigError, Where
from pytest_llmperf.report.document import DeploymentErrorPart, session_document, to_json
from pytest_llmperf.report.found_runs import NEWEST, FoundRuns, find_runs
from pytest_llmperf.report.storage import write_run
from tests.unit.report.stored import measured, save

WHERE = Where(option="RUNS")


def found(storage: Path, *names: str) -> FoundRuns:
    return find_runs(storage, names, WHERE, refuse)


def refuse(error: ConfigError) -> None:
    raise error


def ids(runs: FoundRuns) -> list[str]:
    return [run.document.run_id for run in runs.runs]


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    for run_id in ("abcd1111", "abcd2222", "ef012345"):
        write_run(tmp_path, measured(run_id=run_id))
    save(tmp_path, "main", measured(run_id="abcd1111"))
    save(tmp_path, "other", measured(run_id="abcd2222"), measured(run_id="5aved"))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("abcd1111", ["abcd1111"]),
        ("ef01", ["ef012345"]),
        ("main", ["abcd1111"]),
        ("1", ["abcd1111"]),
        ("0002_other", ["abcd2222", "5aved"]),
        ("latest", ["abcd2222", "5aved"]),
    ],
)
def test_ids_beginnings_and_saved_sessions(storage: Path, name: str, expected: list[str]) -> None:
    assert ids(found(storage, name)) == expected


def test_paths(storage: Path, tmp_path: Path) -> None:
    run = storage / "runs" / "abcd1111"
    session = tmp_path / "results.json"
    session.write_text(
        to_json(
            session_document(
                [measured(run_id="x1"), measured(run_id="ef012345")], created=0, arguments=[], target="sim", simulated=True
            )
        )
    )
    assert ids(found(storage, str(run))) == ["abcd1111"]
    assert ids(found(storage, str(run / "run.json"))) == ["abcd1111"]
    assert sorted(ids(found(storage, str(storage)))) == ["abcd1111", "abcd2222", "ef012345"]
    runs = found(storage, str(session))
    assert [run.directory for run in runs.runs] == [None, storage / "runs" / "ef012345"]
    assert runs.session is not None
    assert found(storage, str(run / "run.json")).session is None


def test_order_is_as_asked_and_each_run_comes_once(storage: Path) -> None:
    runs = found(storage, "ef01", "abcd1111", "main", "ef012345")
    assert ids(runs) == ["ef012345", "abcd1111"]
    assert runs.session is None


def test_requests_lie_with_the_run(storage: Path) -> None:
    (run,) = found(storage, "main").runs
    assert run.directory == storage / "runs" / "abcd1111"


def test_cells_that_no_session_could_deploy_are_each_told_once(storage: Path, tmp_path: Path) -> None:
    errors = [DeploymentErrorPart(cell_id=name, target="sim", error="no quota") for name in ("gke_l40s", "gke_b200")]
    for name, told in (("one", errors[:1]), ("two", errors)):
        session = session_document(
            [measured(run_id=name)], created=0, arguments=[], target="sim", simulated=True, deployment_errors=told
        )
        (tmp_path / f"{name}.json").write_text(to_json(session))
    one, two = (str(tmp_path / f"{name}.json") for name in ("one", "two"))
    assert found(storage, one, "abcd1111").deployment_errors == (errors[0],)
    assert found(storage, one, two).deployment_errors == tuple(errors)


def test_requests_are_found_by_whichever_name_knows_where_they_lie(storage: Path, tmp_path: Path) -> None:
    session = session_document([measured(run_id="abcd1111")], created=0, arguments=[], target="sim", simulated=True)
    (tmp_path / "s.json").write_text(to_json(session))
    elsewhere = tmp_path / "elsewhere"
    (run,) = found(elsewhere, str(tmp_path / "s.json"), str(storage / "runs" / "abcd1111")).runs
    assert run.directory == storage / "runs" / "abcd1111"


def test_a_time_that_is_none_is_refused_where_it_stands(tmp_path: Path) -> None:
    for text in ("nonsense", "2025-06-15T15:06:40"):
        run = measured()
        timing = run.timing.model_copy(update={"started_at": text})
        (tmp_path / "run.json").write_text(to_json(run.model_copy(update={"timing": timing})))
        with pytest.raises(ConfigError, match=r"run\.json: run\.timing\.started_at: is no results document: .*" + text):
            found(tmp_path, str(tmp_path / "run.json"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("abcd", "is the beginning of 2 runs' ids\n  They are abcd1111, abcd2222."),
        ("mian", "no run or saved session 'mian'\n  Did you mean 'main'?"),
        ("ef0", "of a run's id the first 4 characters or more are needed, and 'ef0' has 3\n  Runs that begin so: ef012345."),
        ("xyz", "no run or saved session 'xyz'"),
        ("./nothing.json", "there is no file or directory './nothing.json'"),
        ("nothing.json", "there is no file or directory 'nothing.json'"),
        ("/no/such/place", "no file or directory '/no/such/place'\n  There is no directory '/no/such' either."),
        ("/dev/null", "'/dev/null' is neither a directory nor a file"),
    ],
)
def test_name_of_nothing(storage: Path, name: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        found(storage, name)
    assert str(raised.value).startswith("RUNS: ")
    assert said in str(raised.value)


def test_a_path_is_answered_with_what_lies_there(storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "place"
    for name in ("demo-out", "main", "ef01"):
        (place / name).mkdir(parents=True)
    (place / "notes").write_text("no results")
    (place / "results.json").touch()
    monkeypatch.chdir(place)
    for name, said in (
        ("demo-out", "^RUNS: the directory 'demo-out' holds neither a run.json nor runs$"),
        ("notes", "^notes: is no results document"),
        ("./notes", "^notes: is no results document"),
        ("./result.json", r"no file or directory './result.json'\n  Did you mean 'results.json'\?"),
    ):
        with pytest.raises(ConfigError, match=said):
            found(storage, name)
    (place / "demo-out" / "llmperf" / "runs").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"neither a run\.json nor runs\n  There are runs in demo-out/llmperf\.$"):
        found(storage, "demo-out")
    # A session and a run go before a directory of that name.
    assert ids(found(storage, "main")) == ["abcd1111"]
    assert ids(found(storage, "ef01")) == ["ef012345"]


def test_directory_of_nothing(storage: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds neither a run\.json nor runs"):
        found(storage, str(storage / "saved"))


def test_without_names_the_newest_are_taken_oldest_first(tmp_path: Path) -> None:
    for i in range(NEWEST + 2):
        run = measured(run_id=f"run{i:03d}") if i < 3 else found(tmp_path, "run000").runs[0].document
        started = f"2025-06-15T15:{i // 60:02d}:{i % 60:02d}.000+00:00"
        document = run.model_copy(
            update={"run_id": f"run{i:03d}", "timing": run.timing.model_copy(update={"started_at": started})}
        )
        os.utime(write_run(tmp_path, document), (i, i))
    runs = found(tmp_path)
    assert ids(runs) == [f"run{i:03d}" for i in range(2, NEWEST + 2)]
    assert f"the newest {NEWEST} of {NEWEST + 2} runs" in runs.note


def test_what_cannot_be_read_is_passed_over_in_a_storage_and_refused_by_name(storage: Path) -> None:
    damaged = storage / "runs" / "damaged"
    damaged.mkdir()
    (damaged / "run.json").write_text("{}")
    told: list[str] = []
    runs = find_runs(storage, (), WHERE, lambda error: told.append(str(error)))
    assert len(runs.runs) == 3
    assert "damaged/run.json" in told[0]
    with pytest.raises(ConfigError, match=r"damaged/run\.json"):
        found(storage, "damaged")


def test_document_of_a_session_under_a_runs_name_is_refused(storage: Path) -> None:
    session = session_document([measured(), measured(run_id="b")], created=0, arguments=[], target="sim", simulated=True)
    (storage / "runs" / "abcd1111" / "run.json").write_text(to_json(session))
    with pytest.raises(ConfigError, match="is not the document of one run"):
        found(storage, "abcd1111")


def test_empty_storage_says_how_runs_come_to_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no runs in .*\n  A pytest session writes them there"):
        found(tmp_path)
