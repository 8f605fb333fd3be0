"""How a fixture is shown in Allure's "Set up": its title is an attribute of its function, so nothing of Allure is imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

INTERNAL = "pytest-llmperf"
"""The title of a fixture that a reader need not see, so long as nothing goes wrong in it."""

_Function = TypeVar("_Function", bound=Callable[..., object])


def shown_as(title: str) -> Callable[[_Function], _Function]:
    """Give a fixture's function a title, below ``@pytest.fixture``; it is what ``allure.title`` does."""

    def titled(function: _Function) -> _Function:
        function.__dict__["__allure_display_name__"] = title
        return function

    return titled


internal = shown_as(INTERNAL)
