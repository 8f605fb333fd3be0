"""What the command's exit status says, and an end without complaints."""

from __future__ import annotations

import os
import sys

OK = 0
REGRESSED = 1
"""A metric that was to be gated regressed."""
INCOMPARABLE = 3
"""Nothing gated regressed, but something could not be compared."""
USAGE_ERROR = 4
"""Asked for something that cannot be; pytest's number for the same."""


def drop_output() -> None:
    """Let what standard output still holds go nowhere: Python would complain once more when it flushes it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
