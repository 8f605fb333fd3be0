"""The end of all deployments: whatever cannot be taken down is told, and keeps nothing else standing."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_llmperf.deploy.base import Deployment, Target
from pytest_llmperf.errors import DeployError
from pytest_llmperf.plugin.progress import ProgressLine
from pytest_llmperf.plugin.session import Deployments

HINT = "Then `pytest-llmperf gc` removes what is left."


@dataclass
class Standing:
    """A deployment, or a target, that may not go."""

    error: BaseException | None = None
    name: str = "sim"
    info: Any = field(default_factory=lambda: SimpleNamespace(target="sim"))
    is_closed: bool = False

    def close(self) -> None:
        self.is_closed = True
        if self.error is not None:
            raise self.error

    def end(self) -> str:
        self.close()
        return "kept"


def deployments(target: Standing, *standing: Standing) -> Deployments:
    found = Deployments(cast(Target, target), ProgressLine(None, None, 0, False))
    found.standing |= {f"cell {number}": cast(Deployment, one) for number, one in enumerate(standing)}
    return found


def test_all_that_cannot_be_taken_down_is_told() -> None:
    all_of_it = [Standing(DeployError(f"{what} stays", hint=HINT, state=f"left: {what}")) for what in ("a", "b", "the session")]
    fine = Standing()
    *cells, target = all_of_it
    with pytest.raises(DeployError) as raised:
        deployments(target, cells[0], fine, cells[1]).end()
    assert raised.value.what == "a stays; b stays; the session stays"
    assert (raised.value.hint, raised.value.state) == (HINT, "left: a; left: b; left: the session")
    assert all(one.is_closed for one in (*all_of_it, fine))


def test_one_error_is_told_as_it_is() -> None:
    for target, cell in ((Standing(error := DeployError("it stays")), Standing()), (Standing(), Standing(error))):
        with pytest.raises(DeployError) as raised:
            deployments(target, cell).end()
        assert raised.value is error
        assert target.is_closed


def test_an_interruption_ends_the_session_on_the_cluster_too() -> None:
    target = Standing()
    with pytest.raises(KeyboardInterrupt):
        deployments(target, Standing(KeyboardInterrupt())).end()
    assert target.is_closed


def test_what_is_kept_is_said() -> None:
    assert deployments(Standing(), Standing()).end() == "kept"
