"""When runs are drawn, and as what."""

from __future__ import annotations

import pytest

from pytest_llmperf.plugin.plots import formats_wanted
from pytest_llmperf.report.plots.style import FORMATS


@pytest.mark.parametrize(
    ("asked", "for_allure", "wanted"),
    [(None, False, ()), (None, True, ("png",)), (True, False, FORMATS), (True, True, FORMATS), (False, True, ())],
)
def test_what_was_asked_counts_before_where_it_goes(asked: bool | None, for_allure: bool, wanted: tuple[str, ...]) -> None:
    assert formats_wanted(asked, for_allure) == wanted
