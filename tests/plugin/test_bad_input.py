"""What a user gets wrong ends in one message with the place and the nearest valid name, and pytest's usual exit code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Sessions = Callable[..., pytest.RunResult]

SUITE = """
import pytest
from pytest_llmperf import poisson

pytestmark = pytest.mark.llmperf({marker})

def test_meets_sla(load, sla):
    assert load(poisson("4/s"), "1s").meets(sla)
"""


def refusal(result: pytest.RunResult) -> str:
    """The message of a usage error, whose exit code and lack of a traceback are checked."""
    text = result.stdout.str() + result.stderr.str()
    assert result.ret == pytest.ExitCode.USAGE_ERROR, text
    assert "Traceback" not in text
    return " ".join(text.partition("llmperf: ")[2].split())


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        (
            'workload="interactive-chatt"',
            "test_suite.py:6: marker llmperf: unknown workload 'interactive-chatt' Did you mean 'interactive-chat'?",
        ),
        (
            'worklaod="interactive-chat"',
            "test_suite.py:6: marker llmperf: unknown keyword 'worklaod' Did you mean 'workload'? "
            "Known: workload, sla, profile, tolerance.",
        ),
        (
            'workload="interactive-chat", sla="interactive-chta"',
            "test_suite.py:6: marker llmperf: unknown SLA 'interactive-chta' Did you mean 'interactive-chat'?",
        ),
        (
            'workload="interactive-chat", sla={"tfft": {"p99": "1s"}}',
            "test_suite.py:6: marker llmperf.tfft.p99: unknown metric 'tfft'; did you mean 'ttft'?",
        ),
        (
            'workload="interactive-chat", sla={"ttft": {"p99": "1"}}',
            "test_suite.py:6: marker llmperf.ttft.p99: '1' has no unit; a duration is written like '500ms', '30s' or '1m30s'",
        ),
        (
            '"interactive-chat"',
            "test_suite.py:6: marker llmperf: takes keywords only, not 'interactive-chat' "
            "Write llmperf(workload='interactive-chat').",
        ),
        ("", "test_suite.py:6: marker llmperf: names no workload Mark the test: "),
    ],
)
def test_marker(pytester: pytest.Pytester, llmperf: Sessions, marker: str, message: str) -> None:
    pytester.makepyfile(test_suite=SUITE.format(marker=marker))
    assert refusal(llmperf()).startswith(message)


# Nothing here asks for the fixture sla.
WITHOUT_SLA = """
import pytest
from pytest_llmperf import poisson

@pytest.mark.llmperf({marker})
def test_loads(load):
    run = load(poisson("20/s"), "500ms", warmup="0s")
    {judged}
