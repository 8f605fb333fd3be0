"""A saved session beside another one: every test's comparison, what is in one of them only, and what it all comes to."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_llmperf.report.comparison import cannot_tell, compare_sessions, regressed, title_of
from pytest_llmperf.report.comparison_table import comparison_table

if TYPE_CHECKING:
    from pytest_llmperf.judge.tolerance import Tolerance
    from pytest_llmperf.report.results_v2 import ComparisonPart, RunDocument
    from pytest_llmperf.report.saved import Saved

_WIDTH = 80


@dataclass(frozen=True)
class SessionComparison:
    """Two sessions side by side. ``left_out`` are runs of either that nothing was compared with, each with the reason."""

    baseline: str
    candidate: str
    parts: tuple[tuple[RunDocument, ComparisonPart], ...]
    left_out: tuple[str, ...]

    @property
    def regressed(self) -> bool:
        """Whether a gated metric is worse than it may be."""
        return any(regressed(part) for _, part in self.parts)

    @property
    def incomparable(self) -> bool:
        """Whether a test could not be compared, a gated metric is gone, or the sessions have nothing in common."""
        if any(cannot_tell(part) for _, part in self.parts):
            return True
        return all(part.verdict == "new" and not part.changes for _, part in self.parts)

    def text(self) -> str:
        """A table a test, and under them a line that sums up; at most 80 columns, but for a name that is longer."""
        blocks = ["\n".join((*_wrapped(title_of(run)), comparison_table(part, run.simulated))) for run, part in self.parts]
        return "\n\n".join((*blocks, "\n".join(self._conclusion())))

    def _conclusion(self) -> Iterator[str]:
        verdicts = Counter(part.verdict for _, part in self.parts)
        counted = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items()) or "no test in common"
        yield from _wrapped(f"{self.candidate} beside {self.baseline}: {counted}")
        for remark in self.left_out:
            yield from _wrapped(f"- {remark}")
        gated = any(change.gated for _, part in self.parts for change in part.changes)
        if verdicts["regressed"] and not gated:
            yield from _wrapped("- nothing was gated (--fail), so the exit status does not tell of what regressed")


def compare_saved(baseline: Saved, candidate: Saved, tolerances: Mapping[str, Tolerance]) -> SessionComparison:
    """Hold every test of ``candidate`` against ``baseline``; the metrics of ``tolerances`` are those that are gated.

    Raises ``ConfigError`` for a session that cannot be read.
    """
    now, before = candidate.document.runs, baseline.document.runs
    parts = compare_sessions(now, before, baseline.label, tolerances, set(tolerances))
    return SessionComparison(baseline.label, candidate.label, parts, tuple(_left_out(baseline, candidate, parts)))


def _left_out(baseline: Saved, candidate: Saved, parts: tuple[tuple[RunDocument, ComparisonPart], ...]) -> Iterator[str]:
    compared = {run_id for _, part in parts for run_id in part.runs}
    told = {title_of(run) for run, _ in parts}
    for saved in (baseline, candidate):
        labelled = sum(1 for run in saved.document.runs if run.label)
        if labelled:
            yield f"{labelled} runs of {saved.label} are parts of experiments (capacity, sweep, A/B) and are not compared"
    missing = dict.fromkeys(
        title_of(run)
        for run in baseline.document.runs
        if not run.label and run.run_id not in compared and title_of(run) not in told
    )
    yield from (f"only in {baseline.label}: {title}" for title in missing)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)
