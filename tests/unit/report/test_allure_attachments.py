"""The files of a run in Allure's report."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_llmperf.report.allure_attachments import requests_attachment, run_attachments
from pytest_llmperf.report.document import from_json, run_document
from pytest_llmperf.report.requests_file import write_requests
from pytest_llmperf.report.storage import ARTIFACTS, artifacts_in
from tests.unit.report.runs import answered, judged, run_of


def test_only_what_lies_there_is_attached(tmp_path: Path) -> None:
    run = judged(run_of(answered(20)))
    assert [each.name for each in run_attachments(run, tmp_path)] == ["SLA interactive-chat: FAIL", "run.json"]
    document = next(each for each in run_attachments(run, tmp_path) if each.name == "run.json").content
    assert isinstance(document, bytes)
    assert from_json(document) == run


def test_everything_of_a_run_is_attached(tmp_path: Path) -> None:
    run = run_of(answered(20))
    for name in ("latency_analysis.png", "throughput_analysis.png", "stats.txt"):
        (tmp_path / name).write_bytes(b"x")
    write_requests(tmp_path / ARTIFACTS["requests"], run.result.log)
    made = run_document(run, None)
    changes = {
        "artifacts": artifacts_in(tmp_path),
        "configuration": made.configuration.model_copy(update={"manifests": ("a: 1",)}),
    }
    attached = list(run_attachments(made.model_copy(update=changes), tmp_path))
    assert [each.name for each in attached] == [
        "Latency",
        "Throughput",
        "stats.txt",
        "run.json",
        "requests.csv",
        "manifest 1 of 1",
    ]
    assert attached[0].content == tmp_path / "latency_analysis.png"


@pytest.mark.parametrize(("most", "name", "kept"), [(20, "requests.csv", 20), (7, "requests.csv (the first 7 of 20)", 7)])
def test_the_requests_are_cut_to_what_a_report_can_hold(tmp_path: Path, most: int, name: str, kept: int) -> None:
    write_requests(tmp_path / "requests.parquet", run_of(answered(20)).result.log)
    attached = requests_attachment(tmp_path / "requests.parquet", 20, most)
    assert attached.name == name
    assert isinstance(attached.content, bytes)
    heading, *rows = attached.content.decode().splitlines()
    assert len(rows) == kept
    assert {row.count(",") for row in rows} == {heading.count(",")}
