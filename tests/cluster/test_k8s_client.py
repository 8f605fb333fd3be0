"""The client against a real API server: what it makes, sees and is refused; one that goes away; credentials that expire."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from pytest_llmperf.deploy.kubernetes.api.client import KubeApi
from pytest_llmperf.deploy.kubernetes.api.kinds import CONFIG_MAP, DEPLOYMENT, NAMESPACE, NODE, POD, SECRET
from pytest_llmperf.deploy.kubernetes.api.refusals import (
    ConflictError,
    ForbiddenError,
    LoginError,
    NotFoundError,
    RefusedError,
    UnreachableError,
)
from pytest_llmperf.deploy.kubernetes.names import MANAGER
from pytest_llmperf.deploy.kubernetes.ready.container_log import whole_log
from pytest_llmperf.deploy.kubernetes.ready.seen import LogOf
from pytest_llmperf.errors import DeployError
from tests.cluster.cluster import Cluster
from tests.cluster.components import api_url
from tests.cluster.objects import config_map, pod


def placed(namespace: str, manifest: Any) -> dict[str, Any]:
    return {**manifest, "metadata": {**manifest["metadata"], "namespace": namespace}}


def kubeconfig_with(cluster: Cluster, file: Path, **user: str) -> Path:
    """The cluster's kubeconfig for another user."""
    content = yaml.safe_load(cluster.kubeconfig.read_text())
    content["users"][0]["user"] = {key.replace("_", "-"): value for key, value in user.items()}
    file.write_text(yaml.safe_dump(content))
    return file


def token_of(cluster: Cluster, namespace: str, account: str) -> str:
    return cluster.kubectl("create", "token", account, f"--namespace={namespace}", "--duration=10m").strip()


def test_who_and_where(api: KubeApi, cluster: Cluster) -> None:
    assert api.version().startswith("v1.")
    assert (api.user(), api.context, api.in_cluster, api.server) == ("admin", "llmperf", False, api_url(cluster.network))
    # The header tells whole seconds, cut off.
    assert -2.0 < api.now() - time.time() < 1.0


def test_objects_are_applied_changed_and_deleted(api: KubeApi, namespace: str) -> None:
    made = api.apply(placed(namespace, config_map("one", {"a": "1"})))
    assert {entry["manager"] for entry in made["metadata"]["managedFields"]} == {MANAGER}
    assert api.apply(placed(namespace, config_map("one", {"b": "2"})))["data"] == {"b": "2"}
    assert api.apply(placed(namespace, config_map("two", {})), dry_run=True)["metadata"]["name"] == "two"
    assert [one["metadata"]["name"] for one in api.list(CONFIG_MAP, namespace, fields="metadata.name!=kube-root-ca.crt")] == [
        "one"
    ]
    changed = api.patch(CONFIG_MAP, "one", namespace, {"metadata": {"labels": {"x": "y"}}})
    with pytest.raises(ConflictError):
        api.patch(
            CONFIG_MAP, "one", namespace, {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}, "data": {}}
        )
    assert [one["metadata"]["name"] for one in api.list(CONFIG_MAP, None, labels="x=y")] == ["one"]
    assert not api.delete(CONFIG_MAP, "one", namespace, uid="another")
    assert api.delete(CONFIG_MAP, "one", namespace, uid=changed["metadata"]["uid"])
    assert not api.delete(CONFIG_MAP, "one", namespace)
    assert api.get(CONFIG_MAP, "one", namespace) is None


def test_what_exists_cannot_be_created(api: KubeApi, namespace: str) -> None:
    api.create(placed(namespace, config_map("one", {})))
    with pytest.raises(ConflictError, match="it exists already"):
        api.create(placed(namespace, config_map("one", {})))


def test_long_lists_come_whole(api: KubeApi, namespace: str) -> None:
    names = {f"page-{index:04}" for index in range(1020)}
    objects = [{**config_map(name, {}), "metadata": {"name": name, "labels": {"many": "yes"}}} for name in sorted(names)]
    threads = [
        Thread(target=lambda part=part: [api.create(placed(namespace, one)) for one in part])
        for part in (objects[::2], objects[1::2])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {one["metadata"]["name"] for one in api.list(CONFIG_MAP, namespace, labels="many=yes")} == names


def test_kinds_that_are_not_known_beforehand(api: KubeApi) -> None:
    budget = {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "x"}}
    assert api.kind_of(budget).path("ns", "x") == "/apis/policy/v1/namespaces/ns/poddisruptionbudgets/x"
    with pytest.raises(NotFoundError, match="the cluster knows no PodDisruptionBudget of policy/v1beta1") as raised:
        api.kind_of({**budget, "apiVersion": "policy/v1beta1"})
    assert "It serves policy/v1 of that group" in str(raised.value)
    with pytest.raises(NotFoundError, match=r"knows no Service of serving\.knative\.dev/v1") as raised:
        api.kind_of({"apiVersion": "serving.knative.dev/v1", "kind": "Service"})
    assert "is not installed there" in str(raised.value)


