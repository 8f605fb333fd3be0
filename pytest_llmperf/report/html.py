"""Runs as one HTML file that loads nothing: the answers first, then every run. Here is what it shows; the page is a template."""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from pytest_llmperf.judge.text import shown
from pytest_llmperf.metrics import METRICS, metric_key
from pytest_llmperf.report.answers import bottleneck_name, fast_enough, verdict_counts
from pytest_llmperf.report.columns import value_of
from pytest_llmperf.report.comparison import title_of
from pytest_llmperf.report.comparison_table import change_text
from pytest_llmperf.report.listing import local_time
from pytest_llmperf.report.part_text import (
    cost_texts,
    far_text,
    interval_of,
    interval_text,
    margin_of,
    measured_text,
    number_text,
    price_texts,
    server_time_text,
    share_text,
    value_text,
)
from pytest_llmperf.report.plots import LATENCY, OVERVIEW, THROUGHPUT
from pytest_llmperf.report.rows import load_texts, test_labels
from pytest_llmperf.units import format_duration, format_fraction, format_number, format_usd

if TYPE_CHECKING:
    from jinja2 import Template

    from pytest_llmperf.report.results_v2 import (
        CheckPart,
        ClientPart,
        ConfigurationPart,
        CostPart,
        DeploymentErrorPart,
        MetricPart,
        RunDocument,
        ServerPart,
    )

SIMULATED = "SIMULATED"
NOT_JUDGED = "not judged"
_TEMPLATE = "report.html.j2"
_SUMMARY = tuple(
    metric_key(name) for name in ("ttft_p50", "ttft_p99", "tpot_p50", "tpot_p99", "output_tokens_per_s", "error_rate")
)
_SERVER_TITLES = {
    "running_mean": "running, mean",
    "running_max": "running, most",
    "waiting_mean": "waiting, mean",
    "waiting_max": "waiting, most",
    "preemptions": "preemptions",
    "prompt_tokens_per_s": "prompt tokens/s",
    "generation_tokens_per_s": "generated tokens/s",
    "gpu_power_w": "power (W)",
}
_SERVER_SHARES = {
    "kv_cache_usage_mean": "KV cache in use, mean",
    "kv_cache_usage_max": "KV cache in use, most",
    "prefix_cache_hit_rate": "prefix cache hits",
    "gpu_utilisation_mean": "accelerator busy, mean",
}

Row = tuple[str, ...]


@dataclass(frozen=True)
class Fold:
    """Rows of names and values that a reader opens: one part of a run's configuration."""

    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class RunView:
    """A run as the page shows it: text, not yet escaped. ``place`` is its anchor."""

    place: str
    title: str
    test: str
    """What tells it apart from the other runs of its cell."""
    cell: str
    workload: str
    load: str
    started: str
    verdict: str
    simulated: bool
    summary: Row
    """The values under ``_SUMMARY``."""
    nearest: str
    """Which limit of its SLA it is nearest to, or farthest beyond, and how far."""
    sla: str
    checks: tuple[Row, ...]
    reasons: tuple[str, ...]
    changed: str
    changes: tuple[Row, ...]
    bottleneck: str
    evidence: str
    cost: Row
    metrics: tuple[Row, ...]
    client: tuple[Row, ...]
    client_remarks: tuple[str, ...]
    server: tuple[Row, ...]
    errors: tuple[Row, ...]
    plots: tuple[tuple[str, str], ...]
    """What each shows, and its content as a ``data:`` URI."""
    folds: tuple[Fold, ...]


def html_report(
    documents: Sequence[RunDocument], plots: Mapping[str, bytes], deployment_errors: Sequence[DeploymentErrorPart] = ()
) -> str:
    """The page. ``plots``, each an SVG or a PNG, are named ``overview`` and ``RUN_ID/latency_analysis``, ``RUN_ID/throughput_…``.

    ``deployment_errors`` are those of the session whose runs these are: cells that nothing could be measured of.

    Everything that is not ours (names of tests, what servers say) is escaped, and a policy in the page forbids it to load more.
    """
    labelled = zip(documents, test_labels(documents), load_texts(documents), strict=True)
    views = [_view(document, label, load, f"run-{i}", plots) for i, (document, label, load) in enumerate(labelled, 1)]
    simulated = sum(document.simulated for document in documents)
    overview = plots.get(OVERVIEW)
    return _template().render(
        answer=fast_enough(documents),
        counts=verdict_counts(documents),
        not_deployed=[(error.cell_id, error.target, error.error) for error in deployment_errors],
        runs=views,
        simulated=simulated,
        summary_titles=[key.title for key in _SUMMARY],
        overview=data_uri(overview) if overview is not None else None,
        compared=[view for view in views if view.changed],
        priced=[view for view in views if view.cost],
        prices=price_texts(documents),
        looked_at=[view for view in views if view.evidence],
        not_judged=NOT_JUDGED,
    )


