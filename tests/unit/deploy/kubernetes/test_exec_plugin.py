"""Kubeconfigs whose credentials a program gives: real programs that answer, fail, hang, and want to ask somebody."""

from __future__ import annotations

import json
import os
import pty
import sys
from pathlib import Path
from select import select
from typing import Any

import pytest

from pytest_llmperf.deploy.kubernetes.api import exec_plugin
from pytest_llmperf.deploy.kubernetes.api.credentials import load_credentials
from pytest_llmperf.deploy.kubernetes.api.refusals import LoginError
from pytest_llmperf.errors import ConfigError
from tests.unit.deploy.certificates import make_certificate
from tests.unit.deploy.kubernetes.kubeconfigs import SERVER, TOKEN, kubeconfig, plugin, shown

pytestmark = pytest.mark.usefixtures("nobody")
API_VERSION = "client.authentication.k8s.io/v1"
WAIT_S = 30.0


def credential(**status: object) -> str:
    return json.dumps({"apiVersion": API_VERSION, "kind": "ExecCredential", "status": status})


def test_a_plugin_gives_a_token(tmp_path: Path) -> None:
    user = plugin(tmp_path, f"echo '{credential(token=TOKEN)}'")
    found = load_credentials(kubeconfig(tmp_path / "config", user=user), None)
    assert found.headers() == {"Authorization": f"Bearer {TOKEN}"}
    assert "login-helper" in found.login


def test_a_plugin_gives_a_certificate(tmp_path: Path) -> None:
    _, certificate = make_certificate(tmp_path)
    key = (tmp_path / "key.pem").read_text()
    (tmp_path / "answer").write_text(credential(clientCertificateData=certificate.read_text(), clientKeyData=key))
    found = load_credentials(kubeconfig(tmp_path / "config", user=plugin(tmp_path, f"cat {tmp_path}/answer")), None)
    assert found.headers() == {}
    assert key.strip() in found.certificate
    assert key.splitlines()[1] not in repr([found, found.certificate])


def test_a_plugin_is_told_the_cluster_where_it_wants_that_and_that_nobody_answers(tmp_path: Path) -> None:
    script = f'printf %s "$KUBERNETES_EXEC_INFO" > {tmp_path}/told; cat > {tmp_path}/read; echo "$ANSWER"'
    extension = {"name": "client.authentication.k8s.io/exec", "extension": {"audience": "x"}}
    cluster = {"server": SERVER, "insecure-skip-tls-verify": True, "extensions": [extension]}
    given = [{"name": "ANSWER", "value": credential(token=TOKEN)}]
    told: list[Any] = []
    for more in ({}, {"provideClusterInfo": True}):
        file = kubeconfig(tmp_path / "config", user=plugin(tmp_path, script, env=given, **more), cluster=cluster)
        assert load_credentials(file, None).headers() == {"Authorization": f"Bearer {TOKEN}"}
        told.append(json.loads((tmp_path / "told").read_text()))
    assert (tmp_path / "read").read_text() == ""
    assert told[0] == {"apiVersion": API_VERSION, "kind": "ExecCredential", "spec": {"interactive": False}}
    assert told[1]["spec"] == {"interactive": False, "cluster": {**cluster, "config": {"audience": "x"}}}


def test_a_token_that_has_expired_is_renewed(tmp_path: Path) -> None:
    answer = credential(token="t0ken-$n", expirationTimestamp="2020-01-01T00:00:00Z").replace('"', '\\"')
    script = f'cd {tmp_path}; echo x >> count; n=$(grep -c x count); [ "$n" -lt 4 ] || exit 3; echo "{answer}"'
    found = load_credentials(kubeconfig(tmp_path / "config", user=plugin(tmp_path, script)), None)
    assert [found.headers() for _ in range(2)] == [{"Authorization": f"Bearer t0ken-{n}"} for n in (2, 3)]
    with pytest.raises(LoginError, match=r"login-helper' failed with status 3\n") as raised:
        found.headers()
    assert raised.value.hint is not None
    assert "kubectl --context=prod get pods" in raised.value.hint


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("echo first >&2; echo 'please log in' >&2; exit 1", "failed with status 1: please log in"),
        ("exit 7", "failed with status 7"),
        (f"echo 'Authorization: Bearer {TOKEN}' >&2; exit 1", r"failed with status 1: Authorization: Bearer \*\*\*"),
        ("echo '{}'", "has given no ExecCredential"),
        (f"echo {TOKEN}", "has given no JSON"),
        (f"echo '{credential(other=TOKEN)}'", "has given neither a token nor a certificate"),
        (f"echo '{credential(token=7)}'", "has given neither a token nor a certificate"),
        (f"echo '{credential(token=TOKEN)}' | sed s,/v1,/v1beta1,", "speaks 'client.authentication.k8s.io/v1beta1'"),
    ],
)
def test_a_plugin_that_fails_says_how_to_log_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], text: str, told: str
) -> None:
    file = kubeconfig(tmp_path / "config", user=plugin(tmp_path, text, args=[f"--client-secret={TOKEN}"]))
    controller, terminal = pty.openpty()
    with open(controller, "rb"), open(terminal, "w", encoding="utf-8") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        with pytest.raises(LoginError, match=f"no credentials for {SERVER}: .*login-helper' {told}") as raised:
            load_credentials(file, None)
        monkeypatch.undo()
    assert "kubectl --context=prod get pods" in str(raised.value)
    assert TOKEN not in shown(raised.value)
    assert capfd.readouterr() == ("", "")


def test_a_plugin_that_hangs_is_ended_with_all_that_it_has_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive = tmp_path / "alive"
    os.mkfifo(alive)
    reader = os.open(alive, os.O_RDONLY | os.O_NONBLOCK)
    text = f"exec 3> {alive}; echo y >&3; echo 'waiting for the browser' >&2; sleep 600; exit 1"
    file = kubeconfig(tmp_path / "config", user=plugin(tmp_path, text))
    # A slow machine may need longer to begin it.
    for limit_s in (0.3, 3.0, 30.0):
        monkeypatch.setattr(exec_plugin, "PLUGIN_S", limit_s)
        with pytest.raises(LoginError, match=rf"login-helper' did not end within {limit_s:g} s") as raised:
            load_credentials(file, None)
        if raised.value.what.endswith("s: waiting for the browser"):
            break
    else:
        pytest.fail("its last line is not told")
    # The end of the pipe comes when nobody has it open any more.
    said = b""
    while select([reader], [], [], WAIT_S)[0] and (more := os.read(reader, 100)):
        said += more
    assert said.strip(b"y\n") == b""
    assert not select([reader], [], [], 0)[0] or os.read(reader, 1) == b""
    os.close(reader)


def test_a_plugin_that_is_not_there(tmp_path: Path) -> None:
    user = {"exec": {"apiVersion": API_VERSION, "command": "no-such-login-helper"}}
    with pytest.raises(LoginError, match="plugin 'no-such-login-helper' cannot be run: No such file"):
        load_credentials(kubeconfig(tmp_path / "config", user=user), None)


@pytest.mark.parametrize("user", [{"exec": {"command": "x"}}, {"exec": {"apiVersion": API_VERSION, "args": ["x"]}}])
def test_settings_that_lack_something(tmp_path: Path, user: object) -> None:
    with pytest.raises(ConfigError, match=r"exec .*has no '(apiVersion|command)'"):
        load_credentials(kubeconfig(tmp_path / "config", user=user), None)
