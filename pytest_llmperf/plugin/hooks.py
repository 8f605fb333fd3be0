"""The pytest hooks. Each is thin: it calls a function that a unit test calls too. Imports are lazy: ``--help`` pays nothing."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llmperf.errors import ConfigError, LlmperfError
from pytest_llmperf.plugin.option_table import add_options
from pytest_llmperf.plugin.options import settings_of

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options."""
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Check the options, before anything else is done."""
    config.addinivalue_line(
        "markers",
        "llmperf(workload=NAME, sla=NAME or {...}, profile=NAME, tolerance={METRIC: CHANGE}): what is asked of the cell, "
        "what must hold, at which load, and by how much a metric may be worse than the baseline's",
    )
    if not config.pluginmanager.hasplugin("xdist"):
        # Cells bear its mark all the same.
        config.addinivalue_line("markers", "xdist_group(name): tests that pytest-xdist keeps on one worker")
    try:
        settings = settings_of(config)
    except ConfigError as error:
        raise pytest.UsageError(f"llmperf: {error}") from None
    if settings.kubernetes.render is not None:
        # What is only written is not run.
        config.option.collectonly = True


def pytest_sessionstart(session: pytest.Session) -> None:
    """Make the fixtures known, and the places where results gather; where there is a cluster, mind what ends the session."""
    from pytest_llmperf.plugin import fixtures
    from pytest_llmperf.plugin.allure_bridge import listen_to_allure
    from pytest_llmperf.plugin.recorder import Recorder
    from pytest_llmperf.plugin.results import COLLECTED, RECORDER, Collected

    config = session.config
    config.stash[COLLECTED] = Collected()
    config.stash[RECORDER] = Recorder(settings_of(config).storage)
    config.pluginmanager.register(config.stash[COLLECTED], "llmperf-results")
    config.pluginmanager.register(fixtures, "llmperf-fixtures")
    listen_to_allure(config)
    if settings_of(config).target == "kubernetes":
        from pytest_llmperf.plugin.terminate import listen

        listen(session)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell each xdist worker how tests are distributed, which baseline it is, whose session it works for, and who hears its
    progress; a worker cannot see that by itself."""
    from pytest_llmperf.plugin.baseline import chosen_baseline
    from pytest_llmperf.plugin.cluster import tell_worker
    from pytest_llmperf.plugin.progress import relay_to

    node.workerinput["llmperf_dist"] = node.config.getoption("dist", "no")
    node.workerinput["llmperf_baseline"] = chosen_baseline(node.config)
    tell_worker(node)
    relay_to(node)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep each cell on one worker."""
    if config.getoption("dist", "no") != "loadgroup":
        return None
    from pytest_llmperf.plugin.xdist import scheduler

    return scheduler(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Hear what a worker found wrong, and remove what one that crashed has left on a cluster."""
    from pytest_llmperf.plugin.cluster import hear_worker
    from pytest_llmperf.plugin.results import TROUBLE
    from pytest_llmperf.plugin.xdist import problem_of

    if (problem := problem_of(node)) is not None:
        node.config.stash[TROUBLE] = problem
    hear_worker(node, error)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every test that asks for a ``cell`` once for each cell of the matrix."""
    from pytest_llmperf.plugin.cells import MATRIX_FIXTURE, REPETITION

    if MATRIX_FIXTURE in metafunc.fixturenames:
        from pytest_llmperf.plugin.start import cell_parameters

        metafunc.parametrize("cell", cell_parameters(metafunc.config), indirect=True, scope="session")
        repeats = settings_of(metafunc.config).repeat
        if repeats > 1 and REPETITION in metafunc.fixturenames:
            from pytest_llmperf.report.comparison import repetition_id

            metafunc.parametrize(REPETITION, range(1, repeats + 1), indirect=True, ids=lambda n: repetition_id(n, repeats))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Check what was selected, also by ``--lf``, and put each cell's tests together. A mistake is a usage error."""
    from pytest_llmperf.plugin.start import prepare

    try:
        prepare(session.config, session.items)
    except LlmperfError as error:
        refuse(session.config, session.items, error)


def refuse(config: pytest.Config, items: list[pytest.Item], error: LlmperfError) -> None:
    """End the session before a test runs: from here, or from the controller that an xdist worker tells."""
    if not hasattr(config, "workerinput"):
        raise pytest.UsageError(f"llmperf: {error}") from None
    from pytest_llmperf.plugin.xdist import tell_controller

    tell_controller(config, str(error))
    items.clear()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    """Where the last repetition of a test is skipped, decide on those before it."""
    from pytest_llmperf.plugin.cells import cell_of

    if cell_of(item) is None:
        yield
        return
    from pytest_llmperf.plugin.baseline import gated_where_skipped
    from pytest_llmperf.plugin.results import RECORDER

    with gated_where_skipped(item, item.config.stash[RECORDER]):
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Hold a test's runs beside the baseline, and let none pass that is INVALID: the test that made it fails."""
    from pytest_llmperf.plugin.cells import cell_of

    # A test need not name ``load`` to make one: it may ask for it while it runs.
    if cell_of(item) is None:
        yield
        return
    from pytest_llmperf.plugin.asserted import check_unjudged
    from pytest_llmperf.plugin.baseline import gated
    from pytest_llmperf.plugin.results import RECORDER

    recorder = item.config.stash[RECORDER]
    with gated(item, recorder):
        yield
    check_unjudged(item, recorder)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, None, None]:
    """Treat the runs of a fixture's teardown as those of a test's body, and take a cell down when its last test has ended."""
    from pytest_llmperf.plugin.cells import cell_of

    cell, following = cell_of(item), cell_of(nextitem)
    if cell is None:
        yield
        return
    from pytest_llmperf.plugin.asserted import check_unjudged
    from pytest_llmperf.plugin.baseline import gated
    from pytest_llmperf.plugin.results import RECORDER
    from pytest_llmperf.plugin.start import started

    recorder = item.config.stash[RECORDER]
    try:
        # The runs of the body went with its report: the recorder has only those that are made from here on.
        with gated(item, recorder, late=True):
            yield
        check_unjudged(item, recorder)
    finally:
        if following is None or following.id != cell.id:
            started(item.config).deployments.close(cell.id)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Send the test's runs with its report, and say our own errors in our own words."""
    from pytest_llmperf.plugin.baseline import GateError
    from pytest_llmperf.plugin.results import tell_results

    report = yield
    if call.excinfo is not None and isinstance(call.excinfo.value, LlmperfError | GateError):
        report.longrepr = f"{type(call.excinfo.value).__name__}: {call.excinfo.value}"
    tell_results(item, call, report)
    return report


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """End what the session holds on a cluster, and write its files; these only where the reports come together."""
    from pytest_llmperf.plugin.results import finish
    from pytest_llmperf.plugin.start import end_deployments

    end_deployments(session)
    if not hasattr(session.config, "workerinput"):
        finish(session)


def pytest_terminal_summary(terminalreporter: TerminalReporter, exitstatus: int, config: pytest.Config) -> None:
    """Print one line a run, and where the results are."""
    from pytest_llmperf.plugin.terminal import summary_lines

    for line in summary_lines(config, exitstatus, config.get_terminal_writer().fullwidth):
        terminalreporter.write_line(line)
