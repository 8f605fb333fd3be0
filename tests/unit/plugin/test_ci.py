"""What a CI reads: the job's summary, places in the repository, and where exports are asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_llmperf.errors import ConfigError, LlmperfError, Where
from pytest_llmperf.plugin.ci import append_summary, place_in, write_exports, write_markdown, write_step_summary
from pytest_llmperf.plugin.option_values import Export, export
from pytest_llmperf.report.annotations import Place
from tests.unit.plugin.test_settings import HERE, ROOT, settings
from tests.unit.report.exported import measured, session

PLACE = Where(option="--llmperf-export")


def test_a_jobs_summary_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "step.md"
    path.write_text("before\n")
    write_step_summary(session([measured()]), {"GITHUB_STEP_SUMMARY": str(path)})
    write_step_summary(session([measured()]), {})
    text = path.read_text()
    assert text.startswith("before\n## LLM performance (SIMULATED)\n")
    assert text.count("## LLM performance") == 1


def test_a_session_that_measured_nothing_adds_nothing_to_a_jobs_summary(tmp_path: Path) -> None:
    write_step_summary(session([]), {"GITHUB_STEP_SUMMARY": str(tmp_path / "step.md")})
    assert not (tmp_path / "step.md").exists()


def test_the_file_is_written_where_it_is_asked_for(tmp_path: Path) -> None:
    write_markdown(settings({"--llmperf-markdown": str(tmp_path / "a" / "m.md")}), session([]))
    assert (tmp_path / "a" / "m.md").read_text().startswith("## LLM performance")


def test_a_summary_that_is_too_long_is_cut_at_a_line(tmp_path: Path) -> None:
    path = tmp_path / "step.md"
    append_summary(path, "0123456é\n" * 200_000)
    content = path.read_bytes()
    assert len(content) < 2**20
    assert content.decode().splitlines()[-3:] == [
        "0123456é",
        "",
        "*The rest is too long for this page: `--llmperf-markdown` writes all of it.*",
    ]


@pytest.mark.parametrize("there", [0, 300_000, 999_800, 999_999, 1_100_000])
def test_what_a_jobs_summary_already_says_takes_room(tmp_path: Path, there: int) -> None:
    path = tmp_path / "step.md"
    path.write_text("x" * there)
    append_summary(path, "0123456é\n" * 110_000)
    content = path.read_bytes()
    assert len(content) <= max(1_000_000, there)
    # All the room is used: what is left is less than a line.
    assert len(content) > 999_980 or there == 999_999
    assert content.decode().endswith("writes all of it.*\n") == (there < 999_900)


def test_a_summary_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(LlmperfError, match=r"nowhere/step\.md: GITHUB_STEP_SUMMARY: cannot append the summary: No such file"):
        append_summary(tmp_path / "nowhere" / "step.md", "x")


@pytest.mark.parametrize(
    ("path", "line", "expected"),
    [
        ("/repo/perf/suites/test_x.py", 11, Place("perf/suites/test_x.py", 12)),
        ("/repo/perf/../test_x.py", None, Place("test_x.py", 1)),
        ("/elsewhere/test_x.py", 3, None),
    ],
)
def test_places_are_relative_to_the_repository(path: str, line: int | None, expected: Place | None) -> None:
    assert place_in(Path(path), line, {"GITHUB_WORKSPACE": "/repo"}) == expected
    assert place_in(Path(path), line, {}) is None


def test_exports_are_read_from_every_form() -> None:
    expected = (Export("llm-d", HERE / "a, b"), Export("openmetrics", HERE / "m.txt"))
    assert settings({"--llmperf-export": ["llm-d=a, b", "openmetrics=m.txt"]}).export == expected
    from_ini = settings(None, None, {"llmperf_export": "llm-d=a\npytest-benchmark=~/b.json"}).export
    assert from_ini == (Export("llm-d", ROOT / "a"), Export("pytest-benchmark", Path("~/b.json").expanduser()))
    from_environment = settings(None, {"LLMPERF_EXPORT": "llm-d=a,openmetrics=m.txt"}).export
    assert from_environment == (Export("llm-d", HERE / "a"), Export("openmetrics", HERE / "m.txt"))
    assert settings().export == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("openmetric=x", "--llmperf-export: unknown export format 'openmetric'\n  Did you mean 'openmetrics'"),
        ("llm-d", "--llmperf-export: 'llm-d' does not say where to\n  Write llm-d=PATH."),
        ("llm-d= ", "--llmperf-export: 'llm-d=' does not say where to"),
        ("openmetrics=here", "is a directory\n  Name a file: openmetrics=FILE."),
        ("llm-d=file", "is no directory\n  There is one report a run: name a directory, llm-d=DIR."),
    ],
)
def test_what_cannot_be_exported_is_known_before_anything_is_measured(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError) as caught:
        export(text.strip() if text.endswith("= ") else text, PLACE, tmp_path)
    assert message in str(caught.value)


def test_each_export_is_written(tmp_path: Path) -> None:
    asked = [f"pytest-benchmark={tmp_path}/b.json", f"openmetrics={tmp_path}/m.txt", f"llm-d={tmp_path}/reports"]
    write_exports(settings({"--llmperf-export": asked, "--llmperf-storage": str(tmp_path)}), session([measured(tmp_path)]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.json", "m.txt", "reports", "runs"]