def test_mistakes_in_manifests_are_named(api: KubeApi, namespace: str) -> None:
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x", "namespace": namespace}}
    with pytest.raises(RefusedError, match=r"\.spec\.replica: field not declared in schema"):
        api.apply({**deployment, "spec": {"replica": 1}})
    with pytest.raises(RefusedError, match=r"spec\.template\.spec\.containers: Required value"):
        api.apply(
            {**deployment, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}}}}
        )
    with pytest.raises(NotFoundError, match="there is no such namespace"):
        api.apply(placed("nowhere", config_map("one", {})))


def test_quotas(api: KubeApi, namespace: str) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "gpus", "namespace": namespace}}
    api.apply({**quota, "spec": {"hard": {"requests.nvidia.com/gpu": "1"}}})

    def refused() -> str:
        try:
            api.create(placed(namespace, {**pod("greedy", ["true"], {"nvidia.com/gpu": "2"})}))
        except ForbiddenError as error:
            return error.what
        return ""

    # It holds once the quota's controller has counted.
    deadline = time.monotonic() + 30.0
    while "has no room" not in (what := refused()):
        assert time.monotonic() < deadline, what
    assert "the quota 'gpus' has no room: requested requests.nvidia.com/gpu=2, used requests.nvidia.com/gpu=0 of" in what


def test_pod_security(api: KubeApi, namespace: str) -> None:
    api.patch(NAMESPACE, namespace, None, {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}})
    with pytest.raises(
        ForbiddenError, match="the namespace's level 'restricted:latest' forbids allowPrivilegeEscalation"
    ) as raised:
        api.create(placed(namespace, pod("free", ["true"])))
    assert "securityContext" in str(raised.value)


def test_a_webhook_that_does_not_answer(api: KubeApi, namespace: str) -> None:
    hook = {
        "name": "gone.llmperf.dev",
        "clientConfig": {"url": "https://127.0.0.1:1/x"},
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
    }
    kind = "ValidatingWebhookConfiguration"
    made = api.apply(
        {"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": namespace}, "webhooks": [hook]}
    )
    try:
        deadline = time.monotonic() + 30.0
        while True:  # the API server hears of it a moment later
            try:
                api.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "x-", "namespace": namespace}})
            except RefusedError as error:
                assert "the admission webhook 'gone.llmperf.dev' does not answer" in error.what  # noqa: PT017
                break
            assert time.monotonic() < deadline
    finally:
        api.delete(api.kind_of(made), namespace)


def test_logs(api: KubeApi, namespace: str, cluster: Cluster) -> None:
    api.create(placed(namespace, pod("speaker", ["sh", "-c", "seq 100; sleep infinity"])))
    assert api.log("speaker", namespace, "main") == ""
    assert api.log("nobody", namespace, "main") == ""
    cluster.kubectl("wait", "pod/speaker", "--for=condition=Ready", f"--namespace={namespace}", "--timeout=60s")
    cluster.await_true("the log is there", lambda: api.log("speaker", namespace, "main", lines=2) == "99\n100\n")
    assert api.log("speaker", namespace, "main", lines=None, limit_bytes=4) == "1\n2\n"
    assert api.log("speaker", namespace, "main", lines=2, within_s=20.0) == "99\n100\n"
    kept = whole_log(api, namespace, LogOf("speaker", "main"), longest_bytes=9).splitlines()
    assert (kept[:4], kept[-2:]) == (["1", "2", "3", "4"], ["99", "100"])
    assert api.log("speaker", namespace, "main", previous=True) == ""