def data_uri(picture: bytes) -> str:
    """A PNG or an SVG as an address that holds it."""
    mime = "image/png" if picture.startswith(b"\x89PNG") else "image/svg+xml"
    return f"data:{mime};base64,{b64encode(picture).decode()}"


@cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("pytest_llmperf.report", "templates")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template(_TEMPLATE)


def _view(run: RunDocument, label: str, load: str, place: str, plots: Mapping[str, bytes]) -> RunView:
    named = ((LATENCY, "latencies of this run"), (THROUGHPUT, "throughput of this run"))
    pictures = [(what, plots.get(f"{run.run_id}/{name}")) for name, what in named]
    comparison = run.comparison
    return RunView(
        place=place,
        title=title_of(run),
        test=label,
        cell=run.cell.id,
        workload=run.workload.name,
        load=load,
        started=local_time(run.timing.started_at, None),
        verdict=run.verdict or NOT_JUDGED,
        simulated=run.simulated,
        summary=tuple(shown(key.metric, value_of(run, key)) for key in _SUMMARY),
        nearest=_nearest(run),
        sla=_sla(run),
        checks=tuple(map(_check, run.sla.checks)) if run.sla is not None else (),
        reasons=_reasons(run),
        changed=f"{comparison.verdict} beside {comparison.baseline}" if comparison is not None else "",
        changes=_changes(run),
        bottleneck=bottleneck_name(run.bottleneck),
        evidence=run.bottleneck.evidence if run.bottleneck is not None else "",
        cost=_cost(run.cost) if run.cost is not None else (),
        metrics=tuple(_metric(name, part) for name, part in run.metrics.items()),
        client=_client(run.client),
        client_remarks=(*run.client.distrust, *run.client.notes),
        server=_server(run.server) if run.server is not None else (),
        errors=tuple((name, f"{count:,}") for name, count in run.errors.items()),
        plots=tuple((what, data_uri(picture)) for what, picture in pictures if picture is not None),
        folds=tuple(fold for fold in _configuration(run) if fold.rows),
    )


def _metric(name: str, part: MetricPart) -> Row:
    return part.title, value_text(name, part), interval_of(name, part), f"{part.samples:,}"


def _check(check: CheckPart) -> Row:
    return (
        check.title,
        check.required,
        measured_text(check),
        interval_text(check),
        share_text(check),
        check.outcome,
        check.grade or "",
    )


def _nearest(run: RunDocument) -> str:
    """The check that decides: of those that were missed the one that is farthest beyond its limit, else the one nearest to it."""
    checks = run.sla.checks if run.sla is not None else ()
    missed = [check for check in checks if check.outcome == "FAIL"]
    # A limit of 0 that is kept leaves no room at all, and says nothing by it.
    kept = [check for check in checks if not math.isnan(margin_of(check)) and not check.measured == check.limit == 0]
    if not (missed or kept):
        return "-"
    nearest = max(missed or kept, key=_used)
    return f"{nearest.title} {nearest.required}: {far_text(nearest)}"


def _used(check: CheckPart) -> float:
    """How much of its limit a check has used up: 1 at the limit, more beyond it, 0 where that is not known."""
    margin = margin_of(check)
    if math.isnan(margin):
        return 0.0
    if check.comparator == "<=":
        return margin
    return 1 / margin if margin > 0 else math.inf


def _sla(run: RunDocument) -> str:
    if run.sla is None:
        return ""
    terms = [f"at {run.sla.gate}"] if run.sla.gate != "target" else []
    terms += [run.sla.policy] if run.sla.policy != "measured" else []
    return f"SLA {run.sla.name}" + (f" ({', '.join(terms)})" if terms else "")


def _reasons(run: RunDocument) -> Row:
    if run.sla is None:
        return ()
    notes = (f"{check.title}: {check.note}" for check in run.sla.checks if check.note)
    stopped = [f"ended early: {run.stopped.reason}"] if run.stopped is not None else []
    unstable = [run.steadiness.unstable] if run.steadiness is not None and run.steadiness.unstable else []
    return tuple(dict.fromkeys((*run.sla.reasons, *notes, *stopped, *unstable)))


