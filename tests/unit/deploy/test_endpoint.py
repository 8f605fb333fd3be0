"""The endpoint target: what is wrong with a URL or a token is known before a test runs, and neither is shown."""

from __future__ import annotations

import pytest

from pytest_llmperf.deploy.base import check_standing
from pytest_llmperf.deploy.endpoint import EndpointTarget
from pytest_llmperf.errors import ConfigError, DeployError
from pytest_llmperf.experiment.catalog import builtin_directory, load_catalog
from pytest_llmperf.experiment.matrix import expand
from tests.unit.deploy.scripted_server import scripted_server

CATALOG = load_catalog([builtin_directory()])
CELL = expand(CATALOG.matrix_named("default"), CATALOG)[0]


def target(url: str, api_key: str | None = None, served_model: str | None = "m-one") -> EndpointTarget:
    return EndpointTarget(url=url, served_model=served_model, ready_timeout_s=10.0, api_key=api_key)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000", "https://llm.example.com/", "http://[::1]:8000/behind/a/prefix"])
def test_urls(url: str) -> None:
    target(url, "sk-123").check()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("127.0.0.1:8000", "URL"),
        ("localhost", "no http(s) URL"),
        ("ftp://host", "no http(s) URL"),
        ("http://", "no http(s) URL with a host"),
        ("http://[::1", "no URL"),
        ("http://host:port", "no URL"),
        ("http://host:8000/v1/", "ends in /v1"),
        ("http://host:8000/?key=value", "goes on after its path"),
        ("http://user:s3cret@host:8000", "holds a credential"),
        ("s3cret@host:8000", "holds a credential"),
        ("//user:s3cret@host", "holds a credential"),
    ],
)
def test_what_is_no_url(url: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        target(url).check()
    assert message in str(caught.value)
    assert str(caught.value).startswith("--llmperf-url: ")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("key", ["sk-s3cret\n", "sk-s3crét", "sk-s3cret\x00"])
def test_a_token_that_http_cannot_carry(key: str) -> None:
    with pytest.raises(ConfigError, match="an HTTP header cannot carry") as caught:
        target("http://127.0.0.1:8000", key).check()
    assert "s3cr" not in str(caught.value)
    assert "s3cr" not in repr(target("http://127.0.0.1:8000", key))


def test_a_server_that_is_gone_is_lost_and_one_in_trouble_is_not() -> None:
    with scripted_server() as server:
        deployment = target(server.url).deploy(CELL, lambda _: None)
        server.replies["/health"] = [(503, "overloaded")]
        check_standing(deployment)
    with pytest.raises(DeployError, match=rf"{CELL.id}: the deployment was lost: {server.url} cannot be reached any more"):
        check_standing(deployment)
    deployment.close()


def test_a_server_of_another_model_is_not_the_cell() -> None:
    with scripted_server() as server, pytest.raises(DeployError) as caught:
        target(server.url, served_model=None).deploy(CELL, print)
    assert "the cell's model is llama-3.1-8b, but the server serves: m-one, m-two" in str(caught.value)
    assert "--llmperf-served-model" in str(caught.value)


@pytest.mark.parametrize("name", ["llama-3.1-8b", "meta-llama/Llama-3.1-8B-Instruct"])
def test_the_cells_model_is_found_among_others(name: str) -> None:
    with scripted_server(v1__models=[(200, {"data": [{"id": "m-one"}, {"id": name}]})]) as server:
        assert target(server.url, served_model=None).deploy(CELL, print).endpoint.model == name