def test_a_permission_that_is_missing_is_named(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    file = kubeconfig_with(cluster, tmp_path / "config", token=token_of(cluster, namespace, "default"))
    with KubeApi.connect(file) as api:
        user = f"system:serviceaccount:{namespace}:default"
        assert api.user() == user
        assert not api.may("create", DEPLOYMENT, namespace).allowed
        assert not api.may("list", NODE).allowed
        with pytest.raises(ForbiddenError, match=f"'{user}' may not list pods in the namespace '{namespace}'") as raised:
            api.list(POD, namespace)
        assert "manifests/rbac/" in str(raised.value)
        with pytest.raises(ForbiddenError, match="may not list nodes in the whole cluster"):
            api.list(NODE)


def test_nobody(cluster: Cluster, tmp_path: Path) -> None:
    with KubeApi.connect(kubeconfig_with(cluster, tmp_path / "config")) as api, pytest.raises(ForbiddenError) as raised:
        api.list(SECRET, "default")
    assert "log in again" in str(raised.value)


def test_credentials_that_have_expired(cluster: Cluster, tmp_path: Path) -> None:
    pki = cluster.state.folder / "pki"
    signed = ["openssl", "x509", "-req", "-in", "late.csr", "-CA", f"{pki}/ca.crt", "-CAkey", f"{pki}/ca.key", "-out", "late.crt"]
    asked = [
        "openssl",
        "req",
        "-new",
        "-nodes",
        "-newkey",
        "rsa:2048",
        "-subj",
        "/O=system:masters/CN=late",
        "-keyout",
        "late.key",
    ]
    dates = ["-not_before", "20200101000000Z", "-not_after", "20200102000000Z"]
    for command in ([*asked, "-out", "late.csr"], [*signed, *_expired(dates)]):
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    user = {"client_certificate": str(tmp_path / "late.crt"), "client_key": str(tmp_path / "late.key")}
    with pytest.raises(LoginError) as raised:
        KubeApi.connect(kubeconfig_with(cluster, tmp_path / "config", **user))
    assert "does not accept the credentials of the context 'llmperf' (any more)" in str(raised.value)
    assert "Log in again, as you do for `kubectl --context=llmperf get pods`." in str(raised.value)


def _expired(dates: list[str]) -> list[str]:
    """How this machine's openssl is told of dates that are over: it may only know of days."""
    said = subprocess.run(["openssl", "x509", "-help"], capture_output=True, text=True, check=False)
    return dates if "-not_before" in said.stderr + said.stdout else ["-days", "-1"]


def test_credentials_that_change_meanwhile_are_read_anew(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    """A token whose service account is deleted counts no more; the kubeconfig has another by then."""
    cluster.kubectl("create", "serviceaccount", "brief", f"--namespace={namespace}")
    file = kubeconfig_with(cluster, tmp_path / "config", token=token_of(cluster, namespace, "brief"))
    with KubeApi.connect(file) as api:
        assert api.user().endswith(":brief")
        cluster.kubectl("delete", "serviceaccount", "brief", f"--namespace={namespace}")
        kubeconfig_with(cluster, file, token=token_of(cluster, namespace, "default"))
        # The API server remembers for ten seconds that a token was good.
        cluster.await_true("the new token is used", lambda: api.user().endswith(":default"))


def test_an_api_server_that_restarts_in_the_middle_of_calls(cluster: Cluster, api: KubeApi, namespace: str) -> None:
    told: list[str] = []
    api.on_trouble = told.append
    failed: list[DeployError] = []
    made: list[str] = []

    def make() -> None:
        for index in range(2000):
            if "end" in made:
                return
            try:
                api.create(placed(namespace, config_map(f"made-{index}", {})))
            except DeployError as error:
                failed.append(error)
                return
            made.append(f"made-{index}")

    thread = Thread(target=make)
    thread.start()
    cluster.await_true("calls are made", lambda: len(made) > 5)
    cluster.stop("kube-apiserver")
    while not told and thread.is_alive():
        thread.join(0.05)
    cluster.start("kube-apiserver")
    before = len(made)
    cluster.await_true("calls are made again", lambda: len(made) > before + 5 or bool(failed))
    made.append("end")
    thread.join()
    assert not failed
    there = {one["metadata"]["name"] for one in api.list(CONFIG_MAP, namespace)}
    assert set(made) - {"end"} <= there
    assert any("connection refused" in phrase for phrase in told)
    assert any(phrase.startswith("the API server answers again, after") for phrase in told)


def test_a_server_that_takes_connections_and_says_nothing(cluster: Cluster, tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        content = yaml.safe_load(cluster.kubeconfig.read_text())
        content["clusters"][0]["cluster"]["server"] = url
        (tmp_path / "config").write_text(yaml.safe_dump(content))
        started = time.monotonic()
        with pytest.raises(UnreachableError, match=f"{url} cannot be reached: no answer in time"):
            KubeApi.connect(tmp_path / "config")
        assert time.monotonic() - started < 20.0


def test_a_pods_own_credentials(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    """As in a pod: the files that the kubelet mounts, in a mount namespace of its own, and the variables that it sets."""
    account = tmp_path / "account"
    account.mkdir()
    (account / "token").write_text(token_of(cluster, namespace, "default"))
    (account / "ca.crt").write_bytes((cluster.state.folder / "pki" / "ca.crt").read_bytes())
    place = "/var/run/secrets/kubernetes.io/serviceaccount"
    mount = (
        f"mount -t tmpfs tmpfs /var/run && mkdir -p {place} && cp {account}/* {place} && exec {sys.executable} -c '{_AS_A_POD}'"
    )
    known = {name: value for name, value in os.environ.items() if name != "KUBECONFIG"}
    environment = {
        **known,
        "HOME": str(tmp_path),
        "KUBERNETES_SERVICE_HOST": cluster.network.node,
        "KUBERNETES_SERVICE_PORT": "6443",
    }
    done = subprocess.run(["unshare", "--mount", "sh", "-c", mount], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["in-cluster", True, f"system:serviceaccount:{namespace}:default"]


_AS_A_POD = """
import json
from pytest_llmperf.deploy.kubernetes.api.client import KubeApi
with KubeApi.connect() as api:
    print(json.dumps([api.context, api.in_cluster, api.user()]))
"""
