"""Containers' logs as text to read: what a terminal would make of them, without colours and without what was drawn over."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

from pytest_llmperf.deploy.kubernetes.ready.seen import LogOf
from pytest_llmperf.errors import DeployError

if TYPE_CHECKING:
    from pytest_llmperf.deploy.kubernetes.api.client import KubeApi

LOG_BYTES = 2_500_000
"""How much of a log is kept of its beginning; where that is not all, as much of its end."""
LAST_LINES = 5_000
"""Of how many lines its end is made, as far as they are not too long. A node keeps none that is longer than 16 KiB."""
KEPT_LOG_S = 5.0
"""How long a node may take to begin with a log."""
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\))")
"""A colour, a cursor's movement; a title, a link."""
_UNREADABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
"""What no XML may hold, and JUnit's is one."""
_DRAWN_OVER = re.compile(r"^.*\r(?=[^\r\n])", re.MULTILINE)
"""All of a line before its last state: of a progress bar each state stands over the one before."""


def plain(text: str) -> str:
    """What a program has written, as lines to read."""
    text = _UNREADABLE.sub("", _ESCAPE.sub("", text))
    return _DRAWN_OVER.sub("", text).replace("\r", "")


def log_text(api: KubeApi, namespace: str, of: LogOf, lines: int, within_s: float | None = None) -> str:
    """A container's last lines; empty where it has written none. ``within_s``: see ``KubeApi.log``."""
    return plain(api.log(of.pod, namespace, of.container, previous=of.previous, lines=lines, within_s=within_s))


def whole_log(api: KubeApi, namespace: str, of: LogOf, longest_bytes: int = LOG_BYTES) -> str:
    """All that a container has written; of a long log its beginning and its end, in whole lines."""
    read = partial(api.log, of.pod, namespace, of.container, previous=of.previous, within_s=KEPT_LOG_S)
    start = read(lines=None, limit_bytes=longest_bytes)
    # It is counted as the API server counts: before anything is taken out.
    if len(start.encode()) < longest_bytes:
        return plain(start)
    # Where it is told a number of bytes the API cuts the end: of the last lines their beginning is cut here.
    start = plain(start.rpartition("\n")[0])
    try:
        end = read(lines=LAST_LINES)
    except DeployError as error:  # what was read is kept
        return f"{start}\n\n[… it goes on; its last lines are missing: {error.what}]\n"
    if len(end) > longest_bytes:
        end = end[-longest_bytes:].partition("\n")[2]
    return f"{start}\n\n[… it goes on; these are its last lines: …]\n\n{plain(end)}"
