"""What a reader must know of the load generator: runs of which it cannot be trusted, and limits that were loosened."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from pytest_llmperf.report.comparison import title_of

if TYPE_CHECKING:
    from pytest_llmperf.report.results_v2 import RunDocument

_MOST_RUNS = 5
"""Of so many runs the reasons are told in full; the results have those of all."""
_INDENT = "  "


def client_lines(documents: Sequence[RunDocument], width: int) -> Iterator[str]:
    """Lines of at most ``width`` for below the summary; none where every client did its work by the default limits."""
    distrusted = [document for document in documents if document.client.distrust]
    for document in distrusted[:_MOST_RUNS]:
        yield from textwrap.wrap(f"{title_of(document)}: the client is not trusted", width, subsequent_indent=_INDENT)
        for remark in (*document.client.distrust, *document.client.notes):
            yield from textwrap.wrap(remark, width, initial_indent=_INDENT, subsequent_indent=_INDENT)
    if len(distrusted) > _MOST_RUNS:
        yield f"the client is not trusted in {len(distrusted) - _MOST_RUNS} more runs; their results say why"
    if said := loosened_text(documents):
        yield from textwrap.wrap(said, width, subsequent_indent=_INDENT)


def loosened_text(documents: Iterable[RunDocument]) -> str:
    """Which limits trusted more than the defaults do; empty where none did."""
    named = dict.fromkeys(limit for document in documents for limit in document.client.loosened)
    return f"trust limits loosened, so that INVALID says less: {', '.join(named)}" if named else ""


def client_paragraphs(documents: Iterable[RunDocument]) -> Iterator[str]:
    """The same as Markdown, a paragraph a run."""
    documents = list(documents)
    for document in documents:
        if document.client.distrust:
            told = "; ".join(document.client.distrust)
            yield f"**The load generator is not trusted** in {document.label or document.profile}: {told}."
    if said := loosened_text(documents):
        yield f"**{said[0].upper()}{said[1:]}.**"
