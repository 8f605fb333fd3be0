"""Live progress while deploying and loading: one changing line on a terminal, plain lines elsewhere (CI, a file).

xdist's workers have no terminal: their plain lines are relayed to the controller, which writes them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from threading import Event, Thread
from time import monotonic
from typing import IO, TYPE_CHECKING, Any, cast

import pytest

from pytest_llmperf.deploy.base import say_nothing
from pytest_llmperf.errors import DeployError
from pytest_llmperf.plugin.relay import Relay, RelayReporter
from pytest_llmperf.units import format_duration, format_number

if TYPE_CHECKING:
    from pytest_llmperf.deploy.base import Phase
    from pytest_llmperf.experiment.records import Cell
    from pytest_llmperf.load.engine import LoadProgress

RELAY = pytest.StashKey[Relay]()
RELAY_ADDRESS = "llmperf_relay"
"""In a worker's input: where its lines are heard."""
LASTING_S = 5.0
"""Where there is no changing line, a state that goes on for so long gets one of its own."""
_LOOK_S = 0.5


class Showing:
    """A deployment as it comes up: called with each new state, told its phases where these are to be seen."""

    def __init__(self, cell_id: str, show: Callable[[str], None]) -> None:
        self._cell_id = cell_id
        self._show = show
        self.phases: tuple[Phase, ...] = ()

    def __call__(self, state: str) -> None:
        self._show(f"{self._cell_id}: {state}")


class ProgressLine:
    """Writes through pytest's terminal reporter, past the capture. Without a reporter it says nothing."""

    def __init__(self, reporter: Any, capture: Any, width: int, simulated: bool, writer: Any = None) -> None:
        """``writer`` is the terminal writer of the reporter; None where that has none."""
        self._reporter = reporter
        self._writer = writer
        self._uncaptured = capture.global_and_fixture_disabled if capture is not None else nullcontext
        self._width = width
        self.simulated = simulated
        """Set anew when a deployment has said what it is: an endpoint may be a simulator too."""
        self._live: bool = reporter is not None and bool(getattr(reporter, "isatty", False))
        self._first_requests: set[float] = set()

    @property
    def is_silent(self) -> bool:
        """Whether nobody reads what it says."""
        return self._reporter is None

    @property
    def _mark(self) -> str:
        return " SIMULATED" if self.simulated else ""

    @contextmanager
    def deploying(self, cell: Cell) -> Iterator[Showing]:
        """Shows the deployment's state while it comes up; the value takes each new state."""
        started = monotonic()
        try:
            with self._lasting() as show:
                showing = Showing(cell.id, show)
                showing("deploying")
                yield showing
        except DeployError as error:
            took, (what, *_) = format_duration(monotonic() - started), error.what.splitlines()
            self._line(f"{cell.id}: not deployed after {took}: {what.removeprefix(f'{cell.id}: ')}")
            raise
        self._line(f"{cell.id}: ready after {format_duration(monotonic() - started)}{self._mark}")
        if showing.phases:
            self._line(f"{cell.id}: {', '.join(f'{phase.name} {format_duration(phase.seconds)}' for phase in showing.phases)}")

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

    @contextmanager
    def removing(self, what: str) -> Iterator[None]:
        """Says that what was deployed is being removed, where that takes longer than a moment."""
        with self._lasting() as show:
            show(f"{what}: removing it from the cluster")
            yield

    def first_request(self, what: str, pods_ready_at: float, started_at: float) -> None:
        """Says once how long after its pods were ready a deployment was first asked for more than whether it answers."""
        if pods_ready_at not in self._first_requests:
            self._first_requests.add(pods_ready_at)
            self._line(f"{what}: first request {format_duration(started_at - pods_ready_at)} after the pods were ready")

    def note(self, text: str) -> None:
        """A line of its own, in full."""
        self._line(text)

    @contextmanager
    def _status(self) -> Iterator[Callable[[str], None]]:
        if not self._live:
            yield say_nothing
            return
        from rich.console import Console
        from rich.status import Status

        console = Console(file=cast("IO[str]", _TerminalFile(self._reporter)), force_terminal=True, width=self._width)
        with self._uncaptured():
            self._begin_line()
            with Status("", console=console) as status:
                yield lambda text: status.update(_shortened(text, self._width - 4))

    @contextmanager
    def _lasting(self) -> Iterator[Callable[[str], None]]:
        """The changing line; where there is none, a plain one for each state that lasts."""
        if self._live or self._reporter is None:
            with self._status() as show:
                yield show
            return
        with _Lasting(self._line) as show:
            yield show

    def _line(self, text: str) -> None:
        # Also where a changing line was: pytest counts the columns written, and a line of our own starts the count anew.
        if self._reporter is not None:
            with self._uncaptured():
                self._begin_line()
                self._reporter.write_line(f"  {text}")
                self._reporter.flush()  # in a CI's log, which is no terminal, it would be seen when all is over

    def _begin_line(self) -> None:
        self._reporter.ensure_newline()
        # That knows only of a line which began with a test file's name: not of the dots behind a line of ours, nor of xdist's.
        # Where a changing line was, the count is below 0, and the line empty.
        if self._writer is not None and self._writer.width_of_current_line > 0:
            self._writer.line()


class _Lasting:
    """Tells each state once that has lasted ``LASTING_S``. States that differ only in numbers are one."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._state = ("", "")
        self._since_s = monotonic()
        self._over = Event()
        self._thread = Thread(target=self._look, name="llmperf-progress", daemon=True)

    def __enter__(self) -> _Lasting:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def __call__(self, state: str) -> None:
        kind = re.sub(r"\d+", "", state)
        if kind != self._state[0]:
            self._since_s = monotonic()
        self._state = (kind, state)

    def _look(self) -> None:
        told = ""
        while not self._over.wait(_LOOK_S):
            kind, state = self._state
            if kind != told and monotonic() - self._since_s >= LASTING_S:
                told = kind
                self._say(state)


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


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def progress_line(config: pytest.Config, simulated: bool) -> ProgressLine:
    """The session's progress line; silent with ``-q`` and without a terminal. xdist's workers speak through the controller."""
    address = getattr(config, "workerinput", {}).get(RELAY_ADDRESS)
    if address is not None:
        return ProgressLine(RelayReporter(address), None, 0, simulated)
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(config, "workerinput") or config.get_verbosity() < 0:
        return ProgressLine(None, None, 0, simulated)
    capture = config.pluginmanager.get_plugin("capturemanager")
    writer = config.get_terminal_writer()
    return ProgressLine(reporter, capture, writer.fullwidth, simulated, writer)


def relay_to(node: Any) -> None:
    """In the controller: have a worker's lines heard, where anybody reads them."""
    config = node.config
    if RELAY not in config.stash and not (line := progress_line(config, simulated=False)).is_silent:
        config.stash[RELAY] = relay = Relay(line.note)
        config.add_cleanup(relay.close)
    node.workerinput[RELAY_ADDRESS] = config.stash[RELAY].address if RELAY in config.stash else None


def end_relay(config: pytest.Config) -> None:
    """In the controller, its workers gone: say what they have said until now."""
    if RELAY in config.stash:
        config.stash[RELAY].close()
