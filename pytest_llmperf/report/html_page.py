"""What our HTML attachments share: a page of its own that reads on light and dark, and how values stand in it, escaped."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llmperf.report.results_v2 import OutcomeName

SIMULATED = "SIMULATED"
_STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1f2328; --line: #d1d9e0; --soft: #59636e;
  --PASS: #1a7f37; --FAIL: #c9302c; --INCONCLUSIVE: #8a5a00; --INVALID: #7a3fc0; }
@media (prefers-color-scheme: dark) { :root { --paper: #15191f; --ink: #e6edf3; --line: #3d444d; --soft: #9198a1;
  --PASS: #4ac26b; --FAIL: #ff7b72; --INCONCLUSIVE: #e3b341; --INVALID: #c297ff; } }
body { background: var(--paper); color: var(--ink); font: 14px/1.45 system-ui, sans-serif; margin: 12px; }
h1 { font-size: 17px; margin: 0 0 4px; } p { margin: 4px 0; color: var(--soft); } small { color: var(--soft); font-weight: 400; }
table { border-collapse: collapse; margin: 10px 0; }
th, td { border: 1px solid var(--line); padding: 5px 9px; text-align: left; vertical-align: top; }
th { font-weight: 600; } td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
b.PASS { color: var(--PASS); } b.FAIL { color: var(--FAIL); }
b.INCONCLUSIVE { color: var(--INCONCLUSIVE); } b.INVALID { color: var(--INVALID); }
td > div + div { margin-top: 7px; }
"""


def page(title: str, body: str) -> str:
    """A whole HTML document; ``title`` is text, ``body`` HTML. It loads nothing."""
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def verdict(outcome: OutcomeName | None) -> str:
    """The word in its colour; a dash where nothing was judged."""
    return f'<b class="{outcome}">{outcome}</b>' if outcome else "-"


def simulated_mark(simulated: bool) -> str:
    """`` (SIMULATED)``, or nothing."""
    return f" ({SIMULATED})" if simulated else ""


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table: the heading is text, each row the HTML of its cells, ``<td>`` and all."""
    head = "".join(f"<th>{escape(text)}</th>" for text in heading)
    body = "".join(f"<tr>{''.join(cells)}</tr>" for cells in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def text_cell(text: str) -> str:
    """A cell of text."""
    return f"<td>{escape(text)}</td>"


def number_cell(text: str) -> str:
    """A cell of a number, in its column's right."""
    return f'<td class="number">{escape(text)}</td>'
