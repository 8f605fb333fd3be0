"""A session in the forms that other tools read. Each form is a pure function of the documents and the requests' values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_llmperf.errors import ConfigError, Where, unknown

if TYPE_CHECKING:
    from pytest_llmperf.report.results_v2 import SessionDocument

PYTEST_BENCHMARK, LLM_D, OPENMETRICS = "pytest-benchmark", "llm-d", "openmetrics"
FORMATS = (PYTEST_BENCHMARK, LLM_D, OPENMETRICS)
WITHOUT_REQUESTS = {
    PYTEST_BENCHMARK: "min, stddev, quartiles and outliers are not known: they read as if nothing varied, and cannot be compared",
    LLM_D: "the lengths of the requests are left out",
}
"""What an export says less of a run whose requests are not there; ``openmetrics`` needs none."""


def directories_in(storage: Path, session: SessionDocument) -> dict[str, Path]:
    """Where a storage has the session's runs, by run id."""
    from pytest_llmperf.report.storage import run_directory

    return {run.run_id: run_directory(storage, run.run_id) for run in session.runs}


def write_export(format: str, path: Path, session: SessionDocument, directories: Mapping[str, Path | None]) -> None:
    """Write a session in one of ``FORMATS``: to the file ``path``, of ``llm-d`` into the directory, a file for each run.

    ``directories`` of the runs, by run id: the requests there give what the documents do not have. Of a run that has none
    ``WITHOUT_REQUESTS`` holds. Raises ``ConfigError`` for an unknown format, a directory where a file is to be or the other way
    round, requests that cannot be read, and an id that can name no file; ``LlmperfError`` when the disk refuses.
    """
    check_target(format, path, Where(key="export"))
    from pytest_llmperf.report.storage import write_atomically

    for name, text in _texts(format, session, directories):
        write_atomically(path / name if format == LLM_D else path, text)


def check_target(format: str, path: Path, where: Where) -> None:
    """Whatever can be known to be wrong before anything is measured. Raises ``ConfigError``."""
    if format not in FORMATS:
        raise unknown("export format", format, FORMATS, where)
    if format == LLM_D and path.exists() and not path.is_dir():
        hint = f"There is one report a run: name a directory, {LLM_D}=DIR."
        raise ConfigError(f"{path} is no directory", where=where, hint=hint)
    if format != LLM_D and path.is_dir():
        raise ConfigError(f"{path} is a directory", where=where, hint=f"Name a file: {format}=FILE.")


def _texts(format: str, session: SessionDocument, directories: Mapping[str, Path | None]) -> list[tuple[str, str]]:
    """The files by their names within ``path``; a single one has none."""
    if format == OPENMETRICS:
        from pytest_llmperf.report.exports.openmetrics import openmetrics

        return [("", openmetrics(session))]
    from pytest_llmperf.report.exports.values import values_of

    if format == PYTEST_BENCHMARK:
        import json

        from pytest_llmperf.report.exports.pytest_benchmark import pytest_benchmark

        document = pytest_benchmark(session, lambda run: values_of(run, directories.get(run.run_id)))
        return [("", json.dumps(document, indent=4, allow_nan=False) + "\n")]
    import yaml

    from pytest_llmperf.report.exports.llm_d import llm_d, report_name

    # libyaml's is ten times as fast, where PyYAML was built with it.
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    reports = ((report_name(run), llm_d(run, values_of(run, directories.get(run.run_id)))) for run in session.runs)
    return [(name, yaml.dump(report, Dumper=dumper, sort_keys=False, allow_unicode=True)) for name, report in reports]
