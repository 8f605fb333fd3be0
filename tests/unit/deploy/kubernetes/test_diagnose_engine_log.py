"""What an engine's log tells of its start and of its end."""

from __future__ import annotations

import pytest

from pytest_llmperf.deploy.kubernetes.ready.engine_log import known_cause, step, weights_load_s

LINES = (
    ("Fetching 4 files:  50%|#####     | 2/4 [00:10<00:10]", "downloading weights 50%"),
    ("INFO 01-31 12:00:00 [gpu_model_runner.py:1] Starting to load model meta-llama/Llama-3.1-8B-Instruct...", "loading weights"),
    ("Loading safetensors checkpoint shards:  25% Completed | 1/4 [00:01<00:04,  1.51s/it]", "loading weights 25%"),
    ("INFO 01-31 12:00:05 [default_loader.py:272] Loading weights took 3.55 seconds", "weights loaded"),
    ("INFO 01-31 12:00:09 [backends.py:430] Dynamo bytecode transform time: 4.5 s", "compiling"),
    (
        "Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):  51%|#####     | 34/67 [00:01<00:01]",
        "capturing CUDA graphs 51%",
    ),
    ("INFO 01-31 12:00:20 [gpu_model_runner.py:2] Graph capturing finished in 20 secs", "CUDA graphs captured"),
    ("INFO 01-31 12:00:21 [api_server.py:1] Starting vLLM API server 0 on http://0.0.0.0:8000", "its server starts"),
)


@pytest.mark.parametrize("count", range(1, len(LINES) + 1))
def test_the_last_step_counts(count: int) -> None:
    assert step("\n".join(line for line, _ in LINES[:count])) == LINES[count - 1][1]


def test_a_log_that_says_nothing() -> None:
    assert step("hello\n") == ""
    assert known_cause("hello\n") is None
    assert weights_load_s("hello\n") is None


def test_the_slowest_rank_loads_the_weights() -> None:
    assert weights_load_s("Loading weights took 3.55 seconds\n(Worker_TP1) Loading weights took 4.25 seconds\n") == 4.25


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", "the engine ran out of the GPU's memory"),
        (
            "ValueError: To serve at least one request with the models's max seq len (131072), (16.00 GiB KV cache is needed",
            "the model's context does not fit",
        ),
        ("ValueError: No available memory for the cache blocks.", "no room for a KV cache"),
        ("ValueError: Cannot auto-fit max_model_len: not enough GPU memory available to serve", "no room for a KV cache"),
        (
            "ValueError: User-specified max_model_len (262144) is greater than the derived max_model_len (…=1)",
            "more than the model was made for",
        ),
        (
            "ValueError: Free memory on device (3.1/79.1 GiB) on startup is less than desired GPU memory utilization",
            "something else uses",
        ),
        ("huggingface_hub.errors.GatedRepoError: 401 Client Error.", "the model's weights are gated"),
        ("Error: Access denied. This repository requires approval.", "the model's weights are gated"),
        ("huggingface_hub.errors.RepositoryNotFoundError: 401 Client Error.", "does not exist"),
        ("vllm: error: unrecognized arguments: --max-modle-len=1", "does not know one of its arguments"),
        ("vllm serve: error: argument --dtype: invalid choice: 'fp9'", "the value of one of its arguments"),
        ("OSError: [Errno 28] No space left on device", "a disk that the engine writes to is full"),
        ("RuntimeError: No CUDA GPUs are available", "the engine sees no GPU"),
        ("RuntimeError: unable to open shared memory object </torch_1>", "too little shared memory"),
    ],
)
def test_causes_that_are_known(line: str, cause: str) -> None:
    found = known_cause(f"INFO first\n{line}\nINFO last\n")
    assert found is not None
    assert cause in found.cause
    assert found.line == line
    assert found.is_final


def test_a_process_of_the_engine_that_was_killed() -> None:
    found = known_cause("RuntimeError: Engine core initialization failed. Failed core proc(s): {'EngineCore_DP0': -9}")
    assert found is not None
    assert "memory limit" in found.hint
    assert known_cause("Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': 1}") is None


def test_a_network_may_come_back() -> None:
    found = known_cause("MaxRetryError: Failed to resolve 'huggingface.co' ([Errno -3])")
    assert found is not None
    assert not found.is_final
