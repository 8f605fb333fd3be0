"""The simulator's /metrics beside the real one's: the same names, labels, types, help texts and buckets."""

from __future__ import annotations

import pytest

from pytest_llmperf.deploy.base import Endpoint
from pytest_llmperf.deploy.process import ProcessDeployment
from pytest_llmperf.deploy.sim import SimDeployment
from pytest_llmperf.experiment.profile import Concurrency
from tests.engine.scrape import Scrape, scrape
from tests.unit.load.loads import run


@pytest.fixture(scope="module")
def pages(vllm: ProcessDeployment, simulator: SimDeployment) -> tuple[Scrape, Scrape]:
    """Both pages after the same load."""

    def page(endpoint: Endpoint) -> Scrape:
        run(endpoint, Concurrency(2), max_requests=4)
        return scrape(endpoint)

    return page(vllm.endpoint), page(simulator.endpoint)


def of_vllm(page: Scrape) -> dict[str, tuple[str, str]]:
    return {name: family for name, family in page.families.items() if name.startswith("vllm:")}


def test_the_same_families_with_the_same_types_and_help(pages: tuple[Scrape, Scrape]) -> None:
    real, simulated = map(of_vllm, pages)
    assert simulated == real


def test_the_same_samples_with_the_same_labels(pages: tuple[Scrape, Scrape]) -> None:
    real, simulated = (
        {sample for sample in page.samples if sample[0].startswith("vllm:") and sample[0] != "vllm:cache_config_info"}
        for page in pages
    )
    assert simulated == real


def test_the_configuration_has_the_same_labels(pages: tuple[Scrape, Scrape]) -> None:
    real, simulated = ({name for labels in page.labels_of("vllm:cache_config_info") for name, _ in labels} for page in pages)
    assert simulated == real


def test_the_process_has_its_metrics_too(pages: tuple[Scrape, Scrape]) -> None:
    """All but those of vLLM's web framework (``http_*``), which the simulator does not use."""
    real, simulated = (
        {sample for sample in page.samples if not sample[0].startswith(("vllm:", "http_", "python_info"))} for page in pages
    )
    assert simulated == real
    assert {name for name in pages[1].families if name.startswith("python_info")}
