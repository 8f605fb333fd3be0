"""A run on one page, for a terminal of 80 columns: ``stats.txt``."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from pytest_llmperf.report.answers import bottleneck_name
from pytest_llmperf.report.client_health import client_lines
from pytest_llmperf.report.commit import short_commit
from pytest_llmperf.report.comparison import title_of
from pytest_llmperf.report.comparison_table import comparison_table
from pytest_llmperf.report.grid import Field, grid
from pytest_llmperf.report.part_text import (
    cost_texts,
    interval_of,
    interval_text,
    measured_text,
    price_text,
    server_time_text,
    value_text,
)
from pytest_llmperf.units import format_duration, format_fraction, format_number, format_rate

if TYPE_CHECKING:
    from pytest_llmperf.report.results_v2 import CostPart, RunDocument, ServerPart, WorkerPart

WIDTH = 80
_NAME = 12
_SIMULATED = "SIMULATED: no real server was measured"


def stats_text(document: RunDocument) -> str:
    """The whole of a run but its course over time, as plain text with a newline at its end."""
    blocks = (
        _head(document),
        _identity(document),
        _sla(document),
        _course(document),
        _comparison(document),
        _metrics(document),
    )
    return "\n\n".join("\n".join(lines) for block in blocks if (lines := list(block))) + "\n"


def _head(document: RunDocument) -> Iterator[str]:
    verdict = document.verdict or "not judged"
    sla = f" by SLA {document.sla.name} (policy {document.sla.policy}, gate {document.sla.gate})" if document.sla else ""
    yield from _wrapped(title_of(document))
    yield from _wrapped(f"{verdict}{sla}")
    if document.simulated:
        yield _SIMULATED


def _identity(document: RunDocument) -> Iterator[str]:
    timing, configuration = document.timing, document.configuration
    named = f" ({document.profile_name})" if document.profile_name else ""
    yield from _line("run", f"{document.run_id}, started {timing.started_at}")
    yield from _line("cell", document.cell.id)
    yield from _line("workload", f"{document.workload.name}: {document.workload.title}")
    yield from _line("load", f"{document.profile}{named} for {format_duration(timing.planned_s)}, seed {document.seed}")
    yield from _line("server", f"{document.deployment.engine}, target {document.deployment.target}")
    if configuration.gpu is not None:
        driver = f", driver {configuration.driver}" if configuration.driver else ""
        yield from _line("accelerator", configuration.gpu + driver)
    if commit := short_commit(configuration.commit, configuration.dirty):
        yield from _line("commit", commit)


def _metrics(document: RunDocument) -> Iterator[str]:
    parts = document.metrics
    yield from _table(
        Field("metric", tuple(part.title for part in parts.values())),
        Field("value", tuple(value_text(name, part) for name, part in parts.items()), right=True),
        Field("95 % interval", tuple(interval_of(name, part) for name, part in parts.items()), right=True),
        Field("samples", tuple(f"{part.samples:,}" for part in parts.values()), right=True),
    )


def _sla(document: RunDocument) -> Iterator[str]:
    if document.sla is None:
        return
    checks = document.sla.checks
    grades = tuple(check.grade or "" for check in checks)
    graded = [Field("grade", grades)] if any(grades) else []
    yield from _table(
        Field("SLA", tuple(f"{check.title} {check.required}" for check in checks)),
        Field("measured", tuple(map(measured_text, checks)), right=True),
        Field("95 % interval", tuple(map(interval_text, checks)), right=True),
        Field("verdict", tuple(check.outcome for check in checks)),
        *graded,
    )
    reasons = document.sla.reasons
    notes = [f"{each.title}: {each.note}" for each in checks if each.note and not any(each.note in reason for reason in reasons)]
    for remark in (*reasons, *notes):
        yield from _wrapped(f"- {remark}", "  ")


def _course(document: RunDocument) -> Iterator[str]:
    """What happened, beside what was measured of it."""
    timing, counts = document.timing, document.counts
    window = f"{format_duration(timing.window_s)} from {format_duration(document.counted_from_s)} after the start"
    yield from _line("window", window + (", interrupted" if timing.interrupted else ""))
    yield from _line(
        "requests",
        f"{counts.total:,}: {counts.ok:,} ok, {counts.failed:,} failed, {counts.cancelled:,} cancelled; "
        f"{counts.warmup:,} more of the warm-up, not counted",
    )
    for error, count in sorted(document.errors.items(), key=lambda item: -item[1]):
        yield from _line("", f"{count:,} x {error}")
    if document.stopped is not None:
        at, saved = format_duration(document.stopped.at_s), format_duration(document.stopped.saved_s)
        yield from _line("ended early", f"after {at}, {saved} saved: {document.stopped.reason}")
    yield from _line("steadiness", _steadiness(document))
    yield from _line("client", _client(document))
    yield from client_lines([document], WIDTH)
    if document.server is not None:
        yield from _line("server side", "; ".join(_server(document.server)))
        yield from _line("", "; ".join(f"{name} {server_time_text(times)}" for name, times in document.server.times.items()))
    if document.bottleneck is not None:
        yield from _line("bottleneck", f"{bottleneck_name(document.bottleneck)}: {document.bottleneck.evidence}")
    if document.cost is not None:
        yield from _line("cost", _cost(document, document.cost))


def _comparison(document: RunDocument) -> Iterator[str]:
    if document.comparison is not None:
        yield from comparison_table(document.comparison, document.simulated).splitlines()


def _steadiness(document: RunDocument) -> str:
    found = document.steadiness
    if found is None:
        return "unknown"
    longer = f"warm-up lengthened by {format_duration(found.extra_warmup_s)}" if found.extra_warmup_s > 0 else ""
    return "; ".join(filter(None, (found.unstable or "nothing speaks against a steady state", longer)))


def _client(document: RunDocument) -> str:
    client = document.client
    started = max(client.started_workers or 0, len(client.workers))
    said = [
        f"{started} {'worker' if started == 1 else 'workers'}",
        f"{started - len(client.workers)} of them lost" if started > len(client.workers) else "",
        f"sent {client.sent_requests:,} of {client.planned_requests:,} requests",
        _worst(client.workers, "lateness p99", lambda worker: worker.lateness_p99_s, format_duration),
        _worst(client.workers, "loop lag p99", lambda worker: worker.loop_lag_p99_s, format_duration),
        _worst(client.workers, "CPU", lambda worker: worker.cpu_share, format_fraction),
    ]
    if client.achieved is not None and client.achieved.mean_in_flight is not None:
        said.append(f"{format_number(client.achieved.mean_in_flight)} in flight on average")
    return ", ".join(filter(None, said))


def _server(part: ServerPart) -> Iterator[str]:
    pairs: Sequence[tuple[str, float | None, float | None, Callable[[float], str]]] = (
        ("running", part.running_mean, part.running_max, format_number),
        ("waiting", part.waiting_mean, part.waiting_max, format_number),
        ("KV cache", part.kv_cache_usage_mean, part.kv_cache_usage_max, format_fraction),
    )
    for name, mean, most, text in pairs:
        if mean is not None:
            yield f"{name} {text(mean)}" + (f" (most {text(most)})" if most is not None else "")
    if part.prefix_cache_hit_rate is not None:
        yield f"prefix-cache hits {format_fraction(part.prefix_cache_hit_rate)}"
    if part.preemptions is not None:
        yield f"{part.preemptions:,} preemptions"
    if part.prompt_tokens_per_s is not None:
        yield f"prompt tokens {format_rate(part.prompt_tokens_per_s)}"
    if part.generation_tokens_per_s is not None:
        yield f"generated tokens {format_rate(part.generation_tokens_per_s)}"
    if part.gpu_utilisation_mean is not None:
        yield f"GPU {format_fraction(part.gpu_utilisation_mean)} busy"
    if part.gpu_power_w is not None:
        yield f"{format_number(part.gpu_power_w)} W"


def _cost(document: RunDocument, part: CostPart) -> str:
    said = ", ".join(f"{name} {text}" for name, text in cost_texts(part).items() if text != "-")
    return price_text(document) + (f"; a million tokens: {said}" if said else "")


def _worst(
    workers: Iterable[WorkerPart], name: str, of: Callable[[WorkerPart], float | None], text: Callable[[float], str]
) -> str:
    known = [value for worker in workers if (value := of(worker)) is not None]
    return f"{name} {text(max(known))}" if known else ""


def _table(name: Field, *fields: Field) -> Iterator[str]:
    for line in grid((), name, fields, WIDTH):
        yield from _wrapped(line.plain, "    ") if len(line.plain) > WIDTH else (line.plain,)


def _line(name: str, text: str) -> Iterator[str]:
    """``name        text``, the text going on below itself; nothing where there is no text."""
    indent = " " * (_NAME + 1)
    if text:
        yield from textwrap.wrap(
            text, WIDTH, initial_indent=name.ljust(_NAME) + " ", subsequent_indent=indent, break_on_hyphens=False
        )


def _wrapped(text: str, indent: str = "  ") -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_on_hyphens=False)
