"""The study's numbers as Markdown tables, and their place in a page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from pytest_llmperf.judge.verdict import Outcome
from tests.montecarlo.overload import Watched
from tests.montecarlo.pairs import Sessions
from tests.montecarlo.policies import POLICIES
from tests.montecarlo.rates import RATIOS, Row, Tally


def worst_table(rows: Sequence[Row]) -> str:
    """Per ratio and policy: the most errors that any system and metric had, the share that was decided rightly, the seconds."""
    head = ["true / limit", "truth", *POLICIES]
    return _markdown(
        head, [[f"{ratio:g}", _truth(ratio), *(_worst(rows, ratio, policy) for policy in POLICIES)] for ratio in RATIOS]
    )


def _truth(ratio: float) -> str:
    return "boundary" if ratio == 1 else "PASS" if ratio < 1 else "FAIL"


def _worst(rows: Sequence[Row], ratio: float, policy: str) -> str:
    """``3.0 % FAIL · 71 % right · 412 s``; at the boundary both verdicts are errors, and neither is right."""
    cells = [row for row in rows if row.ratio == ratio]
    tallies = [row.tallies[policy] for row in cells]
    errors = []
    for outcome in (Outcome.PASS, Outcome.FAIL):
        wrong = [row.wrong(policy, outcome) for row in cells]
        if None not in wrong:
            share = max(count / tally.runs for count, tally in zip(wrong, tallies, strict=True) if count is not None)
            errors.append(f"{100 * share:.1f} % {outcome}")
    parts = [" / ".join(errors)]
    if ratio != 1:
        right = sum(tally.passed if ratio < 1 else tally.failed for tally in tallies) / sum(tally.runs for tally in tallies)
        parts.append(f"{100 * right:.0f} % right")
    return " · ".join([*parts, f"{sum(tally.mean_s for tally in tallies) / len(tallies):.0f} s"])


def full_tables(rows: Iterable[Row]) -> str:
    """One table a system: each metric and ratio, judged by each policy."""
    return "\n\n".join(_system_table(list(of)) for _, of in groupby(rows, key=lambda row: row.system))


def _system_table(rows: Sequence[Row]) -> str:
    system = rows[0].system
    lines = [
        [str(row.question), f"{1000 * row.true_s:.1f} ms", f"{row.ratio:g}", *(_cell(row.tallies[policy]) for policy in POLICIES)]
        for row in rows
    ]
    title = f"**{system}** ({system.rate_per_s:.1f} requests/s, {rows[0].tallies['certain'].runs} runs)"
    return f"{title}\n\n{_markdown(['metric', 'true', 'true / limit', *POLICIES], lines)}"


def _cell(tally: Tally) -> str:
    """``97/0/3 (412 s)``."""
    percent = [100 * count / tally.runs for count in (tally.passed, tally.failed)]
    return f"{percent[0]:.1f}/{percent[1]:.1f}/{100 - sum(percent):.1f} ({tally.mean_s:.0f} s)".replace(".0/", "/").replace(
        ".0 (", " ("
    )


def overload_table(watched: Iterable[Watched]) -> str:
    """How often, and after how many seconds of load, a load failed and was called unstable."""
    head = ["server", "utilisation", "loads", "FAIL", "median", "backlog grows", "median"]
    return _markdown(
        head,
        [
            [
                seen.system.name,
                f"{seen.system.utilisation:g}",
                f"{seen.loads} x {seen.duration_s:.0f} s",
                _share(seen.failed, seen.loads),
                _seconds(seen.median_failed_s),
                _share(seen.unstable, seen.loads),
                _seconds(seen.median_unstable_s),
            ]
            for seen in watched
        ],
    )


def pairs_table(compared: Iterable[Sessions]) -> str:
    """How A/B sessions ended, beside a test that pools their requests."""
    head = [
        "B's step times",
        "B's TPOT p95",
        "sessions",
        "PASS",
        "FAIL",
        "mean pairs",
        "mean load",
        "Mann-Whitney, pooled: slower",
    ]
    return _markdown(
        head,
        [
            [
                f"x {each.slowdown:g}",
                f"{100 * each.effect:+.1f} %",
                str(each.sessions),
                _share(each.passed, each.sessions),
                _share(each.failed, each.sessions),
                f"{each.mean_pairs:.1f}",
                f"{each.mean_load_s:.0f} s",
                _share(each.pooled_alarms, each.sessions),
            ]
            for each in compared
        ],
    )


def _share(count: int, of: int) -> str:
    return f"{100 * count / of:.1f} %"


def _seconds(seconds: float) -> str:
    return "" if math.isnan(seconds) else f"{seconds:.0f} s"


def _markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rule = ["---"] * len(head)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *lines))


def write_between(page: Path, name: str, text: str) -> None:
    """Put ``text`` between ``<!-- name -->`` and ``<!-- end of name -->`` of the page. Raises ``ValueError`` without them."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, found, rest = page.read_text().partition(begin)
    _, found_end, after = rest.partition(end)
    if not found or not found_end:
        raise ValueError(f"{page} has no place for {name!r}")
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}")
