"""The endpoint target: what is wrong with a URL or a token is known before a test runs, and neither is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_llmperf.deploy.base import check_standing
from pytest_llmperf.deploy.endpoint import EndpointTarget
from pytest_llmperf.errors import ConfigError, DeployError
from pytest_llmperf.experiment.catalog import builtin_directory, load_catalog
from pytest_llmperf.experiment.matrix import expand
from tests.unit.deploy.certificates import make_certificate
from tests.unit.deploy.scripted_server import scripted_server

CATALOG = load_catalog([builtin_directory()])
CELL = expand(CATALOG.matrix_named("default"), CATALOG)[0]


def target(url: str, api_key: str | None = None, served_model: str | None = "m-one") -> EndpointTarget:
    return EndpointTarget(url=url, served_model=served_model, ready_timeout_s=10.0, api_key=api_key)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8000",
        "https://llm.example.com/",
        "http://[::1]:8000/behind/a/prefix",
        "http://my_service-1:65535",
        "http://localhost.:1",
        "https://bücher.example",
    ],
)
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
        ("http://127.0.0.1:99999", "port 99999 is not between 1 and 65535"),
        ("http://127.0.0.1:0", "port 0 is not between 1 and 65535"),
        ("http://a b", "no host's name"),
        ("http://a%20b:80", "no host's name"),
        ("http://a..b", "no host's name"),
        ("http://a,b", "no host's name"),
        (f"http://{'a' * 64}.example", "no host's name"),
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


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_credential_says_where_it_comes_from(status: int) -> None:
    with scripted_server(v1__models=[(status, "")]) as server, pytest.raises(DeployError) as caught:
        target(server.url).deploy(CELL, print)
    assert "--llmperf-api-key-env" in str(caught.value)
    assert "--llmperf-header" in str(caught.value)


def test_a_server_of_another_model_is_not_the_cell() -> None:
    with scripted_server() as server, pytest.raises(DeployError) as caught:
        target(server.url, served_model=None).deploy(CELL, print)
    assert "the cell's model is llama-3.1-8b, but the server serves: m-one, m-two" in str(caught.value)
    assert "--llmperf-served-model" in str(caught.value)


@pytest.mark.parametrize("name", ["llama-3.1-8b", "meta-llama/Llama-3.1-8B-Instruct"])
def test_the_cells_model_is_found_among_others(name: str) -> None:
    with scripted_server(v1__models=[(200, {"data": [{"id": "m-one"}, {"id": name}]})]) as server:
        assert target(server.url, served_model=None).deploy(CELL, print).endpoint.model == name


def test_certificates_that_cannot_be_trusted_are_known_beforehand(tmp_path: Path) -> None:
    no_certificate = tmp_path / "notes.txt"
    no_certificate.write_text("nothing")
    for ca_file, verify, message in [
        ("/nowhere/ca.pem", True, "--llmperf-ca-file: the file '/nowhere/ca.pem' cannot be read: No such file or directory"),
        (str(no_certificate), True, f"--llmperf-ca-file: the file '{no_certificate}' holds no certificate in PEM form"),
        (str(no_certificate), False, "--llmperf-ca-file: --llmperf-insecure trusts any certificate"),
    ]:
        with pytest.raises(ConfigError) as caught:
            EndpointTarget("https://h", None, 1.0, ca_file=ca_file, verify=verify).check()
        assert str(caught.value).startswith(message)


def test_headers_that_cannot_be_sent_are_known_beforehand() -> None:
    twice = EndpointTarget("https://h", None, 1.0, api_key="sk", headers=(("authorization", "s3cret"),))
    with pytest.raises(ConfigError, match=r"--llmperf-header: the header 'authorization' is given, and so is an API key"):
        twice.check()
    assert "s3cret" not in repr(twice)


def test_a_secure_server_is_told_gone_from_untrusted(tmp_path: Path) -> None:
    both, certificate = make_certificate(tmp_path)
    with scripted_server(both) as server:
        deployment = EndpointTarget(server.url, "m-one", 10.0, ca_file=str(certificate)).deploy(CELL, print)
        assert deployment.lost() is None
    assert "cannot be reached any more" in str(deployment.lost())


def test_a_service_of_another_kind_has_no_first_completion() -> None:
    with scripted_server(v1__models=[(404, "")]) as server:
        deployment = target(server.url, served_model=None).deploy(CELL, print)
    assert [phase.name for phase in deployment.info.phases] == ["ready"]
    assert not deployment.endpoint.openai


def test_the_version_is_known_where_the_server_says_it() -> None:
    with scripted_server(version=[(200, '{"version": "0.32.0"}')]) as server:
        assert target(server.url).deploy(CELL, print).info.engine_version == "0.32.0"
    with scripted_server(version=[(404, "")]) as server:
        assert target(server.url).deploy(CELL, print).info.engine_version is None
