"""Tells Allure of a test when allure-pytest hands its result over to be written: all that is ours goes in there.

Only hooks and records of ``allure_commons`` are used, none of allure-pytest itself. Each part is told by itself: where a later
version of Allure knows something no more, that part is missing, with a warning, and never a test. Imported where
``--alluredir`` is in use and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import cleandoc
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import allure_commons
import pytest
from allure_commons import model2

from pytest_llmperf.plugin.asserted import warn_only
from pytest_llmperf.plugin.cells import REPETITION
from pytest_llmperf.plugin.display import INTERNAL
from pytest_llmperf.plugin.session import STASH

if TYPE_CHECKING:
    from pytest_llmperf.report.allure import AllureTest
    from pytest_llmperf.report.allure_attachments import Attachment
    from pytest_llmperf.report.allure_steps import Step


@dataclass(frozen=True)
class Told:
    """What is told of a test."""

    name: str
    """The test's own name, which Allure shows where nobody gave it a title."""
    cell_id: str
    test: AllureTest
    steps: Sequence[Step] = ()
    attachments: Sequence[Attachment] = ()
    links: Sequence[tuple[str, str]] = ()
    """(name, URL)."""


@dataclass(eq=False)  # pluggy keeps plugins in sets
class AllureTeller:
    """A plugin of ``allure_commons``. ``told`` is of the test whose result comes next."""

    config: pytest.Config
    told: Told | None = field(default=None)

    def tell(self, compute: Callable[[], Told]) -> None:
        """Compute what is told of the test that runs."""
        with _guarded("content"):
            self.told = compute()

    def attach_to_session(self, compute: Callable[[], Iterable[Attachment]]) -> None:
        """Attach files to the report as a whole."""
        with _guarded("overview"):
            for attachment in compute():
                allure_commons.plugin_manager.hook.global_attach_data(
                    body=attachment.content,
                    name=attachment.name,
                    attachment_type=attachment.mime,
                    extension=attachment.extension,
                )

    @allure_commons.hookimpl(tryfirst=True)  # before it is written
    def report_result(self, result: Any) -> None:
        """Called with a test's whole result, after its teardown."""
        told, self.told = self.told, None
        if told is None:
            return
        with _guarded("title, labels and parameters"):
            _describe(result, told)
        with _guarded("steps"):
            result.steps.extend([_step(step) for step in told.steps])
        with _guarded("attachments"):
            for attachment in told.attachments:
                result.attachments.append(_attached(attachment))

    @allure_commons.hookimpl(tryfirst=True)
    def report_container(self, container: Any) -> None:
        """Called with the "Set up" and "Tear down" of one fixture."""
        if STASH in self.config.stash:
            with _guarded("fixtures"):
                container.befores[:] = [each for each in container.befores if not _is_internal(each)]
                container.afters[:] = [each for each in map(_renamed, container.afters) if not _is_internal(each)]


def _describe(result: Any, told: Told) -> None:
    test = told.test
    # What the suite says itself (allure.title and its like) comes first.
    if result.name == told.name:
        result.name = test.title
    result.description = "\n\n".join(filter(None, (cleandoc(result.description or ""), test.description)))
    own = {label.name for label in result.labels} - {"tag"}
    result.labels.extend(model2.Label(name, value) for name, value in test.labels if name not in own)
    for parameter in result.parameters:
        if parameter.name == "cell":
            parameter.value = told.cell_id
        elif parameter.name == REPETITION:
            parameter.name = "repetition"
    # They follow from the test and its cell, so that a test's history need not depend on them.
    result.parameters.extend(model2.Parameter(name, value, excluded=True) for name, value in test.parameters)
    result.links.extend(model2.Link("link", url, name) for name, url in told.links)


def _step(step: Step) -> Any:
    return model2.TestStepResult(
        name=step.name,
        status=step.status,
        statusDetails=model2.StatusDetails(message=step.message) if step.message else None,
        start=round(1000 * step.started),
        stop=round(1000 * step.ended),
        parameters=[model2.Parameter(name, value) for name, value in step.parameters],
        steps=[_step(each) for each in step.steps],
        attachments=[_attached(each) for each in step.attachments],
    )


def _attached(attachment: Attachment) -> Any:
    name = model2.ATTACHMENT_PATTERN.format(prefix=uuid4(), ext=attachment.extension)
    hook = allure_commons.plugin_manager.hook
    if isinstance(attachment.content, Path):
        hook.report_attached_file(source=str(attachment.content), file_name=name)
    else:
        hook.report_attached_data(body=attachment.content, file_name=name)
    return model2.Attachment(name=attachment.name, source=name, type=attachment.mime)


def _is_internal(fixture: Any) -> bool:
    """Of the plugin's own and without trouble; or pytest's own bookkeeping after a fixture's end, which has no name."""
    noise = fixture.name.endswith("::<lambda>") or fixture.name.partition("::")[0] == INTERNAL
    # pytest's bookkeeping is what tells that a fixture has ended, so that it has no status of its own then.
    return noise and fixture.status in {"passed", None}


def _renamed(fixture: Any) -> Any:
    """``mine::1`` is what allure-pytest makes of a finalizer without a name."""
    name, colons, number = fixture.name.rpartition("::")
    if colons and number.isdecimal():
        fixture.name = name
    return fixture


@contextmanager
def _guarded(part: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001  (Allure's own code runs here: whatever is raised would end the session)
        warn_only(f"Allure is not told the {part}: {error!r}")
