"""``python -m pytest_llmperf.report.schema > docs/schema/results-2.json``: the schema of the results JSON, as text."""

from __future__ import annotations

import json

from pytest_llmperf.report.document import schema


def schema_text() -> str:
    """The schema as it is checked in: indented, keys in the models' order, a newline at its end."""
    return json.dumps(schema(), indent=2) + "\n"


if __name__ == "__main__":
    print(schema_text(), end="")
