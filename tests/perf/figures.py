"""What the benchmarks measured, beside what it must reach: one table for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Figure:
    """One row. ``met`` is None where nothing is asked of it."""

    name: str
    measured: str
    target: str = ""
    met: bool | None = None

    @property
    def verdict(self) -> str:
        """How it stands to its target."""
        return "" if self.met is None else "met" if self.met else "MISSED"


@dataclass
class Table:
    """The figures of one session, in the order in which they were measured."""

    title: str
    figures: list[Figure] = field(default_factory=list)

    def add(self, name: str, measured: str, target: str = "", met: bool | None = None) -> None:
        """One more row."""
        self.figures.append(Figure(name, measured, target, met))

    def text(self) -> str:
        """As a table in Markdown, aligned."""
        rows = [("figure", "measured", "must reach", "")]
        rows += [(each.name, each.measured, each.target, each.verdict) for each in self.figures]
        return aligned(rows)


def aligned(rows: Sequence[tuple[str, ...]]) -> str:
    """Rows of equal length, the first of them the heads, as a table in Markdown."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows]
    lines.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    return "\n".join(lines)


def best_of(values: list[float], unit: str, scale: float) -> str:
    """``4.2 µs (4.2, 4.4, 5.1)``: the least and every run's, since a neighbour on the machine only ever adds."""
    shown = [f"{value * scale:.3g}" for value in values]
    alone = f"{min(values) * scale:.3g} {unit}"
    return alone if len(values) == 1 else f"{alone} ({', '.join(shown)})"
