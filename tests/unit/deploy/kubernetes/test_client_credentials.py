"""Who asks, and whom: kubeconfigs as people have them. Nothing of a key stays on disk, and nothing is shown."""

from __future__ import annotations

import base64
import os
import tempfile
from pathlib import Path

import pytest
import yaml

from pytest_llmperf.deploy.kubernetes.api.credentials import load_credentials
from pytest_llmperf.deploy.kubernetes.api.kinds import CONFIG_MAP
from pytest_llmperf.deploy.kubernetes.api.refusals import LoginError
from pytest_llmperf.errors import ConfigError
from tests.unit.deploy.certificates import make_certificate
from tests.unit.deploy.kubernetes.kubeconfigs import SERVER, TOKEN, kubeconfig, shown
from tests.unit.deploy.kubernetes.scripted_api import api_at

pytestmark = pytest.mark.usefixtures("nobody")


def test_a_token(tmp_path: Path) -> None:
    found = load_credentials(kubeconfig(tmp_path / "config"), None)
    assert (found.server, found.context, found.in_cluster) == (SERVER, "prod", False)
    assert found.headers() == {"Authorization": f"Bearer {TOKEN}"}
    assert TOKEN not in repr(found)


def test_files_are_merged_as_kubectl_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = kubeconfig(tmp_path / "first", "stage")
    second = kubeconfig(tmp_path / "second", "prod", user={"token": "other-0123456789"})
    monkeypatch.setenv("KUBECONFIG", os.pathsep.join(map(str, (tmp_path / "none", first, second))))
    assert load_credentials(None, None).context == "stage"
    assert load_credentials(None, "prod").headers() == {"Authorization": "Bearer other-0123456789"}


def test_the_one_of_the_home_directory(tmp_path: Path) -> None:
    (tmp_path / "home" / ".kube").mkdir(parents=True)
    kubeconfig(tmp_path / "home" / ".kube" / "config")
    assert load_credentials(None, None).context == "prod"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere: there is no such kubeconfig"):
        load_credentials(tmp_path / "nowhere", None)


def test_no_kubeconfig_at_all() -> None:
    with pytest.raises(ConfigError, match=r"~/.kube/config: there is no such kubeconfig") as raised:
        load_credentials(None, None)
    assert "KUBECONFIG" in str(raised.value)


def test_a_pod_without_a_service_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    with pytest.raises(ConfigError, match="this pod has no service account's credentials"):
        load_credentials(None, None)
    with pytest.raises(ConfigError, match="no context 'prod' without a kubeconfig"):
        load_credentials(None, "prod")


def test_a_context_that_it_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown context 'prd'") as raised:
        load_credentials(kubeconfig(tmp_path / "config"), "prd")
    assert "Did you mean 'prod'?" in str(raised.value)


def test_no_current_context(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no current context") as raised:
        load_credentials(kubeconfig(tmp_path / "config", current=""), None)
    assert "Name one of: prod." in str(raised.value)


@pytest.mark.parametrize(("text", "told"), [("a: [\n", ":2: is no YAML"), ("- a\n", "is no kubeconfig"), ("\0", "no YAML")])
def test_a_file_that_is_something_else(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "config").write_text(text)
    with pytest.raises(ConfigError, match=told):
        load_credentials(tmp_path / "config", None)


def test_a_context_whose_cluster_is_not_there(tmp_path: Path) -> None:
    content = yaml.safe_load(kubeconfig(tmp_path / "config").read_text())
    content["clusters"] = []
    (tmp_path / "config").write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match="its context 'prod' cannot be used"):
        load_credentials(tmp_path / "config", None)


def test_keys_in_a_kubeconfig_do_not_stay_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, certificate = make_certificate(tmp_path)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    data = {
        name: base64.b64encode(file.read_bytes()).decode()
        for name, file in (("client-certificate-data", certificate), ("client-key-data", tmp_path / "key.pem"))
    }
    authority = {"server": SERVER, "certificate-authority-data": data["client-certificate-data"]}
    file = kubeconfig(tmp_path / "config", user=data, cluster=authority)
    for _ in range(2):  # expired credentials are read anew
        found = load_credentials(file, None)
        assert found.tls is not None
        assert len(found.tls.get_ca_certs()) == 1
        assert found.headers() == {}
        assert "PRIVATE KEY" in found.certificate
        assert "PRIVATE KEY" not in repr(found)
        assert not list(scratch.iterdir())


@pytest.mark.parametrize(
    ("no_proxy", "proxy"),
    [
        ("", "http://proxy:3128"),
        ("10.1.2.3", None),
        ("10.1.0.0/16", None),
        ("10.2.0.0/16,example.com", "http://proxy:3128"),
        ("*", None),
    ],
)
def test_the_environments_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_proxy: str, proxy: str | None) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert load_credentials(kubeconfig(tmp_path / "config"), None).proxy == proxy


