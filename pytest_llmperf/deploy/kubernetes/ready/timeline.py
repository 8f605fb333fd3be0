"""How long each stretch of the way to ready pods took, by when its end was heard of: a pod's own times have whole seconds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pytest_llmperf.deploy.base import Phase
from pytest_llmperf.deploy.kubernetes.ready.engine_log import weights_load_s
from pytest_llmperf.deploy.kubernetes.ready.pods import Pod
from pytest_llmperf.deploy.kubernetes.ready.seen import Event
from pytest_llmperf.errors import UnitError
from pytest_llmperf.units import parse_duration

_PULLED = re.compile(r"^Successfully pulled image .* in (\S+)")


@dataclass
class Timeline:
    """When the engine's pods were seen to have come how far; monotonic seconds. All pods count: the last one's time."""

    began: float
    scheduled: float | None = None
    init_began: float | None = None
    init_ended: float | None = None
    started: float | None = None
    _pulls_s: dict[tuple[str, str, str], float] = field(default_factory=dict)
    _downloads: bool = False

    def saw(self, pods: Sequence[Pod], engine: str, events: Iterable[Event], at: float) -> None:
        """The pods, whose container ``engine`` is, are so ``at`` this time."""
        if not pods or not all(pod.node for pod in pods):
            # Whatever had been reached is lost with the pod that is gone.
            self.scheduled = self.init_began = self.init_ended = self.started = None
            self._pulls_s.clear()
            return
        self.scheduled = self.scheduled or at
        inits = [one for pod in pods for one in pod.containers if one.is_init]
        if any(one.is_running or one.ended for one in inits):
            self.init_began = self.init_began or at
            self._downloads = any(one.brings_weights for one in inits)
        if inits and all(one.ended is not None and one.ended.exit_code == 0 for one in inits):
            self.init_ended = self.init_ended or at
        if all((one := pod.container(engine)) is not None and (one.is_running or one.exits) for pod in pods):
            self.started = self.started or at
        names = {pod.name for pod in pods}
        self._pulls_s.update(pulls_s(event for event in events if event.kind == "Pod" and event.name in names))

    def phases(self, ready: float, log: str = "") -> tuple[Phase, ...]:
        """The stretches from the beginning to ``ready``; together they are as long as that, and none is negative."""
        scheduled = min(self.scheduled or ready, ready)
        started = max(min(self.started or ready, ready), scheduled)
        pull_s = min(self._pull_s(), started - scheduled)
        init_s = 0.0
        if self.init_began is not None:
            init_s = min(max((self.init_ended or started) - self.init_began, 0.0), started - scheduled - pull_s)
        load_s = min(weights_load_s(log) or 0.0, ready - started)
        found = (
            Phase("scheduled", scheduled - self.began),
            Phase("image pulled", pull_s),
            Phase("weights downloaded" if self._downloads else "prepared", init_s),
            Phase("started", started - scheduled - pull_s - init_s),
            Phase("weights loaded", load_s),
            Phase("ready", ready - started - load_s),
        )
        return tuple(phase for phase in found if phase.seconds > 0)

    def _pull_s(self) -> float:
        """Of the pod that pulled longest."""
        pods = {pod for pod, _, _ in self._pulls_s}
        return max((sum(s for (name, _, _), s in self._pulls_s.items() if name == pod) for pod in pods), default=0.0)


def pulls_s(events: Iterable[Event]) -> dict[tuple[str, str, str], float]:
    """The seconds of each pull of an image that events tell of, by pod, container and message."""
    found = {}
    for event in events:
        match = _PULLED.match(event.message) if event.reason == "Pulled" else None
        if match is None:
            continue
        try:
            found[event.name, event.container, event.message] = parse_duration(match[1])
        except UnitError:
            continue  # a form of its own: then that time counts as the container's
    return found
