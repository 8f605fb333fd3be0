"""The one family of errors: what failed, where, the last state seen, and what to do next."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches


@dataclass(frozen=True)
class Where:
    """A place a user can open: a file, line (1-based) and key; or a command-line option."""

    file: str | None = None
    line: int | None = None
    key: str | None = None
    option: str | None = None

    def __str__(self) -> str:
        place = self.file or ""
        if self.file and self.line is not None:
            place += f":{self.line}"
        named = self.option or self.key
        if named:
            place = f"{place}: {named}" if place else named
        return place


class LlmperfError(Exception):
    """What failed, in one sentence; ``where`` it failed, and the ``hint``: what to do next."""

    def __init__(self, what: str, *, where: Where | None = None, hint: str | None = None) -> None:
        self.what = what
        self.where = where
        self.hint = hint
        super().__init__(what)

    def __str__(self) -> str:
        place = str(self.where) if self.where is not None else ""
        message = f"{place}: {self.what}" if place else self.what
        return f"{message}\n  {self.hint}" if self.hint else message


class ConfigError(LlmperfError):
    """Something the user wrote cannot be used: YAML, a marker, an option. Pytest's exit code 4."""


class DeployError(LlmperfError):
    """A deployment cannot become ready, or was lost. ``state`` is the last state seen, ``log_tail`` its last lines."""

    def __init__(
        self,
        what: str,
        *,
        where: Where | None = None,
        hint: str | None = None,
        state: str | None = None,
        log_tail: str = "",
    ) -> None:
        super().__init__(what, where=where, hint=hint)
        self.state = state
        self.log_tail = log_tail

    def __str__(self) -> str:
        parts = [super().__str__()]
        if self.state:
            parts.append(f"  last state: {self.state}")
        if self.log_tail:
            parts.append("  log tail:\n" + "\n".join(f"    {line}" for line in self.log_tail.splitlines()))
        return "\n".join(parts)


class LoadError(LlmperfError):
    """The load generator itself could not do its work (a worker died, a plan cannot be driven)."""


class UnitError(ValueError):
    """A quantity that cannot be read. A ``ValueError``, so that whoever knows the place can add it."""


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """The choice a typo most likely meant, or None where nothing is close."""
    known = sorted(choices)
    close = get_close_matches(name, known, n=1, cutoff=0.5) or get_close_matches(
        name.lower(), [c.lower() for c in known], n=1, cutoff=0.5
    )
    return next((c for c in known if c == close[0] or c.lower() == close[0]), None) if close else None


def unknown(kind: str, name: str, choices: Iterable[str], where: Where | None = None) -> ConfigError:
    """The error for a name that does not exist: names the nearest valid one and, shortly, the rest."""
    known = sorted(choices)
    close = nearest(name, known)
    meant = f"Did you mean {close!r}? " if close else ""
    listed = ", ".join(known) if known else "none"
    return ConfigError(f"unknown {kind} {name!r}", where=where, hint=f"{meant}Known: {listed}.")
