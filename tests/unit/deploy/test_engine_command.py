"""From a cell to an engine's command: vLLM's arguments, a template's placeholders, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import pytest

from pytest_llmperf.deploy.engine_command import DEFAULT_COMMAND, engine_arguments, parse_command
from pytest_llmperf.errors import ConfigError
from pytest_llmperf.experiment.catalog import builtin_directory, load_catalog
from pytest_llmperf.experiment.matrix import expand
from pytest_llmperf.experiment.records import Cell, Precision, Variant

CATALOG = load_catalog([builtin_directory()])
CELL = expand(CATALOG.matrix_named("default"), CATALOG)[0]


Arguments = Mapping[str, str | int | float | bool]


def cell(
    arguments: Arguments | None = None,
    *,
    precision: Precision | None = None,
    count: int = 1,
    env: Mapping[str, str] | None = None,
) -> Cell:
    """A cell whose variant is as odd as this."""
    variant = Variant(name="odd", engine_args=arguments or {}, env=env or {}, precision=precision)
    return replace(CELL, variant=variant, hardware=replace(CELL.hardware, count=count))


def test_the_default_command_serves_the_cell_with_vllm() -> None:
    words = parse_command(None).filled(cell({"max-num-seqs": 64, "enable-prefix-caching": False}, count=4), 8123)
    assert words == (
        "vllm",
        "serve",
        "meta-llama/Llama-3.1-8B-Instruct",
        "--served-model-name=llama-3.1-8b",
        "--host=127.0.0.1",
        "--port=8123",
        "--tensor-parallel-size=4",
        "--max-num-seqs=64",
        "--no-enable-prefix-caching",
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"enable-prefix-caching": True}, ("--enable-prefix-caching",)),
        ({"enable-prefix-caching": False}, ("--no-enable-prefix-caching",)),
        ({"no-enable-prefix-caching": True}, ("--no-enable-prefix-caching",)),
        ({"no-enable-prefix-caching": False}, ("--enable-prefix-caching",)),
        ({"max_model_len": 4096}, ("--max-model-len=4096",)),
        ({"gpu-memory-utilization": 0.9}, ("--gpu-memory-utilization=0.9",)),
        ({"compilation_config.cache_dir": "/x"}, ("--compilation-config.cache_dir=/x",)),
        ({"speculative-config": '{"method": "ngram"}'}, ('--speculative-config={"method": "ngram"}',)),
        ({"num-speculative-tokens": -1}, ("--num-speculative-tokens=-1",)),
    ],
)
def test_arguments_are_written_as_vllm_takes_them(
    arguments: dict[str, str | int | float | bool], expected: tuple[str, ...]
) -> None:
    assert engine_arguments(replace(CELL, variant=Variant(name="odd", engine_args=arguments))) == expected


@pytest.mark.parametrize(
    ("precision", "arguments", "expected"),
    [
        (None, {}, ()),
        ("bf16", {}, ()),
        ("fp16", {}, ("--dtype=float16",)),
        ("fp8", {}, ("--quantization=fp8",)),
        ("fp8", {"quantization": "fp8"}, ("--quantization=fp8",)),
        ("fp16", {"dtype": "half"}, ("--dtype=half",)),
        ("int4", {"quantization": "awq"}, ("--quantization=awq",)),
    ],
)
def test_a_precision_that_the_checkpoint_has_not_is_asked_for(
    precision: Precision | None, arguments: Arguments, expected: tuple[str, ...]
) -> None:
    assert engine_arguments(cell(arguments, precision=precision)) == expected


def test_the_shipped_variants_can_be_served() -> None:
    for variant in CATALOG.variants.values():
        engine_arguments(replace(CELL, variant=variant))


@pytest.mark.parametrize(
    ("count", "arguments", "expected"),
    [
        (4, {"pipeline_parallel_size": 2}, ("--tensor-parallel-size=2", "--pipeline-parallel-size=2")),
        (4, {"pipeline_parallel_size": 4}, ("--pipeline-parallel-size=4",)),
        (4, {"tensor_parallel_size": 2, "data_parallel_size": 2}, ("--tensor-parallel-size=2", "--data-parallel-size=2")),
    ],
)
def test_the_model_is_spread_over_all_accelerators(count: int, arguments: Arguments, expected: tuple[str, ...]) -> None:
    assert engine_arguments(cell(arguments, count=count)) == expected


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        (cell({"port": 80}), "'port' is decided by the target"),
        (cell({"tensor_parallel_size": 2}), "--tensor-parallel-size=2 does not use the 1 accelerators of h100"),
        (cell({"pipeline-parallel-size": 3}, count=4), "--pipeline-parallel-size=3 does not use the 4 accelerators"),
        (cell({"tensor-parallel-size": "two"}), "'tensor-parallel-size' is not a number of accelerators: 'two'"),
        (cell(precision="int4"), "an engine does not make int4 of it"),
        (cell(env={"LLMPERF_SIM_SLOWDOWN": "1.3"}), "changes the simulator only"),
        (cell({"enable-prefix-caching": True, "no-enable-prefix-caching": True}), "'no-enable-prefix-caching' is set twice"),
    ],
)
def test_what_no_engine_could_take_is_one_error(odd: Cell, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        engine_arguments(odd)
    assert "variant odd" in str(caught.value.where)


def test_placeholders_are_filled_wherever_they_stand() -> None:
    command = parse_command("sh -c 'exec engine --bind {host}:{port} {args}' {model} --config '{\"a\": {}}' {args}")
    assert command.filled(cell({"max-num-seqs": 64, "served-name": "a b"}), 80) == (
        "sh",
        "-c",
        "exec engine --bind 127.0.0.1:80 --max-num-seqs=64 '--served-name=a b'",
        "meta-llama/Llama-3.1-8B-Instruct",
        "--config",
        '{"a": {}}',
        "--max-num-seqs=64",
        "--served-name=a b",
    )


def test_arguments_without_a_place_are_refused() -> None:
    command = parse_command("engine --port {port}")
    assert command.filled(CELL, 80) == ("engine", "--port", "80")
    with pytest.raises(ConfigError, match=r"no place for what .* asks of its engine: --max-num-seqs=64"):
        command.filled(cell({"max-num-seqs": 64}), 80)


def test_the_default_command_is_a_command() -> None:
    assert parse_command(DEFAULT_COMMAND) == parse_command(None)
