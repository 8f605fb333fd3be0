"""The process target: real programs that serve, what is told of them, which commands and ports they are started with."""

from __future__ import annotations

import json
import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from pytest_llmperf.deploy import process
from pytest_llmperf.deploy.gpu import gpu_here
from pytest_llmperf.deploy.process import EngineLog, ProcessTarget, ReservedPort
from pytest_llmperf.errors import ConfigError, DeployError
from pytest_llmperf.experiment.records import Variant
from tests.unit.deploy.engine_processes import CELL, FAKE, deployed, is_gone, pid_of, target

SIMULATOR = f"{shlex.quote(sys.executable)} -P -m pytest_llmperf.cli sim --host {{host}} --port {{port}}"
SECRET = "hf_abcdefghijklmnop"


def test_the_simulator_behind_a_command_is_served_measured_and_ended() -> None:
    states: list[str] = []
    deployment = ProcessTarget(command=SIMULATOR, ready_timeout_s=60.0).deploy(CELL, states.append)
    assert deployment.endpoint.model == CELL.model.name
    assert deployment.endpoint.simulated
    assert deployment.info.target == "process"
    assert deployment.info.simulated
    assert deployment.info.engine == f"vLLM simulator {deployment.info.engine_version}"
    assert deployment.info.gpu is None  # whatever the simulator stands for is not this machine's
    assert "pytest_llmperf.cli" in deployment.info.command
    assert [phase.name for phase in deployment.info.phases] == ["process", "cold start", "first completion"]
    assert states[-1] == "first completion"
    assert deployment.lost() is None
    deployment.close()
    assert is_gone(pid_of(deployment))
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{deployment.endpoint.base_url}/health", trust_env=False)
    assert deployment.log_tail() == ""
    deployment.close()


def test_what_it_says_is_the_log() -> None:
    with deployed(target("--say 'Loading weights'")) as deployment:
        assert "Loading weights" in deployment.log_tail()


def test_a_log_is_kept_where_it_is_asked_for(tmp_path: Path) -> None:
    with deployed(target("--say 'Loading weights'", log_directory=tmp_path / "logs")) as deployment:
        assert f"the whole log: {tmp_path}" in deployment.log_tail()
    (kept,) = (tmp_path / "logs").iterdir()
    assert kept.name.startswith(CELL.id)
    assert "Loading weights" in kept.read_text()


def test_no_secret_is_in_the_log_or_the_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    variant = Variant(name="keyed", env={"MY_API_KEY": "from-the-variant", "PLAIN": "shown"})
    keyed = target("--say-variable HF_TOKEN --say 'the key is sk-1234567890' --api-key sk-1234567890", log_directory=tmp_path)
    deployment = keyed.deploy(replace(CELL, variant=variant), lambda _: None)
    try:
        tail, document = deployment.log_tail(), " ".join(deployment.info.command)
        assert "the key is ***" in tail
        assert "MY_API_KEY=***" in document
        assert "PLAIN=shown" in document
        assert deployment.info.engine_arguments[-2:] == ("--api-key", "***")
        assert deployment.endpoint.api_key == "sk-1234567890"
        (kept,) = tmp_path.iterdir()
        for text in (tail, document, repr(deployment), kept.read_text()):
            assert not [each for each in (SECRET, "sk-1234567890", "from-the-variant") if each in text]
    finally:
        deployment.close()


def test_credentials_that_only_the_engine_knows_are_not_in_what_is_told_of_its_log() -> None:
    with EngineLog(CELL, None) as log:
        log.file.write(b"401 at https://me:urlPassw0rd@hub/m?sig=sasSignature\n")
        log.file.write(b"sent Authorization: Bearer abc.def.ghi\nlast line\n")
        log.file.flush()
        assert log.tail() == "401 at https://***@hub/m?sig=***\nsent Authorization: Bearer ***\nlast line"


