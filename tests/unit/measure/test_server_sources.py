"""Where the server's side is read, as a user says it; and what cannot be meant."""

from __future__ import annotations

import pytest

from pytest_llmperf.errors import ConfigError, Where
from pytest_llmperf.measure.server_sources import ITS_OWN_PAGE, ServerSources, parse_server_sources


def parsed(*scrape: str, prometheus: str | None = None, labels: str | None = None) -> ServerSources:
    return parse_server_sources(scrape, prometheus, labels, lambda name: Where(option=name))


def test_nothing_said_is_the_endpoint_s_own_page() -> None:
    assert parsed() == ITS_OWN_PAGE


def test_pages_by_their_kind() -> None:
    assert parsed("dcgm=http://gpu:9400", "engine = https://pod:8000/a/metrics").pages == (
        ("dcgm", "http://gpu:9400/metrics"),
        ("engine", "https://pod:8000/a/metrics"),
    )


@pytest.mark.parametrize("labels", ['namespace="x"', 'namespace="x",pod=~"llm-.*"', ' a!="b \\"c\\"" , d!~"e" ', None])
def test_a_prometheus_and_labels(labels: str | None) -> None:
    found = parsed(prometheus="http://prom:9090/under/a/path", labels=labels)
    assert found == ServerSources(prometheus="http://prom:9090/under/a/path", labels=(labels or "").strip())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("http://gpu:9400", r"^scrape: no page with its kind\n  Write KIND=URL with a KIND of engine, dcgm"),
        ("http://gpu:9400/metrics?a=b", r"^scrape: no page with its kind"),
        ("dgcm=http://gpu:9400", r"^scrape: unknown kind of page 'dgcm'\n  Did you mean 'dcgm'"),
        ("dcgm=gpu:9400", r"^scrape: 'gpu:9400' is no http\(s\) URL with a host"),
        ("dcgm=", r"^scrape: '' is no http\(s\) URL"),
        ("dcgm=http://gpu:94000", r"^scrape: 'http://gpu:94000' is no http\(s\) URL"),
        ("dcgm=http://me:secret@gpu:9400", r"^scrape: the URL holds a credential, or goes on(?!.*secret)"),
        ("dcgm=http://gpu:9400/metrics?token=secret", r"^scrape: the URL holds a credential, or goes on(?!.*secret)"),
    ],
)
def test_what_is_no_page(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parsed(text)


@pytest.mark.parametrize("labels", ["namespace=x", '{namespace="x"}', "x", 'a="b" c="d"', 'a="b"}[1h]'])
def test_what_are_no_labels(labels: str) -> None:
    with pytest.raises(ConfigError, match=r"^prometheus_labels: .* are no labels\n  Write PromQL's matchers"):
        parsed(prometheus="http://prom:9090", labels=labels)


def test_what_does_not_go_together() -> None:
    with pytest.raises(ConfigError, match=r"^scrape: with a Prometheus no page is read"):
        parsed("dcgm=http://gpu:9400", prometheus="http://prom:9090")
    with pytest.raises(ConfigError, match=r"^prometheus_labels: labels select .* none is named\n  Add --llmperf-prometheus="):
        parsed(labels='namespace="x"')
    with pytest.raises(ConfigError, match=r"^prometheus: 'prom:9090' is no http\(s\) URL"):
        parsed(prometheus="prom:9090")
