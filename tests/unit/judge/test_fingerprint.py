"""What makes two runs comparable, field by field, and what may differ."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_llmperf.deploy.base import DeploymentInfo
from pytest_llmperf.experiment.records import Cell, Lengths, SharedPrefix, Turns, Variant, Workload
from pytest_llmperf.judge.fingerprint import (
    cell_fingerprint,
    context,
    context_differences,
    differences,
    fingerprint,
    known_differences,
)
from tests.unit.report.runs import cell, workload

CELL, ASKED = cell(), workload()


def printed(c: Cell, w: Workload, profile: str = "poisson 4/s", target: str = "sim", *, simulated: bool = True) -> dict[str, str]:
    return fingerprint(c, w, profile, target, simulated)


def with_variant(c: Cell, **changes: object) -> Cell:
    return replace(c, variant=replace(c.variant, **changes))  # type: ignore[arg-type]


BASE = printed(CELL, ASKED)


def test_a_fingerprint_in_full() -> None:
    asked = replace(
        workload(),
        input=Lengths(512, "uniform", 0.0, 128),
        shared_prefix=SharedPrefix(128, 4),
        turns=Turns(Lengths(4, "uniform", 0.0, 3, 5), Lengths(300), 0.3),
    )
    of = with_variant(cell("h100", 4), engine_args={"max_num_seqs": 64, "enable-prefix-caching": False}, precision="fp8")
    assert printed(of, asked, "concurrency 8", "endpoint", simulated=False) == {
        "target": "endpoint",
        "server": "real",
        "hardware": "h100x4",
        "model": "llama-3.1-8b",
        "precision": "fp8",
        "engine enable-prefix-caching": "false",
        "engine max-num-seqs": "64",
        "workload": "interactive-chat",
        "api": "completions",
        "stream": "true",
        "ignore_eos": "true",
        "prompt": "token_ids",
        "input": "uniform 512, 128..",
        "output": "lognormal 128, cv 0.5, 1..1024",
        "shared prefix": "128 tokens, groups: 4",
        "turns": "uniform 4, 3..5; input fixed 300; pause exponential 300ms",
        "profile": "concurrency 8",
    }


@pytest.mark.parametrize(
    ("of", "asked", "field", "was_is"),
    [
        (cell("a100"), ASKED, "hardware", "h100 -> a100"),
        (cell("h100", 4), ASKED, "hardware", "h100 -> h100x4"),
        (cell(model="qwen3-32b"), ASKED, "model", "llama-3.1-8b -> qwen3-32b"),
        (with_variant(CELL, precision="fp8"), ASKED, "precision", "bf16 -> fp8"),
        (with_variant(CELL, engine_args={"max-num-seqs": 64}), ASKED, "engine max-num-seqs", "unset -> 64"),
        (CELL, replace(ASKED, name="chat"), "workload", "interactive-chat -> chat"),
        (CELL, replace(ASKED, api="chat"), "api", "completions -> chat"),
        (CELL, replace(ASKED, stream=False), "stream", "true -> false"),
        (CELL, replace(ASKED, ignore_eos=False), "ignore_eos", "true -> false"),
        (CELL, replace(ASKED, prompt="text"), "prompt", "token_ids -> text"),
        (CELL, replace(ASKED, input=Lengths(513)), "input", "fixed 512 -> fixed 513"),
        (CELL, replace(ASKED, output=Lengths(128)), "output", "lognormal 128, cv 0.5, 1..1024 -> fixed 128"),
        (CELL, replace(ASKED, shared_prefix=SharedPrefix(64)), "shared prefix", "none -> 64 tokens, groups: 1"),
        (
            CELL,
            replace(ASKED, turns=Turns(Lengths(2), Lengths(9))),
            "turns",
            "one -> fixed 2; input fixed 9; pause exponential 0s",
        ),
    ],
)
def test_what_must_be_equal(of: Cell, asked: Workload, field: str, was_is: str) -> None:
    assert differences(printed(of, asked), BASE) == {field: was_is}


@pytest.mark.parametrize(
    ("profile", "target", "simulated", "differing"),
    [
        ("poisson 8/s", "sim", True, {"profile": "poisson 4/s -> poisson 8/s"}),
        ("poisson 4/s", "endpoint", True, {"target": "sim -> endpoint"}),
        ("poisson 4/s", "endpoint", False, {"target": "sim -> endpoint", "server": "simulator -> real"}),
    ],
)
def test_load_and_target_must_be_equal_too(profile: str, target: str, simulated: bool, differing: dict[str, str]) -> None:
    assert differences(printed(cell(), workload(), profile, target, simulated=simulated), BASE) == differing


@pytest.mark.parametrize(
    ("of", "asked"),
    [
        (with_variant(CELL, name="slow", title="Slow", env={"LLMPERF_SIM_SLOWDOWN": "2"}), ASKED),
        (replace(CELL, platform=replace(CELL.platform, name="eks")), ASKED),
        (replace(CELL, method=replace(CELL.method, name="helm")), ASKED),
        (CELL, replace(ASKED, title="Other", warmup=9.0, timeout=9.0, sla="x", profile="y")),
    ],
    ids=["variant's name and environment", "platform", "method", "what changes no request"],
)
def test_what_may_differ(of: Cell, asked: Workload) -> None:
    assert printed(of, asked) == BASE


def test_spelling_and_order_of_engine_arguments_mean_nothing() -> None:
    one = with_variant(cell(), engine_args={"max-num-seqs": 64, "dtype": "auto"})
    other = with_variant(cell(), engine_args={"dtype": "auto", "max_num_seqs": "64"})
    assert list(printed(one, workload()).items()) == list(printed(other, workload()).items())


def test_before_a_deployment_all_but_the_profile_is_known_and_perhaps_the_server() -> None:
    known = cell_fingerprint(cell(), workload(), "sim", True)
    assert known == {name: value for name, value in BASE.items() if name != "profile"}
    unknown = cell_fingerprint(cell(), workload(), "sim", None)
    assert unknown == {name: value for name, value in known.items() if name != "server"}
    assert known_differences(unknown, BASE) == {}
    assert known_differences(unknown, {**BASE, "engine dtype": "auto"}) == {"engine dtype": "auto -> unset"}
    assert differences(unknown, BASE) == {"server": "simulator -> unset", "profile": "poisson 4/s -> unset"}


def test_the_context_says_what_may_differ_and_keeps_secrets() -> None:
    variant = Variant(
        "tuned",
        env={
            "VLLM_USE_V2": "1",
            "HF_TOKEN": "hf_abc",
            "AWS_SECRET_ACCESS_KEY": "abc",
            "db_password": "abc",
            "TOKENIZERS_PARALLELISM": "false",
            "HTTPS_PROXY": "http://me:pw@proxy:3128",
        },
    )
    found = context(replace(cell(), variant=variant), DeploymentInfo("sim", True, "vLLM 0.32.0"))
    assert found == {
        "engine version": "vLLM 0.32.0",
        "platform": "gke",
        "method": "standalone",
        "variant": "tuned",
        "accelerator": "H100",
        "env AWS_SECRET_ACCESS_KEY": "***",
        "env HF_TOKEN": "***",
        "env HTTPS_PROXY": "http://***@proxy:3128",
        "env TOKENIZERS_PARALLELISM": "false",
        "env VLLM_USE_V2": "1",
        "env db_password": "***",
    }


SERVED = ("meta-llama/Llama-3.1-8B-Instruct", "--served-model-name=llama-3.1-8b", "--host=0.0.0.0", "--port=8000")


def told(*arguments: str, **known: str) -> dict[str, str]:
    """The context of a deployment whose engine was told this besides its model and where to serve."""
    return context(CELL, DeploymentInfo("kubernetes", False, "vLLM 0.32.0", engine_arguments=(*SERVED, *arguments), **known))  # type: ignore[arg-type]


def test_the_context_says_what_the_engine_was_told_and_keeps_secrets() -> None:
    found = told(
        "--max_model_len",
        "auto",
        "-tp",
        "4",
        "--no-enable-prefix-caching",
        "--trust-remote-code",
        "--api-key=sesame",
        "--lora-modules=a=/a",
        "--lora-modules=b=/b",
        image="vllm/vllm-openai:v0.33.0",
        image_digest="sha256:0123",
    )
    assert {name: value for name, value in found.items() if name.startswith(("argument", "image"))} == {
        "image": "vllm/vllm-openai:v0.33.0",
        "image digest": "sha256:0123",
        "argument api-key": "***",
        "argument enable-prefix-caching": "false",
        "argument lora-modules": "a=/a b=/b",
        "argument max-model-len": "auto",
        "argument model": "meta-llama/Llama-3.1-8B-Instruct",
        "argument served-model-name": "llama-3.1-8b",
        "argument tensor-parallel-size": "4",
        "argument trust-remote-code": "true",
    }
    assert "sesame" not in str(found)


@pytest.mark.parametrize(
    ("now", "before", "differing"),
    [
        (told("--max-model-len=auto"), told("--max-model-len=16384"), {"argument max-model-len": "16384 -> auto"}),
        (told("--seed=1"), told(), {"argument seed": "unset -> 1"}),
        (told("--seed", "1", "-q", "fp8"), told("--quantization=fp8", "--seed=1"), {}),
        (told("--port=81", "--host=::"), told("--port=82"), {}),
        (told(image="a:1", image_digest="sha256:1"), told(image="a:2", image_digest="sha256:2"), {"image": "a:2 -> a:1"}),
        (
            told(image="a:1", image_digest="sha256:1"),
            told(image="a:1", image_digest="sha256:2"),
            {"image digest": "sha256:2 -> sha256:1"},
        ),
        (told(image="a:1", image_digest="sha256:1"), told(image="a:1"), {}),
        (told(image="a:1"), told(), {}),
    ],
)
def test_what_differs_of_what_the_engine_was_told(now: dict[str, str], before: dict[str, str], differing: dict[str, str]) -> None:
    turned = {field: " -> ".join(reversed(change.split(" -> "))) for field, change in differing.items()}
    assert (context_differences(now, before), context_differences(before, now)) == (differing, turned)


def test_a_run_that_was_saved_before_arguments_were_kept_differs_in_none() -> None:
    saved = context(CELL, DeploymentInfo("kubernetes", False, "vLLM 0.31.0"))
    now = told("--seed=1", image="a:1", image_digest="sha256:1")
    assert context_differences(now, saved) == {"engine version": "vLLM 0.31.0 -> vLLM 0.32.0"}
    assert context_differences(saved, now) == {"engine version": "vLLM 0.32.0 -> vLLM 0.31.0"}
    assert context_differences(saved, {}) == differences(saved, {})


@pytest.mark.parametrize(("name", "shown"), [("api-key", "***"), ("max-token", "s3cret"), ("tokenizer", "s3cret")])
def test_a_secret_among_the_engine_arguments_is_kept_too(name: str, shown: str) -> None:
    assert printed(with_variant(cell(), engine_args={name: "s3cret"}), workload())[f"engine {name}"] == shown


def test_differences_name_both_sides() -> None:
    now, before = {"a": "1", "b": "2", "c": "3"}, {"a": "0", "b": "2", "d": "4"}
    assert differences(now, before) == {"a": "0 -> 1", "c": "unset -> 3", "d": "4 -> unset"}
