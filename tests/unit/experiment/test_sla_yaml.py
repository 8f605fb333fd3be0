"""SLAs in the catalog's YAML: errors name file, line and key; and the examples of the documentation are what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_llmperf.errors import ConfigError
from pytest_llmperf.experiment.catalog import Catalog, builtin_directory, load_catalog
from pytest_llmperf.experiment.sla import Sla

DOCUMENTATION = (Path(__file__).parents[3] / "docs/slas.md").read_text()
EXAMPLES = re.findall(r"```yaml\n(.*?)```", DOCUMENTATION, re.DOTALL)


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's catalog directory, named ``mine`` in errors."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "mine"


def load(directory: Path, text: str, matrix: str = "") -> Catalog:
    """The built-in catalog with one SLA more, and a matrix."""
    (directory / "slas").mkdir(parents=True)
    (directory / "slas/mine.yaml").write_text(text)
    if matrix:
        (directory / "matrix.yaml").write_text(matrix)
    return load_catalog([builtin_directory(), directory])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "ttft:\n  p99:\n    target: 1s\n    acceptable: 500ms\n",
            "mine/slas/mine.yaml:4: ttft.p99.acceptable: 'acceptable' (500ms) must be laxer than 'target' (1s)",
        ),
        ("ttft:\n  p99:\n    acceptable: 2s\n", "mine/slas/mine.yaml:2: ttft.p99: a graded limit needs 'target'"),
        (
            "error_rate:\n  target: 1%\n  accept: 2%\n",
            "mine/slas/mine.yaml:3: error_rate.accept: unknown key 'accept'; did you mean",
        ),
        ("error_rate: 1\n", "mine/slas/mine.yaml:1: error_rate: '1' may be a percentage or a fraction"),
        ("ttft:\n  p9: 1s\n", "mine/slas/mine.yaml:2: ttft.p9: p9 is reached by the fastest"),
        (
            "goodput:\n  min: 95%\n  within:\n    ttft: 1s\n    topt: 1s\n",
            "mine/slas/mine.yaml:5: goodput.within.topt: unknown latency of a request 'topt'; did you mean 'tpot'?",
        ),
        (
            "error_rate: 1%\nhardware:\n  h100:\n    ttft:\n      p99: 200m\n",
            "mine/slas/mine.yaml:5: hardware.h100.ttft.p99: '200m' is 200 minutes; did you mean '200ms'?",
        ),
        (
            "error_rate: 1%\nhardware:\n  h101: {error_rate: 2%}\n",
            "mine/slas/mine.yaml:3: hardware.h101: unknown hardware 'h101'\n  Did you mean 'h100'?",
        ),
        (
            "error_rate: 1%\nhardware:\n  h100x3: {error_rate: 2%}\n",
            "mine/slas/mine.yaml:3: hardware.h100x3: unknown hardware 'h100x3': h100 does not come in that number",
        ),
        (
            "error_rate: 1%\ncells:\n  gke_h100_standalone_lama-3.1-8b: {error_rate: 2%}\n",
            "mine/slas/mine.yaml:3: cells.gke_h100_standalone_lama-3.1-8b: unknown cell 'gke_h100_standalone_lama-3.1-8b': no "
            "matrix of the catalog has it\n  Did you mean 'gke_h100_standalone_llama-3.1-8b'?",
        ),
        (
            "error_rate: 1%\ncells:\n  h100: {error_rate: 2%}\n",
            "mine/slas/mine.yaml:3: cells.h100: unknown cell 'h100': no matrix of the catalog has it\n  A cell's id is like",
        ),
    ],
)
def test_bad_slas_are_told_with_file_line_and_key(mine: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(mine, text)
    assert str(caught.value).startswith(message)


def test_a_cell_of_any_matrix_may_be_named_also_beside_a_matrix_without_cells(mine: Path) -> None:
    text = "error_rate: 1%\ncells:\n  ocp_l40s_standalone_llama-3.2-3b: {error_rate: 2%}\n"
    catalog = load(mine, text, matrix="nothing:\n  platforms: [gke]\n")
    (override,) = catalog.sla_named("mine").overrides
    assert override.name == "ocp_l40s_standalone_llama-3.2-3b"


def test_the_shipped_chat_sla_is_graded_from_its_targets() -> None:
    chat = load_catalog([builtin_directory()]).sla_named("interactive-chat")
    at_target = {t.key.name: t.limit for t in chat.thresholds}
    assert (at_target["ttft_p95"], at_target["ttft_p99"], at_target["tpot_p95"]) == (0.5, 1.0, 0.05)
    laxer = {t.key.name: t.limit for t in chat.at("acceptable").thresholds}
    assert {name for name, limit in laxer.items() if limit != at_target[name]} == {"ttft_p95", "ttft_p99", "tpot_p95"}


def test_the_documentation_has_examples() -> None:
    assert len(EXAMPLES) >= 4


@pytest.mark.parametrize("text", EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_of_the_documentation_is_an_sla(mine: Path, text: str) -> None:
    sla = load(mine, text).sla_named("mine")
    assert isinstance(sla, Sla)
    assert sla.at("acceptable").thresholds
