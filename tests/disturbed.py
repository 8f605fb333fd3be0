"""A test whose load was held up by the machine is run again: such a run says so of itself, and tells nothing of the product.

The tests' machines are small and shared. Only what names the client's own slowness counts, and only twice: what is
always so, fails.
"""

from __future__ import annotations

import re
from collections.abc import Generator

import pytest

SAID = pytest.StashKey[list[str]]()
"""What the sessions printed that a test started."""
_HELD_UP = re.compile(r"requests late: p99|answers late: p99|client is not trusted|\bINVALID\b")


class DisturbedError(Exception):
    """A test failed, and a load of it says that the client was held up."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    try:
        return (yield)
    except (Exception, pytest.fail.Exception) as error:
        _raise_if_disturbed(item, error)
        raise


pytest_runtest_setup = pytest_runtest_call


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.flaky(reruns=2, only_rerun=[DisturbedError.__name__]))


def _raise_if_disturbed(item: pytest.Item, error: BaseException) -> None:
    told = _HELD_UP.search("\n".join([str(error), *item.stash.get(SAID, [])]))
    if told:
        raise DisturbedError(f"the machine held a load up ({told.group()!r})") from error
