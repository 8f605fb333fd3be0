"""A manifest's command line of an engine and a cell's: whose model, whose options, and which words there are at all."""

from __future__ import annotations

import re

import pytest

from pytest_llmperf.deploy.engine_command import engine_arguments
from pytest_llmperf.deploy.kubernetes.rendering.engine_words import for_cell, taken_apart
from pytest_llmperf.errors import ConfigError, Where
from pytest_llmperf.experiment.records import Cell
from tests.unit.deploy.kubernetes.cells import H100, cell

HERE = Where("some.yaml", 3)
OURS = ("--served-model-name=llama-3.1-8b", "--host=0.0.0.0", "--port=8000")
API_SERVER = ("python3", "-m", "vllm.entrypoints.openai.api_server")
MODEL = "meta-llama/Llama-3.1-8B-Instruct"


def words(command: list[str], args: list[str], of: Cell = H100) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a command line becomes for a cell: what stands before the engine's arguments, and those."""
    found = for_cell(taken_apart(command, args, HERE), of, 8000)
    return found.command, found.arguments


@pytest.mark.parametrize(
    ("command", "args", "before", "model"),
    [
        (["vllm", "serve"], ["some/model"], ("vllm", "serve"), MODEL),
        (["/opt/bin/vllm", "serve", "some/model"], [], ("/opt/bin/vllm", "serve"), MODEL),
        (["vllm"], ["serve", "some/model"], ("vllm", "serve"), MODEL),
        (["vllm", "serve"], ["--model=some/model"], ("vllm", "serve"), MODEL),
        ([], ["some/model"], (), MODEL),
        ([], [], (), MODEL),
        ([], ["--model", "some/model"], (), f"--model={MODEL}"),
        (
            ["python3", "-m", "vllm.entrypoints.openai.api_server"],
            ["--model", "some/model"],
            API_SERVER,
            f"--model={MODEL}",
        ),
        (["/start"], ["--model=some/model"], ("/start",), f"--model={MODEL}"),
    ],
)
def test_the_cells_model_takes_the_place_of_the_manifests(
    command: list[str], args: list[str], before: tuple[str, ...], model: str
) -> None:
    assert words(command, [*args, "--max-model-len=8192"]) == (before, (model, *OURS, "--max-model-len=8192"))


@pytest.mark.parametrize(
    ("args", "of", "arguments"),
    [
        (["--port", "80", "--host=::", "--served_model_name", "a", "b"], H100, ()),
        (["--tensor-parallel-size=1", "-pp", "2"], cell("gke_h100x4_standalone_qwen3-32b"), ("--tensor-parallel-size=4",)),
        (["-tp", "8"], H100, ()),
        (["--enable-prefix-caching"], cell("gke_h100_standalone_llama-3.1-8b_no-prefix-cache"), ("--no-enable-prefix-caching",)),
        (["--no-enable-prefix-caching"], H100, ("--no-enable-prefix-caching",)),
        (["--max_num_seqs", "7", "--seed=1"], cell(H100.id, engine_args={"max-num-seqs": 64}), ("--seed=1", "--max-num-seqs=64")),
        (["--lora-modules", "a=/a", "b=/b", "--seed", "-1"], H100, ("--lora-modules", "a=/a", "b=/b", "--seed", "-1")),
        (["-q", "awq"], cell("gke_h100_standalone_llama-3.1-8b_fp8"), ("--quantization=fp8",)),
    ],
)
def test_the_cells_options_win_and_the_manifests_others_stay(args: list[str], of: Cell, arguments: tuple[str, ...]) -> None:
    _, found = words(["vllm", "serve"], ["some/model", *args, "--max-model-len=8192"], of)
    assert found[0] == of.model.repository
    assert set(found[4:]) == {*arguments, "--max-model-len=8192"}
    assert [word for word in found[4:] if word in arguments] == list(arguments)


@pytest.mark.parametrize("given", [["--max-model-len=131072"], ["--max-model-len", "131072"], ["--max-model-len=auto"], []])
def test_the_manifests_context_stays_whether_it_has_room_or_not(given: list[str]) -> None:
    """The engine says what fits: a number that somebody chose is not changed behind his back."""
    for of in (H100, cell("gke_h100_standalone_qwen3-32b"), cell("ocp_h100-mig-1g.10gb_standalone_llama-3.2-3b")):
        _, found = words(["vllm", "serve"], ["some/model", *given], of)
        assert [word for word in found[4:] if word not in engine_arguments(of)] == given


def test_the_variants_context_wins() -> None:
    of = cell("gke_t4_standalone_llama-3.2-3b", engine_args={"max-model-len": 99999})
    assert words(["vllm", "serve"], ["some/model", "--max-model-len=auto"], of)[1][-1] == "--max-model-len=99999"


@pytest.mark.parametrize(
    ("command", "args", "said"),
    [
        (["/bin/sh", "-c", "cd /x && vllm serve some/model"], [], "some.yaml:3: the engine's command is a script for /bin/sh"),
        (["sh", "-c", "vllm serve $MODEL"], [], "is a script for sh"),
        (["sh", "-c", 'vllm serve "$MODEL"'], [], "is a script for sh"),
        (["sh", "-c", "A=1 vllm serve some/model"], [], "is a script for sh"),
        (["sh", "/start.sh"], [], "is a script for sh"),
        (["sh", "-c", "vllm serve 'some/model"], [], "is a script for sh"),
        (["/start", "--fast"], [], "some.yaml:3: the engine's command (/start --fast) does not say its model"),
        (["/start", "--api-key=sesame"], [], "the engine's command (/start --api-key=***) does not say its model"),
        (
            ["vllm", "serve"],
            ["--port", "80", "some/model"],
            "some.yaml:3: the engine's model stands neither before",
        ),
        (["vllm", "serve", "--enable-lora"], ["some/model"], "stands neither before its options nor behind --model"),
    ],
)
def test_a_command_that_cannot_be_taken_apart(command: list[str], args: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        taken_apart(command, args, HERE)


@pytest.mark.parametrize(
    ("line", "before", "model"),
    [
        (["/bin/sh", "-c", "exec vllm serve some/model --max-model-len=8192"], ("vllm", "serve"), MODEL),
        (["bash", "-lc", f"{' '.join(API_SERVER)} --model some/model --max-model-len=8192"], API_SERVER, f"--model={MODEL}"),
        (["sh", "-c", "/start --model some/model --max-model-len=8192"], ("/start",), f"--model={MODEL}"),
    ],
)
def test_a_shell_that_only_hands_words_on_is_not_needed(line: list[str], before: tuple[str, ...], model: str) -> None:
    expected = before, (model, *OURS, "--max-model-len=8192")
    assert words(line, []) == words(line[:2], line[2:]) == expected


def test_a_shells_quotes_are_not_the_engines() -> None:
    script = (
        """vllm serve some/model \\\n  --speculative-config '{"method": "ngram"}' --chat-template "/a b/c" --max-model-len 8192"""
    )
    _, found = words(["/bin/sh", "-c"], [script])
    assert found[4:] == (
        "--speculative-config",
        '{"method": "ngram"}',
        "--chat-template",
        "/a b/c",
        "--max-model-len",
        "8192",
    )
