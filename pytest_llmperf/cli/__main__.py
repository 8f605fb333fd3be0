"""``python -m pytest_llmperf.cli``: the same as ``pytest-llmperf``."""

import sys

from pytest_llmperf.cli import main

sys.exit(main())
