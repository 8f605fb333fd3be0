"""What pytest shows of an error that nobody foresaw, with all the variables on the way there: no secret among them."""

from __future__ import annotations

from hashlib import sha256

import pytest

from tests.cluster.k8s_pytest import PytestSessions

TOKEN = "hf_0123456789abcdefghij"
SUITE = "def test_one(deployment):\n    assert deployment\n"
AT_THE_TOKEN = """
from pytest_llmperf.deploy.kubernetes.rendering import weights

real, seen = weights.set_variable, []

def broken(container, variable):
    seen.append(variable["name"])
    if seen.count("HF_TOKEN") > 2:  # the cells were rendered before, to check them
        raise ZeroDivisionError("nobody foresaw this")
    real(container, variable)

weights.set_variable = broken
"""
AT_THE_WORKLOAD = """
from base64 import b64decode
from hashlib import sha256
from pytest_llmperf.deploy.kubernetes.api.client import KubeApi
from pytest_llmperf.deploy.kubernetes.api.kinds import SECRET

real = KubeApi.apply

def digest(api, namespace):
    (secret,) = api.list(SECRET, namespace, "llmperf.dev/cell")
    return sha256(b64decode(secret["data"]["token"])).hexdigest()

def broken(api, manifest, **more):
    if manifest["kind"] == "Deployment":
        raise ZeroDivisionError("the cluster has " + digest(api, manifest["metadata"]["namespace"]))
    return real(api, manifest, **more)

KubeApi.apply = broken
"""
AT_THE_SECRET = """
from pytest_llmperf.deploy.kubernetes.api import transport

def broken(pool, method, target, **more):
    if "/secrets/" in target and method == "PATCH":
        raise ZeroDivisionError("nobody foresaw this")
    return real(pool, method, target, **more)

real = transport.urllib3.HTTPSConnectionPool.urlopen
transport.urllib3.HTTPSConnectionPool.urlopen = broken
"""


@pytest.mark.parametrize(
    ("broken", "frame"),
    [(AT_THE_TOKEN, "def set_token("), (AT_THE_WORKLOAD, "def _applied("), (AT_THE_SECRET, "def apply(")],
    ids=["token", "workload", "secret"],
)
def test_no_variable_shows_the_token(sessions: PytestSessions, broken: str, frame: str) -> None:
    sessions.write(conftest=broken, test_suite=SUITE)
    running = sessions.start("-vv", "--showlocals", "--tb=long", "--junitxml=junit.xml", HF_TOKEN=TOKEN)
    try:
        assert running.end() == pytest.ExitCode.TESTS_FAILED, running.said
    finally:
        running.kill()
    for told in (running.said, (sessions.folder / "junit.xml").read_text()):
        assert "ZeroDivisionError" in told
        assert frame in told, "the frames that had the token are shown"
        assert TOKEN not in told
    if broken is AT_THE_WORKLOAD:
        assert f"the cluster has {sha256(TOKEN.encode()).hexdigest()}" in running.said
