"""The settings of the server's side, in every form."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from pytest_llmperf.errors import ConfigError
from pytest_llmperf.measure.server_sources import ITS_OWN_PAGE, ServerSources
from pytest_llmperf.plugin.options import Settings, read_settings

DCGM, ENGINE = "dcgm=http://gpu:9400/metrics", "engine=http://pod:8000/metrics"
PAGES = (("dcgm", "http://gpu:9400/metrics"), ("engine", "http://pod:8000/metrics"))


def settings(
    command_line: Mapping[str, str | list[str]] | None = None,
    environ: Mapping[str, str] | None = None,
    ini: Mapping[str, str] | None = None,
) -> Settings:
    return read_settings((command_line or {}).get, (ini or {}).get, environ or {}, Path("/root"), Path("/here"))


def test_by_default_the_endpoint_s_own_page_is_read() -> None:
    assert settings().server == ITS_OWN_PAGE


@pytest.mark.parametrize(
    "found",
    [
        settings({"--llmperf-scrape": [DCGM, ENGINE]}),
        settings(None, {"LLMPERF_SCRAPE": f"{DCGM}, {ENGINE}"}),
        settings(None, None, {"llmperf_scrape": f"\n{DCGM}\n{ENGINE}\n"}),
    ],
)
def test_pages_in_every_form(found: Settings) -> None:
    assert found.server.pages == PAGES


def test_a_prometheus_whose_labels_may_hold_commas() -> None:
    labels = 'namespace="x",pod=~"llm-.*"'
    found = settings({"--llmperf-prometheus": "http://prom:9090", "--llmperf-prometheus-labels": labels})
    assert found.server == ServerSources(prometheus="http://prom:9090", labels=labels)


def test_a_mistake_is_told_where_it_was_written() -> None:
    with pytest.raises(ConfigError, match=r"^LLMPERF_SCRAPE: unknown kind of page 'gpu'"):
        settings(None, {"LLMPERF_SCRAPE": "gpu=http://gpu:9400"})
    with pytest.raises(ConfigError, match=r"^ini llmperf_prometheus_labels: labels select"):
        settings(None, None, {"llmperf_prometheus_labels": 'namespace="x"'})
    with pytest.raises(ConfigError, match=r"^--llmperf-prometheus: 'prom' is no http"):
        settings({"--llmperf-prometheus": "prom"})
