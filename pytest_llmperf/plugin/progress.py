"""Live progress while deploying and loading: one changing line on a terminal, plain lines elsewhere (CI, a file)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from time import monotonic
from typing import IO, TYPE_CHECKING, Any, cast

from pytest_llmperf.units import format_duration, format_number

if TYPE_CHECKING:
    import pytest

    from pytest_llmperf.experiment.records import Cell
    from pytest_llmperf.load.engine import LoadProgress


class ProgressLine:
    """Writes through pytest's terminal reporter, past the capture. Without a reporter it says nothing."""

    def __init__(self, reporter: Any, capture: Any, width: int, simulated: bool) -> None:
        self._reporter = reporter
        self._uncaptured = capture.global_and_fixture_disabled if capture is not None else nullcontext
        self._width = width
        self.simulated = simulated
        """Set anew when a deployment has said what it is: an endpoint may be a simulator too."""
        self._live: bool = reporter is not None and bool(getattr(reporter, "isatty", False))

    @property
    def _mark(self) -> str:
        return " SIMULATED" if self.simulated else ""

    @contextmanager
    def deploying(self, cell: Cell) -> Iterator[Callable[[str], None]]:
        """Shows the deployment's state while it comes up; the value takes each new state."""
        started = monotonic()
        with self._status() as show:
            show(f"{cell.id}: deploying")
            yield lambda state: show(f"{cell.id}: {state}")
        self._line(f"{cell.id}: ready after {format_duration(monotonic() - started)}{self._mark}")

    @contextmanager
    def loading(self, what: str) -> Iterator[Callable[[LoadProgress], None]]:
        """Shows how far a load is; the value takes each report of the engine."""
        started = monotonic()
        with self._status() as show:

            def report(progress: LoadProgress) -> None:
                share = f"/{format_duration(progress.duration_s)}" if progress.duration_s else ""
                failed = f", {progress.failed} failed" if progress.failed else ""
                # What is loaded comes last: in a narrow terminal it may be cut, and the lines above have named it.
                show(
                    f"{format_duration(progress.elapsed_s)}{share}, {progress.in_flight} in flight, "
                    f"{format_number(progress.finished)} done{failed}{self._mark}: {what}"
                )

            yield report
        self._line(f"{what}: loaded for {format_duration(monotonic() - started)}{self._mark}")

    @contextmanager
    def ending(self, cell: Cell, at_most_s: float) -> Iterator[None]:
        """Says that a deployment's end is waited for, and how long that may take: whoever pressed Ctrl-C need not do it again."""
        said = f"{cell.id}: ending the engine (up to {format_duration(at_most_s)})"
        if not self._live:
            self._line(said)
        with self._status() as show:
            show(said)
            yield

    def note(self, text: str) -> None:
        """A line of its own, in full."""
        self._line(text)

    @contextmanager
    def _status(self) -> Iterator[Callable[[str], None]]:
        if not self._live:
            yield _say_nothing
            return
        from rich.console import Console
        from rich.status import Status

        console = Console(file=cast("IO[str]", _TerminalFile(self._reporter)), force_terminal=True, width=self._width)
        with self._uncaptured():
            self._reporter.ensure_newline()
            with Status("", console=console) as status:
                yield lambda text: status.update(_shortened(text, self._width - 4))

    def _line(self, text: str) -> None:
        # Also where a changing line was: pytest counts the columns written, and a line of our own starts the count anew.
        if self._reporter is not None:
            with self._uncaptured():
                self._reporter.ensure_newline()
                self._reporter.write_line(f"  {text}")
                self._reporter.flush()  # in a CI's log, which is no terminal, it would be seen when all is over


class _TerminalFile:
    """The file rich writes to: pytest's own terminal, which the capture does not swallow."""

    def __init__(self, reporter: Any) -> None:
        self._reporter = reporter

    def write(self, text: str) -> int:
        self._reporter.write(text, flush=True)
        return len(text)

    def flush(self) -> None:
        """Every write is flushed."""

    def isatty(self) -> bool:
        return True


def _say_nothing(_: str) -> None:
    """Where there is no terminal, states pass unseen."""


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def progress_line(config: pytest.Config, simulated: bool) -> ProgressLine:
    """The session's progress line; silent with ``-q``, without a terminal, and in xdist's workers."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(config, "workerinput") or config.get_verbosity() < 0:
        return ProgressLine(None, None, 0, simulated)
    capture = config.pluginmanager.get_plugin("capturemanager")
    return ProgressLine(reporter, capture, config.get_terminal_writer().fullwidth, simulated)