def test_a_kubeconfigs_own_proxy(tmp_path: Path) -> None:
    cluster = {"server": SERVER, "proxy-url": "http://jump:8080"}
    assert load_credentials(kubeconfig(tmp_path / "config", cluster=cluster), None).proxy == "http://jump:8080"
    cluster["proxy-url"] = "socks5://jump:1080"
    with pytest.raises(ConfigError, match=r"neither http:// nor https:// \(socks5://jump:1080\)"):
        load_credentials(kubeconfig(tmp_path / "config", cluster=cluster), None)


@pytest.mark.parametrize("written", [f"{TOKEN}\n", f" {TOKEN}\r\n\n"])
def test_a_file_of_a_token_may_end_with_a_line(tmp_path: Path, written: str) -> None:
    (tmp_path / "token").write_text(written, newline="")
    headers = load_credentials(kubeconfig(tmp_path / "config", user={"tokenFile": "token"}), None).headers()
    assert headers == {"Authorization": f"Bearer {TOKEN}"}
    assert TOKEN not in repr(headers)


@pytest.mark.parametrize("written", [f"{TOKEN}\nmore", f"{TOKEN}\n more", f"{TOKEN}\x00", f"{TOKEN}ł", " \n"])
def test_a_token_that_cannot_be_sent_is_not_shown(tmp_path: Path, written: str) -> None:
    (tmp_path / "token").write_text(written, encoding="utf-8")
    found = load_credentials(kubeconfig(tmp_path / "config", user={"tokenFile": "token"}), None)
    with pytest.raises(LoginError, match=f"the token of the context 'prod' cannot be sent to {SERVER}: it ") as raised:
        found.headers()
    assert "kubectl --context=prod get pods" in str(raised.value)
    assert TOKEN not in shown(raised.value)


@pytest.mark.parametrize("said", ["some-string", ["a"], {"command": ["a", "b"]}])
def test_an_exec_that_is_no_program_is_told(tmp_path: Path, said: object) -> None:
    file = kubeconfig(tmp_path / "config", user={"exec": said, "client-key-data": TOKEN})
    with pytest.raises(ConfigError, match="its context 'prod' cannot be used: its user's 'exec' is not a mapping") as raised:
        load_credentials(file, None)
    assert TOKEN not in shown(raised.value)


def test_what_the_library_says_of_a_kubeconfig_holds_no_secret(tmp_path: Path) -> None:
    user = {"auth-provider": {"name": "oidc", "config": {"refresh-token": TOKEN}}, "client-key-data": TOKEN}
    file = kubeconfig(tmp_path / "config", user=user)
    with pytest.raises(ConfigError, match=r"Expected key id-token in .*config: users/prod-user") as raised:
        load_credentials(file, None)
    assert TOKEN not in shown(raised.value)


@pytest.mark.parametrize("broken", ["_named", "_proxy", "_tls", "urlsplit", "Credentials"])
def test_what_nobody_has_foreseen_shows_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    _, certificate = make_certificate(tmp_path)
    key = (tmp_path / "key.pem").read_text()
    user = {
        "client-certificate-data": base64.b64encode(certificate.read_bytes()).decode(),
        "client-key-data": base64.b64encode(key.encode()).decode(),
    }
    cluster = {"server": SERVER, "proxy-url": f"http://u:{TOKEN}@jump:8080"}
    content = yaml.safe_load(kubeconfig(tmp_path / "config", user=user, cluster=cluster).read_text())
    content["users"].append({"name": "another", "user": {"token": TOKEN}})
    (tmp_path / "config").write_text(yaml.safe_dump(content))
    monkeypatch.setenv("HTTPS_PROXY", f"http://u:{TOKEN}@proxy:3128")

    def fail(*_: object) -> None:
        raise RuntimeError("nobody has foreseen this")

    monkeypatch.setattr(f"pytest_llmperf.deploy.kubernetes.api.credentials.{broken}", fail)
    with pytest.raises((RuntimeError, ConfigError), match="nobody has foreseen this") as raised:
        load_credentials(tmp_path / "config", None)
    told = shown(raised.value)
    assert "load_credentials" in told
    for secret in (TOKEN, user["client-key-data"][40:80], key.splitlines()[1]):
        assert secret not in told


def test_a_request_that_fails_as_nobody_has_foreseen_shows_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("nobody has foreseen this")

    monkeypatch.setattr("urllib3.connectionpool.HTTPConnectionPool._make_request", fail)
    api = api_at("http://127.0.0.1:9")
    with pytest.raises(RuntimeError) as raised:
        api.get(CONFIG_MAP, "x", "ns")
    told = shown(raised.value)
    assert "Authorization" in told
    assert TOKEN not in told