def test_the_variants_environment_reaches_the_engine() -> None:
    variant = Variant(name="loud", env={"GREETING": "hello from the variant"})
    deployment = target("--say-variable GREETING").deploy(replace(CELL, variant=variant), lambda _: None)
    try:
        assert "hello from the variant" in deployment.log_tail()
    finally:
        deployment.close()


def test_another_port_is_taken_where_one_is_taken(tmp_path: Path) -> None:
    with deployed(target(f"--taken-once {tmp_path / 'taken'}")) as deployment:
        assert deployment.lost() is None
        assert "Address already in use" in deployment.log_tail()


def starts(directory: Path) -> int:
    """How often the only deployment's engine has been started."""
    (log,) = directory.iterdir()
    return log.read_text().count("once more")


def test_an_engine_that_lives_has_its_port_whatever_it_says(tmp_path: Path) -> None:
    with pytest.raises(DeployError, match=r"did not become ready\n  Waited 1s;"):
        target("--say 'once more' --taken-always --hang", 1.0, tmp_path).deploy(CELL, lambda _: None)
    assert starts(tmp_path) == 1


def test_a_port_that_is_always_taken_is_tried_only_so_often(tmp_path: Path) -> None:
    with pytest.raises(DeployError, match="its process ended with status 7"):
        target("--say 'once more' --taken-always --exit 7", 30.0, tmp_path).deploy(CELL, lambda _: None)
    assert starts(tmp_path) == process.PORT_ATTEMPTS


def test_only_what_an_attempt_says_itself_is_a_reason_for_another(tmp_path: Path) -> None:
    with pytest.raises(DeployError, match="its process ended with status 7"):
        target(f"--say 'once more' --taken-once {tmp_path / 'taken'} --exit 7", 30.0, tmp_path / "logs").deploy(
            CELL, lambda _: None
        )
    assert starts(tmp_path / "logs") == 2


def test_all_attempts_together_have_the_time_that_is_given(tmp_path: Path) -> None:
    with pytest.raises(DeployError):
        target("--say 'once more' --taken-always --exit 7", 1e-6, tmp_path).deploy(CELL, lambda _: None)
    assert starts(tmp_path) <= 1


