"""Sessions to export: runs with their requests on disk, as a session leaves them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pytest_llmperf.experiment.records import Price
from pytest_llmperf.measure.compute import measure
from pytest_llmperf.measure.cost import cost_of
from pytest_llmperf.report.document import RunDocument, SessionDocument, session_document
from pytest_llmperf.report.exports import directories_in, write_export
from pytest_llmperf.report.requests_file import write_requests
from pytest_llmperf.report.results_v2 import DeploymentErrorPart
from pytest_llmperf.report.storage import REQUESTS, run_directory
from tests.unit.report.runs import SLA, answered, judged, run_of

PRICE = Price("h100", "gke", 11.06, "GCP | a third party's list", "2026-11-20")


def measured(
    storage: Path | None = None,
    *,
    run_id: str = "0123abcd",
    test: str = "test_meets_sla",
    scale: float = 1.0,
    requests: int = 400,
    failures: int = 0,
    simulated: bool = True,
    invalid: tuple[str, ...] = (),
    sla: Mapping[str, object] = SLA,
) -> RunDocument:
    """A judged run with a price and a power; its requests lie in ``storage``, where that is given."""
    asked = answered(requests, scale=scale, failures=failures)
    run = run_of(asked, run_id=run_id, test=test, simulated=simulated, invalid=invalid)
    metrics = measure(run.result, price_per_hour=PRICE.per_gpu, accelerators=1, power_w=500.0)
    document = judged(replace(run, metrics=metrics, cost=cost_of(PRICE, 1, metrics)), sla)
    if storage is not None:
        write_requests(run_directory(storage, run_id) / REQUESTS, run.result.log)
    return document


def session(
    runs: Sequence[RunDocument], errors: Sequence[DeploymentErrorPart] = (), *, simulated: bool = True
) -> SessionDocument:
    return session_document(
        runs, created=1_750_000_000.0, arguments=(), target="sim", simulated=simulated, deployment_errors=errors
    )


def export(format: str, path: Path, runs: Sequence[RunDocument], storage: Path | None) -> None:
    """Write the runs in a form; their requests are looked for in ``storage``."""
    document = session(runs)
    write_export(format, path, document, directories_in(storage, document) if storage is not None else {})
