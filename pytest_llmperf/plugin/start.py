"""The session starts on first need: a suite without cells pays nothing. What is wrong is told once, as a usage error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from pytest_llmperf.errors import ConfigError, LlmperfError, Where, nearest
from pytest_llmperf.plugin import cells, cluster
from pytest_llmperf.plugin.baseline_check import check_baseline
from pytest_llmperf.plugin.options import Settings, settings_of
from pytest_llmperf.plugin.progress import end_relay, progress_line
from pytest_llmperf.plugin.session import STASH, LlmperfSession, start_session
from pytest_llmperf.plugin.targets import target_of
from pytest_llmperf.report.exports import LLM_D
from pytest_llmperf.report.writable import refusal

PROBLEM = pytest.StashKey[ConfigError]()


def started(config: pytest.Config) -> LlmperfSession:
    """The session, made on the first call. Raises ``ConfigError``."""
    if STASH not in config.stash:
        settings = settings_of(config)
        _check_files(settings)
        session = start_session(config, settings, progress_line(config, settings.target == "sim"))
        # Whatever still stands when pytest ends, after an internal error for example, goes down.
        config.add_cleanup(lambda: _take_down(session))
        config.stash[STASH] = session
    return config.stash[STASH]


def _take_down(session: LlmperfSession) -> None:
    session.deployments.end()


def end_deployments(session: pytest.Session) -> None:
    """Take down what stands, and what all of the session holds on a cluster. What cannot be removed is told at its end."""
    config = session.config
    known = config.stash.get(STASH, None)
    try:
        if known is not None:
            cluster.tell(config, cluster.KEPT, known.deployments.end())
        end_relay(config)
        cluster.end_session(config)
    except LlmperfError as error:
        cluster.tell(config, cluster.LEFT, str(error))
    if hasattr(config, "workerinput"):
        cluster.tell_begun(config, known is not None and known.deployments.begun)


def cell_parameters(config: pytest.Config) -> list[Any]:
    """The matrix's cells as parameters; none when something is wrong, which ``prepare`` then tells."""
    try:
        return cells.cell_parameters(started(config).cells)
    except ConfigError as error:
        # Raised here, pytest would call it an error of the test module; the usage error comes when collection is done.
        config.stash[PROBLEM] = error
        return []


def prepare(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Check every selected test's marker and put each cell's tests together. Raises ``ConfigError``."""
    if (problem := config.stash.get(PROBLEM, None)) is not None:
        raise problem
    if (session := config.stash.get(STASH, None)) is None:
        return
    cells.check_requests(items, session.catalog, session.settings.sla)
    check_baseline(config, session, items)
    _check_one_cell(items, session.settings)
    _check_distribution(config)
    if paths := cells.ready_paths(items, session.catalog):
        # Known only now. A service of another kind is not to be asked for what only an OpenAI-compatible one has.
        session.deployments.target = target_of(session.settings, paths, identity=cluster.identity_of(config, session.settings))
    items[:] = cells.grouped_by_cell(items)
    _check_cells(config, session, items)


def _check_cells(config: pytest.Config, session: LlmperfSession, items: list[pytest.Item]) -> None:
    """What can be wrong with the cells that are about to run; or, with ``--llmperf-render``, write what they would be.

    Raises ``LlmperfError``.
    """
    selected = cells.runnable_cells(items)
    if session.settings.kubernetes.render is not None:
        from pytest_llmperf.plugin.rendering import render_cells

        render_cells(config, session.settings, selected)
    elif not config.option.collectonly:
        session.deployments.target.check_cells(selected)


def _check_one_cell(items: list[pytest.Item], settings: Settings) -> None:
    selected = sorted({cell.id for item in items if (cell := cells.cell_of(item)) is not None})
    if settings.target == "endpoint" and len(selected) > 1:
        raise ConfigError(
            f"one endpoint serves one cell, but {len(selected)} cells are selected: {', '.join(selected)}",
            where=Where(option="--llmperf-target=endpoint"),
            hint=f"Select the one that the endpoint is, for example -k {selected[0]}.",
        )


def _check_distribution(config: pytest.Config) -> None:
    distribution = getattr(config, "workerinput", {}).get("llmperf_dist", "loadgroup")
    if distribution not in {"loadgroup", "no"}:
        raise ConfigError(
            f"with --dist {distribution} the tests of one cell would run on several workers, each with its own deployment",
            where=Where(option="-n"),
            hint="Add --dist loadgroup.",
        )


def _check_files(settings: Settings) -> None:
    """The files that are named must be there, or be writable, before an accelerator is paid for."""
    if settings.trace is not None and not settings.trace.is_file():
        raise ConfigError(f"the trace {str(settings.trace)!r} does not exist", where=Where(option="--llmperf-trace"))
    asked = {"json": settings.json, "markdown": settings.markdown}
    places = [(name, path, True) for name, path in asked.items() if path is not None]
    places += [("export", export.path, export.format != LLM_D) for export in settings.export]
    folders = {"storage": settings.storage / "runs", "render": settings.kubernetes.render}
    places += [(name, path, False) for name, path in folders.items() if path is not None]
    for name, path, is_file in places:
        if (why := refusal(path, is_file=is_file)) is not None:
            raise ConfigError(f"cannot write {str(path)!r}: {why}", where=settings.where(name))


def nothing_selected(config: pytest.Config) -> str | None:
    """What to say when no test was selected, if ``-k`` is why."""
    keyword: str = config.getoption("keyword", "") or ""
    session = config.stash.get(STASH, None)
    if not keyword or session is None:
        return None
    return empty_selection_hint(keyword, session.settings.matrix, [cell.id for cell in session.cells])


def empty_selection_hint(keyword: str, matrix: str, ids: Sequence[str]) -> str:
    """The nearest part of a cell's id to what ``-k`` asked for, and the cells there are."""
    parts = {part for cell_id in ids for part in cell_id.split("_")}
    words = [word for word in keyword.replace("(", " ").replace(")", " ").split() if word not in {"and", "or", "not"}]
    guesses = [close for word in words if not any(word in i for i in ids) and (close := nearest(word, parts))]
    meant = f" Did you mean {guesses[0]!r}?" if guesses else ""
    return f"-k {keyword!r} selects no test.{meant} Cells of matrix {matrix!r}: {', '.join(ids)}"