def test_ports_of_several_sessions_differ() -> None:
    ports = [ReservedPort() for _ in range(50)]
    assert len({port.number for port in ports}) == 50
    for port in ports:
        port.close()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("vllm serve {modell} --port {port}", "unknown placeholder 'modell'"),
        ("vllm serve {model}", r"the command has no \{port\}"),
        ("vllm serve 'x --port {port}", "cannot be split into words"),
        ("  ", "the command is empty"),
        (
            "pyton3 -m http.server {port}",
            "'pyton3' is not on this machine's PATH\n  Install it, or give --llmperf-engine-command",
        ),
        ("/no/such/vllm --port {port}", "the program '/no/such/vllm' is not on this machine's PATH"),
    ],
)
def test_a_command_that_cannot_serve_is_one_error_before_any_test(command: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        ProcessTarget(command=command, ready_timeout_s=1.0).check()
    assert str(caught.value.where) == "--llmperf-engine-command"


def test_without_vllm_it_is_said_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    # A name that is near by chance is no help.
    (tmp_path / "vim").touch(mode=0o755)
    with pytest.raises(ConfigError, match="pip install vllm") as caught:
        ProcessTarget(command=None, ready_timeout_s=1.0).check()
    assert "--llmperf-engine-command" in str(caught.value)
    assert "vim" not in str(caught.value)


SERVICE = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(405 if self.path == "/api/chat" else 500)

HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_a_service_of_another_kind_is_ready_where_templates_ask_it(tmp_path: Path) -> None:
    (tmp_path / "service.py").write_text(SERVICE)
    command = f"{shlex.quote(sys.executable)} {tmp_path / 'service.py'} {{port}}"
    # A variant's engine arguments are an engine's.
    plain = replace(CELL, variant=Variant(name="plain"))
    deployment = ProcessTarget(command, 30.0, ready_paths=("/api/chat",)).deploy(plain, lambda _: None)
    try:
        assert (deployment.endpoint.openai, deployment.endpoint.model) == (False, CELL.model.name)
        assert [phase.name for phase in deployment.info.phases] == ["process", "cold start"]
        assert deployment.lost() is None
    finally:
        deployment.close()


def test_a_key_that_is_wanted_is_named_by_what_this_target_reads() -> None:
    keyed = target("--api-key=sk-1234567890")
    with pytest.raises(DeployError, match="the server wants another credential") as caught:
        # The engine has a key of its own, which its command here does not tell.
        ProcessTarget(f"sh -c 'option=--api-key; exec {FAKE} $option=sk-1'", 30.0).deploy(CELL, lambda _: None)
    assert "VLLM_API_KEY" in str(caught.value)
    assert "--llmperf-api-key-env" not in str(caught.value)
    in_shell = ProcessTarget(f"sh -c 'exec {FAKE} --api-key=sk-1234567890'", 30.0)
    for told in (keyed, in_shell):
        with deployed(told) as deployment:
            assert deployment.endpoint.api_key == "sk-1234567890"
            assert "sk-1234567890" not in " ".join(deployment.info.command)


def test_a_program_beside_python_is_found_without_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tmp_path / "bin" / "my-engine"
    engine.parent.mkdir()
    engine.write_text(
        f'#!/bin/sh\necho "PATH is $PATH"\nexec {sys.executable} {Path(__file__).with_name("fake_engine.py")} "$@"\n'
    )
    engine.chmod(0o755)
    engine.with_name("python").symlink_to(sys.executable)
    monkeypatch.setattr("pytest_llmperf.deploy.engine_command.sys.executable", str(engine.with_name("python")))
    with deployed(ProcessTarget(command="my-engine --port {port}", ready_timeout_s=30.0)) as deployment:
        assert f"PATH is {engine.parent}:" in deployment.log_tail()
        assert deployment.info.command[0] == "my-engine"


def test_its_arguments_its_version_and_the_machines_accelerator_are_documented(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = {
        "my-engine": f'shift; exec {sys.executable} {Path(__file__).with_name("fake_engine.py")} "$@"',
        "nvidia-smi": "echo 'NVIDIA L4, 550.54.15'",
    }
    for name, script in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    gpu_here.cache_clear()
    with deployed(
        ProcessTarget(command="my-engine serve --served-model {served_model} --port {port}", ready_timeout_s=30.0)
    ) as deployment:
        info = deployment.info
    gpu_here.cache_clear()
    assert (info.engine_version, info.gpu, info.driver) == ("9.9", "NVIDIA L4", "550.54.15")
    assert info.engine_arguments[:3] == ("--served-model", CELL.model.name, "--port")


def test_a_log_that_is_closed_has_no_tail() -> None:
    log = EngineLog(CELL, None)
    log.file.write(b"a line\n")
    log.file.flush()
    assert log.tail() == "a line"
    log.close()
    assert log.tail() == ""


def test_the_supervisor_tells_what_cannot_be_run(tmp_path: Path) -> None:
    program = tmp_path / "no-binary"
    program.write_text("\x00")
    program.chmod(0o755)
    with pytest.raises(DeployError, match=f"{CELL.id}: {program} cannot be run: "):
        ProcessTarget(command=f"{program} {{port}}", ready_timeout_s=5.0).deploy(CELL, lambda _: None)


def test_the_order_is_read_by_the_supervisor_alone(tmp_path: Path) -> None:
    """Nothing of the order is an argument of it, where every user of the machine could read it."""
    with deployed(target(f"--daemon {tmp_path / 'pid'}")) as deployment:
        arguments = Path(f"/proc/{deployment.process._supervisor.pid}/cmdline").read_text().split("\0")
        assert not [argument for argument in arguments if "fake_engine" in argument]
        assert json.dumps(arguments).count("supervisor.py") == 1
