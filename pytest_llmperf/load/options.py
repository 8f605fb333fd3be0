"""What a caller may say about how a load is driven, and hears while it is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LoadOptions:
    """How to drive a plan. A request's total time is bounded by the workload's ``timeout``, from the moment it was begun."""

    workers: int | None = 1
    """Processes; None: as many as the plan asks for (``load.crew_size``). The plan is the same whatever their number."""
    cores: int | None = None
    """The most that ``workers`` None may take; None: all that this process may use."""
    connect_timeout_s: float = 5.0
    first_token_timeout_s: float | None = None
    """The longest wait for the first token after the request was sent (of an answer in one piece: for its first byte of body);
    None leaves that to the total timeout."""
    idle_timeout_s: float | None = None
    """The longest silence between two reads of a body; None leaves that to the total timeout."""
    drain_timeout_s: float | None = None
    """How long requests in flight at the window's end are awaited (they are finished and counted); those left then are
    cancelled. None awaits each to its own timeout."""
    failure_pause_s: float = 0.1
    """The least a closed-loop user waits after a request that failed."""
    look_every_s: float = 1.0
    """How often whoever watches the load hears what is seen of it; nothing is looked at while nobody does."""
    content_seed: int | None = None
    """Of which tokens prompts are made; when and how much is asked comes from the plan's seed alone. None: tokens that no
    earlier run has asked, so that a server that outlives a run does not find this one's prompts in its prefix cache."""


@dataclass(frozen=True)
class LoadProgress:
    """How far a load is. ``duration_s`` includes the warm-up; None for a closed loop that ends by count."""

    elapsed_s: float
    duration_s: float | None
    warming_up: bool
    in_flight: int
    finished: int
    failed: int
    output_tokens: int
    """Reads so far: about one a streamed token."""
