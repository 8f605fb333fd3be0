"""Who asks, and whom: kubeconfigs as people have them. Nothing of a key stays on disk, and nothing is shown."""

from __future__ import annotations

import base64
import json
import logging
import os
import stat
import tempfile
from pathlib import Path

import pytest
import yaml

from pytest_llmperf.deploy.kubernetes.api.credentials import load_credentials
from pytest_llmperf.deploy.kubernetes.api.refusals import LoginError
from pytest_llmperf.errors import ConfigError
from tests.unit.deploy.certificates import make_certificate

SERVER = "https://10.1.2.3:6443"
TOKEN = "t0ken-0123456789"


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A person without any kubeconfig, pod or proxy."""
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def kubeconfig(
    file: Path, context: str = "prod", user: object = None, cluster: object = None, current: str | None = "same"
) -> Path:
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": context if current == "same" else current,
        "clusters": [{"name": "c", "cluster": {"server": SERVER} if cluster is None else cluster}],
        "users": [{"name": f"{context}-user", "user": {"token": TOKEN} if user is None else user}],
        "contexts": [{"name": context, "context": {"cluster": "c", "user": f"{context}-user"}}],
    }
    file.write_text(yaml.safe_dump(content))
    return file


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


def plugin(folder: Path, text: str) -> dict[str, object]:
    """A user whose credentials a program gives."""
    program = folder / "login-helper"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    api_version = "client.authentication.k8s.io/v1"
    return {"exec": {"apiVersion": api_version, "command": str(program), "args": [], "interactiveMode": "Never"}}


def test_a_plugin_gives_a_token(tmp_path: Path) -> None:
    credential = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": TOKEN}}
    user = plugin(tmp_path, f"echo '{json.dumps(credential)}'")
    found = load_credentials(kubeconfig(tmp_path / "config", user=user), None)
    assert found.headers() == {"Authorization": f"Bearer {TOKEN}"}
    assert "login-helper" in found.login


@pytest.mark.parametrize("text", ["echo 'please log in' >&2; exit 1", "echo '{}'"])
def test_a_plugin_that_fails_says_how_to_log_in(tmp_path: Path, text: str, capfd: pytest.CaptureFixture[str]) -> None:
    file = kubeconfig(tmp_path / "config", user=plugin(tmp_path, text))
    with pytest.raises(LoginError, match=f"no credentials for {SERVER}") as raised:
        load_credentials(file, None)
    assert "kubectl --context=prod get pods" in str(raised.value)
    assert "login-helper" in str(raised.value)
    assert "ERROR" not in capfd.readouterr().err


def test_what_others_log_meanwhile_is_no_trouble_with_credentials(tmp_path: Path) -> None:
    found = load_credentials(kubeconfig(tmp_path / "config"), None)
    renew = found.configuration.refresh_api_key_hook

    def noisy(configuration: object) -> None:
        logging.getLogger("somebody.else").error("a request failed")
        renew(configuration)

    found.configuration.refresh_api_key_hook = noisy
    assert found.headers() == {"Authorization": f"Bearer {TOKEN}"}
