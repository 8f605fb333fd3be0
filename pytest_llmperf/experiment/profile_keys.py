"""Which keys a named load profile may have, and the profile that they say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import ConfigDict

from pytest_llmperf.experiment.profile import Concurrency, Constant, Gamma, LoadProfile, Poisson
from pytest_llmperf.experiment.quantities import PerSecond, Seconds
from pytest_llmperf.experiment.stages import EVEN, POISSON, Bursts, RateStages, Stage, UserStages
from pytest_llmperf.units import format_duration

if TYPE_CHECKING:
    from pytest_llmperf.experiment.records import NamedProfile

ProfileArrivals = Literal["constant", "poisson", "gamma", "bursts", "concurrency"]

_NEEDED: Mapping[ProfileArrivals, tuple[str, ...]] = {
    "constant": ("rate",),
    "poisson": ("rate",),
    "gamma": ("rate", "burstiness"),
    "bursts": ("size", "every"),
    "concurrency": ("users",),
}
_OPTIONAL: Mapping[ProfileArrivals, tuple[str, ...]] = {"concurrency": ("think_time", "think_distribution", "ramp")}
_OF_ALL = ("name", "arrivals", "duration", "hardware")
_ROUNDING = 1e-9


@dataclass(frozen=True)
class ProfileStage:
    """A stage: at ``rate`` for ``duration``, or evenly from it to ``to_rate``; ``users`` and ``to_users`` in a closed loop."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    duration: Seconds
    rate: PerSecond | None = None
    to_rate: PerSecond | None = None
    users: int | None = None
    to_users: int | None = None

    def __post_init__(self) -> None:
        if not self.duration > 0:
            raise ValueError("'duration' must be more than 0")
        if (self.rate is None) == (self.users is None):
            raise ValueError("a stage has either a 'rate' or 'users'")
        if (self.to_rate is not None and self.rate is None) or (self.to_users is not None and self.users is None):
            raise ValueError("'to_rate' goes with 'rate', 'to_users' with 'users'")
        if min(self.users or 0, self.to_users or 0) < 0:
            raise ValueError("'users' and 'to_users' must be 0 or more")

    @property
    def stage(self) -> Stage:
        """What the load engine drives."""
        if self.rate is not None:
            return Stage(self.duration, self.rate, self.rate if self.to_rate is None else self.to_rate, "rate")
        users = self.users or 0
        return Stage(self.duration, users, users if self.to_users is None else self.to_users, "users")


def check_keys(profile: NamedProfile) -> None:
    """Whether a profile has the keys that its arrivals need, and no others. Raises ``ValueError``."""
    kind = f"{profile.arrivals} arrivals"
    needed, allowed = _NEEDED[profile.arrivals], {*_OF_ALL, *_OPTIONAL.get(profile.arrivals, ())}
    if profile.stages:
        level, kind = needed[0], f"{kind} with 'stages'"
        _check_stages(profile, level)
        needed, allowed = needed[1:], {*allowed, "stages", "repeat"} - {"ramp"}
    for key in needed:
        if not (getattr(profile, key) and getattr(profile, key) > 0):
            raise ValueError(f"{kind} need {key!r}, more than 0")
    for each in fields(profile):
        default = each.default_factory() if each.default_factory is not MISSING else each.default
        if each.name not in {*needed, *allowed} and getattr(profile, each.name) != default:
            raise ValueError(f"{kind} have no {each.name!r}")
    if profile.think_distribution != "fixed" and not profile.think_time:
        raise ValueError("'think_distribution' needs a 'think_time'")
    _check_duration(profile, kind)


def _check_stages(profile: NamedProfile, level: str) -> None:
    if level not in {"rate", "users"}:
        raise ValueError(f"{profile.arrivals} arrivals have no 'stages'")
    for number, stage in enumerate(profile.stages):
        if getattr(stage, level) is None:
            raise ValueError(f"stages of {profile.arrivals} arrivals have a {level!r}, and stages[{number}] has none")
    if all(stage.stage.is_empty for stage in profile.stages):
        raise ValueError("no stage makes a request")


def _check_duration(profile: NamedProfile, kind: str) -> None:
    if profile.duration is None:
        if not profile.stages or profile.repeat:
            raise ValueError(f"{kind}{' that repeat' if profile.repeat else ''} need 'duration', more than 0")
        return
    if not profile.duration > 0:
        raise ValueError("'duration' must be more than 0")
    length_s = sum(stage.duration for stage in profile.stages)
    if profile.stages and not profile.repeat and profile.duration > length_s * (1 + _ROUNDING):
        lengths = f"{format_duration(profile.duration)} is longer than the stages, which last {format_duration(length_s)}"
        raise ValueError(f"'duration' {lengths}; leave it out, or add 'repeat: true'")


def driven_profile(profile: NamedProfile) -> LoadProfile:
    """What the load engine drives, of a profile whose keys are checked."""
    stages = tuple(stage.stage for stage in profile.stages)
    if profile.arrivals == "concurrency":
        think_s, distribution = profile.think_time, profile.think_distribution
        closed = Concurrency(profile.users or 0, think_s, profile.ramp, distribution)
        return UserStages(stages, think_s, distribution, profile.repeat) if stages else closed
    if profile.arrivals == "bursts":
        return Bursts(profile.size or 0, profile.every or 0.0)
    rate, burstiness = profile.rate or 0.0, profile.burstiness or POISSON
    if stages:
        return RateStages(stages, EVEN if profile.arrivals == "constant" else burstiness, profile.repeat)
    if profile.arrivals == "gamma":
        return Gamma(rate, burstiness)
    return Constant(rate) if profile.arrivals == "constant" else Poisson(rate)
