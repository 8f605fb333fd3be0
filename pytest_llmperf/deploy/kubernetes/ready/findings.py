"""What looking at a deployment comes to: it waits for something, or it cannot become ready, and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from pytest_llmperf.deploy.kubernetes.ready.seen import Event, LogOf

QUOTED = 3
"""How many events an error quotes; the evidence has all."""
LONGEST = 400
"""Characters of somebody else's message that are quoted."""


class Stage(IntEnum):
    """How far a pod has come. The least advanced pod is the one that is told of."""

    ABSENT = 0
    HELD = 1
    """Nothing has it on a node yet, and it may take long."""
    PLACED = 2
    PULLING = 3
    PREPARING = 4
    """Its init containers run."""
    STARTING = 5
    RUNNING = 6
    READY = 7


@dataclass(frozen=True)
class Diagnosis:
    """Why a deployment cannot become ready: one sentence, facts, and what to do."""

    cause: str
    hint: str
    details: tuple[str, ...] = ()
    events: tuple[Event, ...] = ()
    log: LogOf | None = None
    """Whose last lines say more."""

    @property
    def text(self) -> str:
        """The cause, and below it a line for each fact."""
        quoted = [f"event: {shortened(str(one))}" for one in self.events if not any(one.message in it for it in self.details)]
        return "\n".join([self.cause, *(f"  {line}" for line in (*self.details, *quoted[-QUOTED:]))])


@dataclass(frozen=True)
class Patience:
    """How long a state may last: after so many ``seconds`` without a break it is what ``then`` says."""

    state: str
    seconds: float
    then: Diagnosis


@dataclass(frozen=True)
class Waiting:
    """A deployment, or a pod of it, that may become ready."""

    text: str
    stage: Stage
    patience: tuple[Patience, ...] = ()
    queue: bool = False
    """Whether it waits for what others use."""
    log: LogOf | None = None
    """A log that may tell that waiting is in vain."""


def shortened(text: str, longest: int = LONGEST) -> str:
    """Somebody else's message in one line, not longer than anybody reads."""
    line = " ".join(text.split())
    return line if len(line) <= longest else f"{line[:longest].rstrip()}…"


def warnings(events: Iterable[Event]) -> tuple[Event, ...]:
    """The last warnings: of each reason what was said of an object last."""
    last: dict[tuple[str, str, str], Event] = {}
    for one in events:
        if one.is_warning:
            last.pop((one.kind, one.name, one.reason), None)
            last[one.kind, one.name, one.reason] = one
    return tuple(last.values())[-QUOTED:]