"""


@pytest.mark.parametrize(
    ("marker", "option", "message"),
    [
        ('workload="interactive-chat", sla="tpyo"', (), "test_suite.py:4: marker llmperf: unknown SLA 'tpyo' Known: agentic,"),
        (
            'workload="interactive-chat", sla={"tfft": {"p99": "1s"}}',
            ("--llmperf-sla=ttft: {p99: 1s}",),
            "test_suite.py:4: marker llmperf.tfft.p99: unknown metric 'tfft'; did you mean 'ttft'?",
        ),
        (
            'workload="interactive-chat"',
            ("--llmperf-sla=ttft: {p95: 2s, p99: 1s}",),
            "--llmperf-sla: TTFT p95 <= 2s says nothing beside TTFT p99 <= 1s: p95 is never more than p99; are the two swapped? "
            "At ttft.p95.",
        ),
        (
            'workload="interactive-chat", sla="interactive-chat"',
            ("-W", "error"),
            "test_suite.py:4: marker llmperf: sla= asserts nothing: the test does not ask for the fixture sla",
        ),
    ],
)
def test_an_sla_that_no_test_asks_for(
    pytester: pytest.Pytester, llmperf: Sessions, marker: str, option: tuple[str, ...], message: str
) -> None:
    pytester.makepyfile(test_suite=WITHOUT_SLA.format(marker=marker, judged="assert run"))
    assert refusal(llmperf(*option)).startswith(message)


def test_an_sla_that_asserts_nothing_is_a_warning(pytester: pytest.Pytester, llmperf: Sessions) -> None:
    pytester.makepyfile(test_suite=WITHOUT_SLA.format(marker='workload="translation", sla="translation"', judged="assert run"))
    result = llmperf("-k", "h100", "--collect-only")
    assert result.ret == pytest.ExitCode.OK
    assert result.stdout.str().count("LlmperfWarning: sla= asserts nothing") == 1


def test_what_is_no_sla_is_told_in_the_test(pytester: pytest.Pytester, llmperf: Sessions) -> None:
    judged = 'assert run.meets({"error_rate": "100%"})\n    run.meets("interactive-chta")'
    pytester.makepyfile(test_suite=WITHOUT_SLA.format(marker='workload="interactive-chat"', judged=judged))
    result = llmperf("-k", "gke_h100")
    result.assert_outcomes(failed=1)
    text = " ".join(result.stdout.str().split())
    assert "ConfigError: run.meets(): unknown SLA 'interactive-chta' Did you mean 'interactive-chat'?" in text


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            "--llmperf-target=simm",
            "--llmperf-target: unknown target 'simm' Did you mean 'sim'? Known: endpoint, kubernetes, process, sim.",
        ),
        ("--llmperf-target=endpoint", "--llmperf-target: the endpoint target needs a URL Add --llmperf-url=http://HOST:PORT."),
        ("--llmperf-url=http://127.0.0.1:1", "--llmperf-url: a URL is given, but the target is 'sim'"),
        ("--llmperf-matrix=defautl", "--llmperf-matrix: unknown matrix 'defautl' Did you mean 'default'?"),
        ("--llmperf-workers=none", "--llmperf-workers: 'none' is not a whole number of 1 or more"),
        ("--llmperf-ready-timeout=10", "--llmperf-ready-timeout: '10' has no unit; a duration is written like"),
        ("--llmperf-catalog=nowhere", "--llmperf-catalog: the catalog directory"),
        ("--llmperf-group-by=cel", "--llmperf-group-by: unknown grouping 'cel' Did you mean 'cell'?"),
        ("--llmperf-sla=ttft: {p99: 1 parsec}", "--llmperf-sla: '1 parsec' has the unknown unit 'parsec'; a duration is written"),
        ("--llmperf-sla={ttft", "--llmperf-sla: not YAML: '{ttft'"),
        ("--llmperf-json=test_suite.py/out.json", "--llmperf-json: cannot write"),
        ("--llmperf-json=/dev/null", "--llmperf-json: cannot write '/dev/null'"),
        ("--llmperf-markdown=.", "--llmperf-markdown: cannot write"),
        ("--llmperf-markdown=test_suite.py/summary.md", "--llmperf-markdown: cannot write"),
        ("--llmperf-export=openmetrics=test_suite.py/m.txt", "--llmperf-export: cannot write"),
        ("--llmperf-export=llm-d=test_suite.py/reports", "--llmperf-export: cannot write"),
        ("--llmperf-storage=test_suite.py", "--llmperf-storage: cannot write"),
        ("--llmperf-trace=azure.csv", "--llmperf-trace: the trace"),
        (
            "--llmperf-trust=latenes_p99:20ms",
            "--llmperf-trust: unknown limit of trust 'latenes_p99' Did you mean 'lateness_p99'?",
        ),
        ("--llmperf-insecure", "--llmperf-insecure: certificates are not to be checked, but the target is 'sim' Add"),
    ],
)
def test_option(pytester: pytest.Pytester, llmperf: Sessions, option: str, message: str) -> None:
    pytester.makepyfile(test_suite=SUITE.format(marker='workload="interactive-chat"'))
    assert refusal(llmperf(option)).startswith(message)


def test_environment_and_ini_are_named_as_such(
    pytester: pytest.Pytester, llmperf: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(test_suite=SUITE.format(marker='workload="interactive-chat"'))
    pytester.makeini("[pytest]\nllmperf_workers = many\n")
    assert refusal(llmperf()).startswith("ini llmperf_workers: 'many' is not a whole number")
    monkeypatch.setenv("LLMPERF_TARGET", "endpiont")
    assert refusal(llmperf()).startswith("LLMPERF_TARGET: unknown target 'endpiont' Did you mean 'endpoint'?")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            "hardware/h100.yaml",
            "name: h100\ntitle: x\nmemroy: 80Gi\n",
            "hardware/h100.yaml:3: memroy: unknown key 'memroy' Did you mean 'memory'?",
        ),
        (
            "slas/mine.yaml",
            "name: mine\nttft:\n  p99: 1 sec\n",
            "slas/mine.yaml:3: ttft.p99: '1 sec' has the unknown unit 'sec'",
        ),
        ("matrix.yaml", "default:\n  hardware: [h101]\n", "matrix.yaml:2: "),
        ("matrix.yaml", "default: [\n", "matrix.yaml:2"),
    ],
)
def test_yaml(pytester: pytest.Pytester, llmperf: Sessions, file: str, text: str, message: str) -> None:
    pytester.makepyfile(test_suite=SUITE.format(marker='workload="interactive-chat"'))
    write(pytester.path / "fixtures" / file, text)
    assert message in refusal(llmperf())


def test_keyword_that_selects_nothing(pytester: pytest.Pytester, llmperf: Sessions) -> None:
    pytester.makepyfile(test_suite=SUITE.format(marker='workload="interactive-chat"'))
    result = llmperf("-k", "h1000")
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    text = " ".join(result.stdout.str().split())
    assert "llmperf: -k 'h1000' selects no test. Did you mean 'h100'? Cells of matrix 'default': gke_h100_" in text


def test_bad_marker_under_xdist(pytester: pytest.Pytester, llmperf: Sessions) -> None:
    pytester.makepyfile(test_suite=SUITE.format(marker='workload="interactive-chatt"'))
    result = llmperf("-n", "2", "--dist", "loadgroup")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "unknown workload 'interactive-chatt'" in result.stdout.str() + result.stderr.str()


def test_xdist_that_would_split_a_cell_is_refused(pytester: pytest.Pytester, llmperf: Sessions) -> None:
    pytester.makepyfile(test_suite=SUITE.format(marker='workload="interactive-chat"'))
    result = llmperf("-n", "2")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "Add --dist loadgroup." in result.stdout.str() + result.stderr.str()


def test_suite_without_cells_pays_nothing(pytester: pytest.Pytester, llmperf: Sessions) -> None:
    """An unrelated ``fixtures/`` folder is not read when no test asks for a cell."""
    pytester.makepyfile(test_other="def test_other():\n    assert 1 + 1 == 2\n")
    write(pytester.path / "fixtures" / "matrix.yaml", "default: [\n")
    llmperf().assert_outcomes(passed=1)
