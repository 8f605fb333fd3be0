"""What is kept of a deployment that failed is kept whatever the log holds, and no trouble with it hides why that failed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import pytest

from pytest_llmperf.deploy.kubernetes.api.kinds import SECRET
from pytest_llmperf.deploy.kubernetes.names import Identity
from pytest_llmperf.deploy.kubernetes.ready import evidence
from pytest_llmperf.deploy.kubernetes.ready.evidence import DIAGNOSIS, keep_evidence, masking, secrets_in_objects
from pytest_llmperf.errors import DeployError
from tests.unit.deploy.kubernetes.cells import H100
from tests.unit.deploy.kubernetes.scripted_api import Reply, ScriptedApi, api_at, scripted_api

IDENTITY = Identity("unit0000")
EMPTY = Reply(body={"items": [], "metadata": {}})
POD = {"metadata": {"name": "p", "namespace": "team"}, "spec": {"containers": [{"name": "vllm", "image": "vllm:1"}]}}
VALUE = "a-token-of-the-secret"
HIDDEN = Reply(body={"items": [{"data": {"token": b64encode(VALUE.encode()).decode()}}], "metadata": {}})
BAR = f"loading: \u2588\u2588\u258f 30% {VALUE} \ud83d \u0130\n"
"""A progress bar as tqdm draws it, and half of a surrogate pair, which no encoding has."""
KEEPING = """
import sys
from pathlib import Path
from pytest_llmperf.deploy.kubernetes.ready.evidence import keep_evidence
from tests.unit.deploy.kubernetes.cells import H100
from tests.unit.deploy.kubernetes.scripted_api import api_at
from tests.unit.deploy.kubernetes.test_evidence import IDENTITY

with api_at(sys.argv[1]) as api:
    print(keep_evidence(api, IDENTITY, H100, "team", Path(sys.argv[2]), "the cause"))
"""
ROOT = Path(__file__).parents[4]


@pytest.fixture
def server() -> Iterator[ScriptedApi]:
    """One with a pod that has drawn a progress bar, and with a Secret."""
    pods = Reply(body={"items": [POD], "metadata": {}})
    with scripted_api(*[EMPTY] * 4, pods, *[EMPTY] * 3, HIDDEN, Reply(body=BAR.replace("\ud83d", "")), EMPTY) as serving:
        yield serving


def test_a_log_is_kept_whatever_the_locale_is(server: ScriptedApi, tmp_path: Path) -> None:
    environment = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    command = [sys.executable, "-c", KEEPING, server.url, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    place = Path(done.stdout.strip())
    assert (place / "p_vllm.log").read_text(encoding="utf-8") == "loading: \u2588\u2588\u258f 30% ***  \u0130\n"
    assert (place / DIAGNOSIS).read_text(encoding="utf-8") == "the cause\n"


def test_half_of_a_surrogate_pair_is_kept_as_an_escape(server: ScriptedApi, tmp_path: Path) -> None:
    with api_at(server.url) as api:
        place = keep_evidence(api, IDENTITY, H100, "team", tmp_path, "the cause: \ud83d")
    assert (place / DIAGNOSIS).read_text(encoding="utf-8") == "the cause: \\ud83d\n"


def test_whatever_goes_wrong_is_told_by_its_kind_alone(
    server: ScriptedApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_found: object) -> NoReturn:
        raise KeyError(VALUE)

    monkeypatch.setattr(evidence, "pod_of", broken)
    with api_at(server.url) as api, pytest.raises(DeployError) as raised:
        keep_evidence(api, IDENTITY, H100, "team", tmp_path, "the cause")
    assert str(raised.value) == "KeyError"
    assert raised.value.__suppress_context__


def shown(trace: TracebackType | None) -> str:
    """What ``pytest --showlocals`` would show of the frames of this module's subject."""
    texts = []
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == evidence.__file__:
            texts += [f"{name} = {value!r}" for name, value in trace.tb_frame.f_locals.items()]
        trace = trace.tb_next
    return "\n".join(texts)


@pytest.mark.parametrize("at", ["masked_text", "masked", "longest_first", "_write"])
def test_no_list_of_variables_shows_a_log_or_a_secret(
    server: ScriptedApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """Whoever interrupts it sees where it was."""

    as_ever = getattr(evidence, at)

    def interrupted(*given: Any) -> Any:
        if at == "longest_first" and not given[0]:
            return as_ever(*given)  # before any secret is known
        raise KeyboardInterrupt

    monkeypatch.setattr(evidence, at, interrupted)
    with api_at(server.url) as api, pytest.raises(KeyboardInterrupt) as raised:
        keep_evidence(api, IDENTITY, H100, "team", tmp_path, "the cause")
    assert (found := shown(raised.value.__traceback__))
    assert VALUE not in found


@pytest.mark.parametrize("value", [None, 5, "no base64", "\u00fc", b64encode(b"\xff\xfe").decode()], ids=json.dumps)
def test_what_is_no_value_of_a_secret_hides_nothing_and_breaks_nothing(value: object) -> None:
    found = [*secrets_in_objects([{"kind": SECRET.kind, "data": {"key": value}, "stringData": {"other": VALUE}}])]
    assert found == [VALUE]
    assert masking((), found)(f"it is {VALUE}") == "it is ***"
