"""Rows under headings: aligned, no wider than the terminal, and a name too long for its column on a line of its own."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

_STYLES = {"PASS": "green", "FAIL": "bold red", "INCONCLUSIVE": "yellow", "INVALID": "bold magenta", "SIMULATED": "cyan"}


@dataclass(frozen=True)
class Field:
    """A column: its heading and one cell a row; numbers stand at the right."""

    heading: str
    cells: tuple[str, ...]
    right: bool = False

    @property
    def width(self) -> int:
        """Characters that the widest cell or the heading takes."""
        return max(map(len, (self.heading, *self.cells)))

    def padded(self, text: str, width: int) -> str:
        """The text at its side of the column."""
        return text.rjust(width) if self.right else text.ljust(width)


def widest(fields: Sequence[Field], gap: int) -> int:
    """Characters that the fields take side by side."""
    return sum(field.width for field in fields) + gap * (len(fields) - 1)


def grid(before: Sequence[Field], name: Field, after: Sequence[Field], width: int) -> list[Text]:
    """A heading and the rows, no wider than ``width`` where names allow it.

    A name that does not fit stays in one piece: the fields after it follow on the next line; where there are none, the name does.
    """
    fields = (*before, name, *after)
    gap = 2 if widest(fields, 2) <= width else 1
    room = max(len(name.heading), width - widest((*before, *after), gap) - gap)
    fitting = [text for text in (name.heading, *name.cells) if len(text) <= room]
    room = max(map(len, fitting))

    def line(index: int | None, shown_name: str, *, with_rest: bool = True, with_before: bool = True) -> Text:
        parts = [_cell(field, index, with_before) for field in before]
        parts.append(shown_name.ljust(room))
        parts += [_cell(field, index, True) for field in after] if with_rest else []
        return plain((" " * gap).join(parts).rstrip())

    lines = [line(None, name.heading)]
    for index, text in enumerate(name.cells):
        if len(text) <= room:
            lines.append(line(index, text))
        elif after:
            lines += [line(index, text, with_rest=False), line(index, "", with_before=False)]
        else:
            lines += [line(index, ""), plain(" " * gap + text)]
    return lines


def _cell(field: Field, index: int | None, there: bool) -> str:
    text = field.heading if index is None else field.cells[index] if there else ""
    return field.padded(text, field.width)


def heading(title: str, simulated: bool, width: int) -> list[Text]:
    """A bold line over a block, marked where it is SIMULATED; on several lines only where it is longer than the terminal."""
    from rich.text import Text

    mark = " (SIMULATED)" if simulated else ""
    lines = textwrap.wrap(title + mark, width, subsequent_indent=" ", break_on_hyphens=False)
    return [Text(line, "bold", no_wrap=True, overflow="ignore") for line in lines]


def plain(line: str) -> Text:
    """A line as it is, never wrapped; verdicts and SIMULATED in their colours where there are any."""
    from rich.text import Text

    text = Text(line, no_wrap=True, overflow="ignore")
    for word, style in _STYLES.items():
        text.highlight_regex(rf"\b{word}\b", style)
    return text


def together(lines: Sequence[Text]) -> RenderableType:
    """Lines as one thing to print."""
    from rich.console import Group

    return Group(*lines)