def _changes(run: RunDocument) -> tuple[Row, ...]:
    """Each metric beside the baseline's; what fails no test has its allowed change in brackets."""
    return tuple(
        (
            change.title,
            number_text(change.metric, change.baseline, "baseline" in change.unbounded),
            number_text(change.metric, change.measured, "measured" in change.unbounded),
            change_text(change),
            change.tolerance if change.gated else f"({change.tolerance})",
            change.verdict,
        )
        for change in (run.comparison.changes if run.comparison is not None else ())
    )


def _cost(cost: CostPart) -> Row:
    joules = cost.joules_per_output_token
    return (
        f"{format_usd(cost.price_per_hour)}/h",
        *cost_texts(cost).values(),
        "-" if cost.output_tokens_per_dollar is None else format_number(cost.output_tokens_per_dollar),
        "-" if cost.requests_per_gpu_hour is None else format_number(cost.requests_per_gpu_hour),
        "-" if joules is None else shown(METRICS["joules_per_token"], joules),
    )


def _client(client: ClientPart) -> tuple[Row, ...]:
    """The load generator's health: of its workers the worst of each."""
    workers = client.workers
    lateness = [worker.lateness_p99_s for worker in workers if worker.lateness_p99_s is not None]
    lag = [worker.loop_lag_p99_s for worker in workers if worker.loop_lag_p99_s is not None]
    cpu = [worker.cpu_share for worker in workers if worker.cpu_share is not None]
    rows = [("requests sent of planned", f"{client.sent_requests:,} of {client.planned_requests:,}")]
    rows += [("workers", str(client.started_workers if client.started_workers is not None else len(workers)))]
    rows += [("lateness p99, worst worker", format_duration(max(lateness)))] if lateness else []
    rows += [("event-loop lag p99, worst worker", format_duration(max(lag)))] if lag else []
    rows += [("CPU core, busiest worker", format_fraction(max(cpu)))] if cpu else []
    rows += [("looser than the default", ", ".join(client.loosened))] if client.loosened else []
    return tuple(rows)


def _server(server: ServerPart) -> tuple[Row, ...]:
    """What the server says of itself, where it does."""
    rows: list[Row] = []
    for name, title in _SERVER_TITLES.items():
        value = getattr(server, name)
        rows += [(title, format_number(value))] if value is not None else []
    for name, title in _SERVER_SHARES.items():
        value = getattr(server, name)
        rows += [(title, format_fraction(value))] if value is not None else []
    rows += [(f"{name} by the server", server_time_text(times)) for name, times in server.times.items()]
    return (*rows, *(("note", note) for note in server.notes))


def _configuration(run: RunDocument) -> tuple[Fold, ...]:
    """All that is needed to do it again."""
    known = run.configuration
    return (
        Fold("Run", _identity(run)),
        Fold("Engine", _engine(run, known)),
        Fold("Session settings", tuple(known.settings.items())),
        Fold("Environment", tuple(known.environment.items())),
        Fold("Packages", tuple(known.packages.items())),
        Fold("Manifests", tuple((str(i), text) for i, text in enumerate(known.manifests, 1))),
    )


def _identity(run: RunDocument) -> tuple[Row, ...]:
    known = run.configuration
    commit = [("commit", known.commit + (" with uncommitted changes" if known.dirty else ""))] if known.commit else []
    lengths = ((name, getattr(run.workload, name)) for name in ("input", "output"))
    return (
        ("run", run.run_id),
        ("test", run.node_id),
        ("started", run.timing.started_at),
        ("window", format_duration(run.timing.window_s)),
        ("load", run.profile),
        ("seed", str(run.seed)),
        ("requests", f"{run.counts.ok:,} ok, {run.counts.failed:,} failed, {run.counts.warmup:,} of the warm-up"),
        *(
            (f"{name} tokens", f"{each.distribution}, mean {each.mean}, {each.min} to {each.max or 'any'}")
            for name, each in lengths
        ),
        ("client", known.client_platform),
        *commit,
    )


def _engine(run: RunDocument, known: ConfigurationPart) -> tuple[Row, ...]:
    values = {
        "target": run.deployment.target + (f" ({SIMULATED})" if run.simulated else ""),
        "engine": run.deployment.engine,
        "version": known.engine_version,
        "arguments": " ".join(known.engine_arguments),
        "command": " ".join(run.deployment.command),
        "image": known.image,
        "image digest": known.image_digest,
        "accelerator": known.gpu,
        "driver": known.driver,
        "deployment": ", ".join(f"{phase.name} {format_duration(phase.seconds)}" for phase in run.deployment.phases),
    }
    return tuple((name, value) for name, value in values.items() if value)
