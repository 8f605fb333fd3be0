"""``pytest-llmperf doctor`` on a real cluster: what is missing, what is there, and what its exit status says."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from pytest_llmperf.experiment.catalog import manifests_directory
from tests.cluster.cluster import Cluster
from tests.cluster.components import NODE
from tests.cluster.objects import pod

CELL = "k8s_h100_standalone_llama-3.1-8b"
ROW = re.compile(r"^(ok|missing|unsure) ")


def doctor(cluster: Cluster, *words: str, kubeconfig: Path | None = None, **variables: str) -> tuple[int, str]:
    """The exit status, and what was said."""
    command = [sys.executable, "-m", "pytest_llmperf.cli", "doctor", "--matrix=full", "-k", CELL, *words]
    known = {name: value for name, value in cluster.environment.items() if name not in ("HF_TOKEN", "COLUMNS")}
    environment = {**known, "KUBECONFIG": str(kubeconfig or cluster.kubeconfig), **variables}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def states(said: str) -> Mapping[str, str]:
    """Each line's words after its state -> the state; words that are folded count as one text."""
    rows: dict[str, str] = {}
    state, text = "", ""
    for line in [*said.splitlines(), "ok end"]:
        if (match := ROW.match(line)) is not None:
            rows[text] = state
            state, text = match[1], ""
        text = " ".join([text, *ROW.sub("", line).split()]).strip()
    return {text: state for text, state in rows.items() if text}


def state_of(said: str, *words: str) -> str:
    """The state of the one line that has these words."""
    found = [(text, state) for text, state in states(said).items() if all(word in text for word in words)]
    assert len(found) == 1, f"{words} in {found}\n{said}"
    return found[0][1]


def test_all_that_is_needed_is_there(cluster: Cluster, namespace: str) -> None:
    cluster.kubectl("create", "secret", "generic", "hub", "--from-literal=key=hf_abcdefgh12345678", f"--namespace={namespace}")
    status, said = doctor(cluster, f"--namespace={namespace}", "--hf-secret=hub/key")
    assert status == 0, said
    assert state_of(said, "API server", "context llmperf") == "ok"
    assert state_of(said, "version v1.36") == "ok"
    assert state_of(said, "user admin") == "ok"
    assert state_of(said, f"namespace {namespace}") == "ok"
    assert state_of(said, "permissions all") == "ok"
    assert state_of(said, "nodes for k8s_h100", f"1 with 8 nvidia.com/gpu: {NODE}; 8 free now") == "ok"
    assert state_of(said, "default storage class", "standard") == "ok"
    assert state_of(said, "secret hub", "there") == "ok"
    assert state_of(said, "Hugging Face token in the secret hub") == "ok"
    assert state_of(said, "image vllm/vllm-openai:", "whether it can be pulled") == "unsure"
    assert max(map(len, said.splitlines())) <= 80
    assert "hf_abcdefgh" not in said


def test_what_is_missing_is_said_with_what_to_do(cluster: Cluster, namespace: str) -> None:
    quota = ("--namespace=nowhere", "--hf-secret=hub/key", "--model-cache=pvc:weights", "--queue=team")
    status, said = doctor(cluster, *quota)
    assert status == 1
    assert state_of(said, "namespace there is no 'nowhere'", "kubectl create namespace nowhere") == "missing"
    assert state_of(said, "secret hub not there", "kubectl create secret generic hub") == "missing"
    assert state_of(said, "claim weights not there") == "missing"
    assert state_of(said, "queue team Kueue is not installed") == "missing"
    assert namespace not in said


def test_a_secret_without_the_key_and_a_claim_that_is_there(cluster: Cluster, namespace: str) -> None:
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "weights"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    cluster.kubectl("apply", f"--namespace={namespace}", "--filename=-", given=yaml.safe_dump(claim))
    cluster.kubectl("wait", "pvc/weights", "--for=jsonpath={.status.phase}=Bound", f"--namespace={namespace}", "--timeout=60s")
    cluster.kubectl("create", "secret", "generic", "hub", "--from-literal=token=x", f"--namespace={namespace}")
    status, said = doctor(cluster, f"--namespace={namespace}", "--hf-secret=hub/key", "--model-cache=pvc:weights")
    assert status == 1
    assert state_of(said, "secret hub has no key 'key'", "Its keys: token.") == "missing"
    assert state_of(said, "claim weights Bound, ReadWriteOnce: for pods of one node at a time") == "ok"


def test_gpus_that_others_use_are_counted(cluster: Cluster, namespace: str) -> None:
    user = pod("user", ["sleep", "infinity"], {"nvidia.com/gpu": "8"})
    cluster.kubectl("apply", f"--namespace={namespace}", "--filename=-", given=yaml.safe_dump(dict(user)))
    cluster.kubectl("wait", "pod/user", "--for=condition=Ready", f"--namespace={namespace}", "--timeout=60s")
    status, said = doctor(cluster, HF_TOKEN="hf_abcdefgh12345678")
    assert status == 0, said
    assert state_of(said, "nodes for k8s_h100", "0 free now: cells wait until others are done") == "ok"
    assert state_of(said, "Hugging Face token in the variable HF_TOKEN") == "ok"
    assert "hf_abcdefgh" not in said


@pytest.mark.parametrize("hardware", ["l40s", "h200"])
def test_gpus_that_no_node_has(cluster: Cluster, hardware: str) -> None:
    status, said = doctor(cluster, "-k", f"k8s_{hardware}_standalone_llama-3.1-8b")
    assert status == 1
    assert state_of(said, f"nodes for k8s_{hardware} ", "nvidia.com/gpu.product=", "NVIDIA-H100-80GB-HBM3") == "missing"


def test_who_may_use_one_namespace_only(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    text = (manifests_directory() / "rbac" / "namespace.yaml").read_text()
    text = text.replace("namespace: llmperf", f"namespace: {namespace}")
    cluster.kubectl("apply", f"--namespace={namespace}", "--filename=-", given=text)
    content = yaml.safe_load(cluster.kubeconfig.read_text())
    token = cluster.kubectl("create", "token", "llmperf", f"--namespace={namespace}", "--duration=10m").strip()
    content["users"][0]["user"] = {"token": token}
    (tmp_path / "config").write_text(yaml.safe_dump(content))
    status, said = doctor(cluster, f"--namespace={namespace}", kubeconfig=tmp_path / "config")
    assert status == 0, said
    assert state_of(said, "permissions all") == "ok"
    assert state_of(said, "permissions, whole cluster no get, list, watch on nodes", "rbac/cluster.yaml") == "unsure"
    assert state_of(said, "nodes for k8s_h100 nodes may not be read") == "unsure"
    status, said = doctor(cluster, "--namespace=default", kubeconfig=tmp_path / "config")
    assert status == 1
    assert (
        state_of(said, "permissions no get, list, watch, create, patch, delete on deployments.apps", "rbac/namespace.yaml")
        == "missing"
    )


def test_a_cluster_that_is_not_there(cluster: Cluster, tmp_path: Path) -> None:
    content = yaml.safe_load(cluster.kubeconfig.read_text())
    content["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    (tmp_path / "config").write_text(yaml.safe_dump(content))
    status, said = doctor(cluster, kubeconfig=tmp_path / "config")
    assert status == 1
    assert state_of(said, "API server https://127.0.0.1:1 cannot be reached: connection refused") == "missing"
