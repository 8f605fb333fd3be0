"""The runs of the test that is being run: on disk the moment they change, and at hand until its report takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_llmperf.report.document import RunDocument
    from pytest_llmperf.report.results_v2 import ComparisonPart


@dataclass
class Recorder:
    """The runs of the test that is being run, newest state of each, on disk the moment it changes."""

    storage: Path
    runs: dict[str, RunDocument] = field(default_factory=dict)

    def keep(self, document: RunDocument) -> None:
        """Write the run to the storage and remember it. Raises ``LlmperfError`` when the disk refuses."""
        from pytest_llmperf.report.storage import write_run

        before = self.runs.get(document.run_id)
        if before is not None and document.comparison is None:
            # A run may be judged after it was compared: what was found then is still true.
            document = document.model_copy(update={"comparison": before.comparison})
        self.runs[document.run_id] = document
        write_run(self.storage, document)

    def compared(self, run_id: str, comparison: ComparisonPart) -> None:
        """Add to a run how it stands beside the baseline. Raises as ``keep``."""
        self.keep(self.runs[run_id].model_copy(update={"comparison": comparison}))

    def drain(self) -> Sequence[RunDocument]:
        """The runs since the last call."""
        runs = list(self.runs.values())
        self.runs.clear()
        return runs
