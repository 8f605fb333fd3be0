"""What the command's exit status says."""

OK = 0
REGRESSED = 1
"""A metric that was to be gated regressed."""
INCOMPARABLE = 3
"""Nothing gated regressed, but something could not be compared."""
USAGE_ERROR = 4
"""Asked for something that cannot be; pytest's number for the same."""
