"""Saved sessions: nothing is lost or replaced, each is found by what a user would write, and a bad run is kept out."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from pytest_llmperf.errors import ConfigError, LlmperfError, Where
from pytest_llmperf.report.commit import Commit, commit_of, short_commit
from pytest_llmperf.report.document import RunDocument, SessionDocument, from_json, session_document, to_json
from pytest_llmperf.report.results_v2 import SteadinessPart, StoppedPart
from pytest_llmperf.report.saved import (
    History,
    Saved,
    Source,
    autosave_name,
    eligible,
    find_saved,
    older_sessions,
    save_session,
    saved_sessions,
    unfit,
    valid_name,
)
from pytest_llmperf.report.storage import write_run
from tests.unit.report.compared import compared, document
from tests.unit.report.runs import answered, cell, judged, run_of

OPTION = Where(option="--llmperf-compare")
CELL = cell().id


def session(*runs: RunDocument, commit: Commit | None = None) -> SessionDocument:
    return session_document(
        runs or (judged(run_of(answered(300))),),
        created=1_750_000_000.0,
        arguments=[],
        target="sim",
        simulated=True,
        commit=commit,
    )


def saved(storage: Path, *names: str) -> list[Saved]:
    document = session()
    return [save_session(storage, name, document) for name in names]


def test_what_is_saved_reads_back_under_its_number_and_name(tmp_path: Path) -> None:
    document = session(commit=Commit("a1b2c3d4" * 5, dirty=True))
    first = save_session(tmp_path / "not" / "yet", "main", document)
    assert first == Saved(1, "main", tmp_path / "not" / "yet" / "saved" / "0001_main.json")
    assert first.label == "0001_main"
    assert first.document == document
    assert (first.document.commit, first.document.dirty) == ("a1b2c3d4" * 5, True)
    assert os.listdir(first.path.parent) == ["0001_main.json"]


def test_numbers_count_on_across_names_and_past_gaps(tmp_path: Path) -> None:
    assert [s.label for s in saved(tmp_path, "main", "other", "main")] == ["0001_main", "0002_other", "0003_main"]
    (tmp_path / "saved" / "0002_other.json").unlink()
    assert saved(tmp_path, "main")[0].label == "0004_main"
    (tmp_path / "saved" / "9999_main.json").write_text("")
    assert saved(tmp_path, "main")[0].label == "10000_main"
    assert [s.number for s in saved_sessions(tmp_path)] == [1, 3, 4, 9999, 10000]


def test_a_number_that_a_crash_left_taken_is_passed_over(tmp_path: Path) -> None:
    saved(tmp_path, "main")
    (tmp_path / "saved" / ".0002").touch()
    assert saved(tmp_path, "main")[0].label == "0003_main"
    assert [s.label for s in saved_sessions(tmp_path)] == ["0001_main", "0003_main"]


def _save_twenty(storage: Path, name: str, start: Barrier) -> None:
    document = session(judged(run_of(answered(20), run_id=name)))
    start.wait(30)
    for _ in range(20):
        save_session(storage, name, document)


@pytest.mark.parametrize("names", [("a", "b"), ("same", "same")], ids=["two names", "one name"])
def test_two_sessions_that_save_at_once_both_survive(tmp_path: Path, names: tuple[str, str]) -> None:
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(2)
    writers = [context.Process(target=_save_twenty, args=(tmp_path, name, start)) for name in names]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    kept = saved_sessions(tmp_path)
    assert len({s.number for s in kept}) == len(kept) == 40
    assert sorted(s.document.runs[0].run_id for s in kept) == sorted(names * 20)
    assert len(os.listdir(tmp_path / "saved")) == 40, "nothing is left beside them"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LlmperfError, match=r"file/saved: cannot write the results: Not a directory") as caught:
        saved(tmp_path / "file", "main")
    assert str(caught.value).endswith("\n  Free space there, or choose another place.")


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("latest", "0004_other"),
        ("main", "0003_main"),
        ("other", "0004_other"),
        ("v1.0", "0002_v1.0"),
        ("1", "0001_main"),
        ("0003", "0003_main"),
        ("0001_main", "0001_main"),
    ],
)
def test_it_is_found_by_name_number_or_both(tmp_path: Path, asked: str, found: str) -> None:
    saved(tmp_path, "main", "v1.0", "main", "other")
    assert find_saved(tmp_path, asked, OPTION).label == found


def test_a_results_file_is_found_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = judged(run_of(answered(300)))
    written = write_run(tmp_path, run)
    found = find_saved(tmp_path, str(written), OPTION)
    assert (found.number, found.label, found.document.runs) == (None, str(written), (run,))
    assert found.document.created == run.timing.started_at
    (tmp_path / "out.json").write_text(to_json(session(run, run)))
    monkeypatch.chdir(tmp_path)
    assert find_saved(tmp_path, "out.json", OPTION).document.runs == (run, run)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("mian", "--llmperf-compare: unknown saved session 'mian'\n  Did you mean 'main'? Saved: 0001_main, 0002_other."),
        ("7", "unknown saved session '7'"),
        ("0002_main", "unknown saved session '0002_main'"),
        ("lates", "Did you mean 'latest'?"),
        ("suites/", "'suites/' is a path, not the name of a saved session\n  --llmperf-compare took the word after it"),
        ("test_chat.py", "write --llmperf-compare=latest, or put it behind the tests' paths"),
        ("test_chat.py::test_meets_sla", "is a path"),
        ("none.json", "there is no results file 'none.json'"),
    ],
)
def test_a_mistake_is_told_with_what_there_is(tmp_path: Path, asked: str, message: str) -> None:
    saved(tmp_path, "main", "other")
    with pytest.raises(ConfigError) as caught:
        find_saved(tmp_path, asked, OPTION)
    assert message in str(caught.value)


@pytest.mark.parametrize("asked", ["latest", "main", "1"])
def test_where_nothing_is_saved_the_hint_is_to_save(tmp_path: Path, asked: str) -> None:
    assert saved_sessions(tmp_path) == []
    with pytest.raises(ConfigError, match=r"no session is saved in .*saved\n.*pytest --llmperf-save=NAME"):
        find_saved(tmp_path, asked, OPTION)


def test_a_number_that_two_have_is_not_guessed(tmp_path: Path) -> None:
    (one,) = saved(tmp_path, "main")
    (tmp_path / "saved" / "0001_copied.json").write_bytes(one.path.read_bytes())
    with pytest.raises(ConfigError, match=r"Name one of 0001_copied, 0001_main\."):
        find_saved(tmp_path, "1", OPTION)
    assert find_saved(tmp_path, "0001_copied", OPTION).name == "copied"


def test_a_truncated_file_hides_no_other_and_is_named_when_it_is_asked_for(tmp_path: Path) -> None:
    _, damaged, _ = saved(tmp_path, "main", "main", "other")
    damaged.path.write_bytes(damaged.path.read_bytes()[:1000])
    assert [s.label for s in saved_sessions(tmp_path)] == ["0001_main", "0002_main", "0003_other"]
    assert find_saved(tmp_path, "other", OPTION).number == 3
    with pytest.raises(ConfigError, match=r"0002_main\.json: is no results document: Invalid JSON: EOF"):
        find_saved(tmp_path, "main", OPTION)


def test_a_document_of_something_else_is_named(tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text('{"kind": "session", "schema_version": "2"}')
    with pytest.raises(ConfigError, match=r"other\.json: session\.created: is no results document: Field required"):
        find_saved(tmp_path, str(other), OPTION)
    other.write_text('{"kind": "session", "schema_version": "3"}')
    with pytest.raises(ConfigError, match=r"other\.json: schema_version: is a results document of version '3', which this"):
        find_saved(tmp_path, str(other), OPTION)
    other.write_text(to_json(session().model_copy(update={"runs": ()})))
    with pytest.raises(ConfigError, match=r"other\.json: holds no runs"):
        find_saved(tmp_path, str(other), OPTION)


def test_a_saved_file_of_an_earlier_writer_has_no_commit() -> None:
    raw = json.loads(to_json(session()))
    del raw["commit"], raw["dirty"]
    assert from_json(json.dumps(raw)) == session()


PASSED = judged(run_of(answered(300)))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({}, None),
        ({"verdict": None}, None),
        ({"verdict": "INCONCLUSIVE"}, None),
        ({"verdict": "FAIL"}, "its verdict is FAIL"),
        ({"verdict": "INVALID"}, "it is INVALID"),
        (
            {"verdict": None, "client": PASSED.client.model_copy(update={"distrust": ("worker 0 was late",)})},
            "it is INVALID: worker 0 was late",
        ),
        ({"timing": PASSED.timing.model_copy(update={"interrupted": True})}, "it was interrupted"),
        (
            {"stopped": StoppedPart(reason="41 of 120 beyond", outcome="FAIL", at_s=9.0, saved_s=51.0), "verdict": None},
            "it was stopped early, because it was settled that it fails",
        ),
        ({"stopped": StoppedPart(reason="enough", outcome="PASS", at_s=30.0, saved_s=30.0)}, None),
        (
            {"verdict": "INCONCLUSIVE", "steadiness": SteadinessPart(extra_warmup_s=0.0, unstable="the backlog grew")},
            "it had no steady state: the backlog grew",
        ),
        (
            {"verdict": None, "steadiness": SteadinessPart(extra_warmup_s=0.0, unstable="the backlog grew")},
            "it had no steady state: the backlog grew",
        ),
        ({"verdict": None, "steadiness": SteadinessPart(extra_warmup_s=5.0, unstable="")}, None),
    ],
)
def test_which_run_may_be_in_a_baseline(changed: dict[str, object], reason: str | None) -> None:
    assert eligible(PASSED.model_copy(update=changed), failed_tests=()) == reason


def test_a_run_of_a_failed_test_may_not() -> None:
    assert eligible(PASSED, {PASSED.node_id}) == "its test failed"
    assert eligible(PASSED, {"suites/test_chat.py::another"}) is None


def repetition(run_id: str, number: int, *, slow: bool = False, test: str = "test_chat") -> RunDocument:
    node_id = f"suites/test_sla.py::{test}[{CELL}-run{number}of3]"
    return document(run_id, node_id=node_id, values={"tpot_p50": 0.02 if slow else 0.01})


def test_repetitions_may_together_or_not_at_all() -> None:
    runs = [repetition(f"r{i}", i) for i in (1, 2, 3)]
    other = repetition("other", 1, test="test_other")
    part_of_it = document("part", node_id=runs[0].node_id, label="8/s")
    assert unfit([*runs, other, part_of_it], {runs[2].node_id}) == {
        "r1": "another repetition of its test failed",
        "r2": "another repetition of its test failed",
        "r3": "its test failed",
        "part": "another repetition of its test failed",
    }
    # Also where the one that failed made no run.
    assert list(unfit([*runs[:2], other], {runs[2].node_id})) == ["r1", "r2"]
    assert unfit([*runs, other], {other.node_id.replace(CELL, cell("l40s").id)}) == {}


def test_what_regressed_may_not_whatever_became_of_its_test() -> None:
    slow = [repetition(f"r{i}", i, slow=True) for i in (1, 2, 3)]
    found = compared(slow, *(repetition(f"b{i}", i) for i in (1, 2, 3)), fail=["tpot_p50:10%"])
    last = slow[2].model_copy(update={"comparison": found})
    assert unfit([*slow[:2], last], ()) == dict.fromkeys(["r1", "r2", "r3"], "its test regressed")
    # Nothing is gated: it is shown only.
    shown = found.model_copy(update={"changes": tuple(c.model_copy(update={"gated": False}) for c in found.changes)})
    assert unfit([*slow[:2], slow[2].model_copy(update={"comparison": shown})], (), only_compared=True) == {}


def test_what_the_last_comparison_says_holds_for_all_repetitions() -> None:
    before = [repetition(f"b{i}", i) for i in (1, 2, 3)]
    slow, good = repetition("r1", 1, slow=True), repetition("r2", 2)
    regressed, held = (compared([run] * 3, *before, fail=["tpot_p50:10%"]) for run in (slow, good))
    assert (regressed.verdict, held.verdict) == ("regressed", "unchanged")
    runs = [slow.model_copy(update={"comparison": regressed}), good.model_copy(update={"comparison": held})]
    assert unfit(runs, (), only_compared=True) == {}
    assert unfit(runs[::-1], (), only_compared=True) == dict.fromkeys(["r1", "r2"], "its test regressed")
    # Another of the test's loads is no repetition: each must hold.
    second = good.model_copy(update={"run_id": "second", "ordinal": 2, "comparison": held})
    assert unfit([runs[0], second], (), only_compared=True) == dict.fromkeys(["r1", "second"], "its test regressed")


def test_what_was_not_compared_in_a_session_that_compares_may_not() -> None:
    part = document("part", label="8/s")
    assert unfit([repetition("r1", 1), part], (), only_compared=True) == {"r1": "its test ended before it was compared"}
    assert unfit([repetition("r1", 1), part], ()) == {}


@pytest.mark.parametrize(
    ("asked", "older"),
    [("main", ["0003_main", "0001_main"]), ("latest", ["0003_main", "0001_main"]), ("4", []), ("0004_main", [])],
)
def test_older_sessions_are_of_the_same_name_and_only_where_a_name_was_asked_for(
    tmp_path: Path, asked: str, older: list[str]
) -> None:
    saved(tmp_path, "main", "other", "main", "main")
    found = find_saved(tmp_path, asked, OPTION)
    assert [s.label for s in older_sessions(tmp_path, found, asked)] == older


def test_a_results_file_stands_alone(tmp_path: Path) -> None:
    (one, _) = saved(tmp_path, "main", "main")
    assert older_sessions(tmp_path, find_saved(tmp_path, str(one.path), OPTION), str(one.path)) == []


KEY = "suites/test_sla.py::"


def history(storage: Path, passed_over: list[ConfigError], *nights: list[RunDocument]) -> History:
    for runs in nights:
        save_session(storage, "roll", session(*runs))
    newest = find_saved(storage, "roll", OPTION)
    older = older_sessions(storage, newest, "roll")
    return History(Source(newest.label, newest.document.runs), older, passed_over.append)


def test_what_the_newest_has_no_run_of_is_looked_up_before_it(tmp_path: Path) -> None:
    passed_over: list[ConfigError] = []
    nights = [
        [document("a1"), document("b1", test="test_b"), document("a2", ordinal=2), document("c", of=cell("l40s"))],
        [document("x", test="test_x"), document("part", test="test_gone", label="8/s")],
        [document("a3"), document("b2", test="test_b")],
        [document("b3", test="test_b")],
    ]
    past = history(tmp_path, passed_over, *nights)
    assert past.source(f"{KEY}test_b", CELL).label == "0004_roll"
    found = past.source(f"{KEY}test_chat", CELL)
    assert (found.label, [run.run_id for run in found.runs]) == ("0003_roll", ["a3"])
    assert past.source(f"{KEY}test_chat", CELL, 1).label == "0003_roll"
    second = past.source(f"{KEY}test_chat", CELL, 2)
    assert (second.label, [run.run_id for run in second.runs]) == ("0001_roll", ["a2", "c"])
    assert past.source(f"{KEY}test_chat", cell("l40s").id).label == "0001_roll"
    # A load that it never made before is held against the loads that it did make; a test without one is new.
    assert past.source(f"{KEY}test_chat", CELL, 3).label == "0003_roll"
    assert past.source(f"{KEY}test_gone", CELL) is past.newest
    assert not passed_over


def test_a_load_is_not_held_against_one_that_was_given_up_in_its_place(tmp_path: Path) -> None:
    given_up = document("given_up", ordinal=2, profile="poisson 20/s")
    past = history(tmp_path, [], [document("old"), given_up], [document("kept")])
    assert past.source_for(given_up).label == "0001_roll"
    added = past.source_for(document("added", ordinal=2))
    assert (added.label, [run.run_id for run in added.runs]) == ("0002_roll", ["kept"])


def test_older_sessions_are_read_only_where_one_is_missing_and_a_damaged_one_is_passed_over(tmp_path: Path) -> None:
    passed_over: list[ConfigError] = []
    past = history(tmp_path, passed_over, [document("a")], [document("damaged")], [document("b", test="test_b")])
    (tmp_path / "saved" / "0002_roll.json").write_text("{")
    assert past.source(f"{KEY}test_b", CELL).label == "0003_roll"
    assert not passed_over
    assert past.source(f"{KEY}test_chat", CELL).label == "0001_roll"
    assert past.source(f"{KEY}test_chat", CELL).label == "0001_roll"
    (error,) = passed_over
    assert "0002_roll.json: is no results document" in str(error)


@pytest.mark.parametrize("name", ["main", "v1.0", "a_b+c-d", "2025-06-15", "a1b2c3d4-20250615T150640Z-dirty", "x" * 100])
def test_names(name: str) -> None:
    assert valid_name(name, OPTION) == name


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("", "such as 'main'"),
        ("latest", "such as 'main'"),
        ("12", "'v12'"),
        ("0001_main", "'v0001_main'"),
        ("out.json", "such as 'main'"),
        ("test_chat.py", "such as 'main'"),
        ("feature/x", "'feature-x'"),
        ("../../etc", "'etc'"),
        ("-x", "'x'"),
        ("größe", "'gr-e'"),
        ("a b\n", "'a-b'"),
        ("x" * 101, f"'{'x' * 100}'"),
    ],
)
def test_what_is_no_name(tmp_path: Path, name: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=r"--llmperf-save: .* cannot name a saved session") as caught:
        valid_name(name, Where(option="--llmperf-save"))
    assert hint in (caught.value.hint or "")
    with pytest.raises(ConfigError):
        saved(tmp_path, name)
    assert not list(tmp_path.rglob("*.json"))


NOW = 1_750_000_000.0


@pytest.mark.parametrize(
    ("commit", "name"),
    [
        (None, "20250615T150640Z"),
        (Commit("a1b2c3d4e5f6", dirty=False), "a1b2c3d4-20250615T150640Z"),
        (Commit("12345678e5f6", dirty=True), "12345678-20250615T150640Z-dirty"),
    ],
)
def test_an_automatic_name_tells_commit_and_time(commit: Commit | None, name: str) -> None:
    assert autosave_name(commit, NOW) == name
    assert valid_name(name, OPTION) == name


def git(directory: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=directory, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # Whatever repository the tests themselves lie in is not to be found.
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    directory = tmp_path / "project"
    directory.mkdir()
    return directory


def test_the_commit_and_whether_it_is_all(repository: Path) -> None:
    git(repository, "init", "-q")
    assert commit_of(repository) is None, "there is no commit yet"
    (repository / "a.py").write_text("1\n")
    git(repository, "add", "a.py")
    git(repository, "commit", "-q", "-m", "first")
    head = git(repository, "rev-parse", "HEAD")
    (repository / "results.json").write_text("{}")
    assert commit_of(repository) == Commit(head, dirty=False), "an untracked file changes nothing"
    (repository / "a.py").write_text("2\n")
    assert commit_of(repository) == Commit(head, dirty=True)
    assert short_commit(head, dirty=True) == f"{head[:8]}-dirty"


def test_without_a_repository_or_git_there_is_no_commit(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert commit_of(repository) is None
    git(repository, "init", "-q")
    monkeypatch.setenv("PATH", str(repository))
    assert commit_of(repository) is None
    assert short_commit(None, dirty=False) == ""
