"""The runs of the test that is being run: on disk the moment they change, and at hand until its report takes them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_llmperf.errors import LlmperfError

if TYPE_CHECKING:
    from pytest_llmperf.load.records import RequestLog
    from pytest_llmperf.report.document import RunDocument
    from pytest_llmperf.report.results_v2 import ComparisonPart


@dataclass
class Recorder:
    """The runs of the test that is being run, newest state of each, on disk the moment it changes."""

    storage: Path
    runs: dict[str, RunDocument] = field(default_factory=dict)

    def keep(self, document: RunDocument, log: RequestLog | None = None, *, requests_csv: bool = False) -> None:
        """Write the run to the storage, with its requests where ``log`` has them, and remember it.

        Raises ``LlmperfError`` when the disk refuses; what it takes is written all the same.
        """
        from pytest_llmperf.report.run_files import write_beside
        from pytest_llmperf.report.storage import run_directory, write_run

        before = self.runs.get(document.run_id)
        if before is not None and document.comparison is None:
            # A run may be judged after it was compared: what was found then is still true.
            document = document.model_copy(update={"comparison": before.comparison})
        directory = run_directory(self.storage, document.run_id)
        document = self._remembered(document, directory)
        # What matters most is there before anything else is tried.
        write_run(self.storage, document)
        try:
            write_beside(directory, document, log, requests_csv=requests_csv)
        except BaseException:
            # It names what the disk refused. That the document is refused as well, which lies there already, says less.
            with suppress(LlmperfError):
                self._complete(document, directory)
            raise
        self._complete(document, directory)

    def _complete(self, document: RunDocument, directory: Path) -> None:
        """Name in the document what lies beside it by now, and nothing else."""
        from pytest_llmperf.report.storage import write_run

        if (complete := self._remembered(document, directory)) != document:
            write_run(self.storage, complete)

    def _remembered(self, document: RunDocument, directory: Path) -> RunDocument:
        """The document with the artifacts that there are."""
        from pytest_llmperf.report.storage import artifacts_in

        self.runs[document.run_id] = document.model_copy(update={"artifacts": artifacts_in(directory)})
        return self.runs[document.run_id]

    def compared(self, run_id: str, comparison: ComparisonPart) -> None:
        """Add to a run how it stands beside the baseline. Raises as ``keep``."""
        self.keep(self.runs[run_id].model_copy(update={"comparison": comparison}))

    def drain(self) -> Sequence[RunDocument]:
        """The runs since the last call."""
        runs = list(self.runs.values())
        self.runs.clear()
        return runs
