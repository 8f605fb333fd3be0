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
    ("INFO 01-31 12:00:21 [entry.py:140] Starting vLLM server on http://0.0.0.0:8000", "its server starts"),
)
OLDER = (
    ("INFO 01-31 12:00:10 [monitor.py:34] torch.compile takes 21.36 s in total", "compiling"),
    ("INFO 01-31 12:00:21 [api_server.py:1] Starting vLLM API server 0 on http://0.0.0.0:8000", "its server starts"),
)
"""What versions before say."""
DOWNLOADS = (
    ("Error: Access denied. Model 'meta-llama/Llama-3.1-8B-Instruct' requires approval.", "the model's weights are gated"),
    ("Error: Model 'meta-llama/Llama-9' not found.", "does not exist, or the engine's token may not see it"),
    ("Error: Client error '401 Unauthorized' for url 'https://huggingface.co/api/models/a/b/revision/main'", "does not count"),
    ("Error: Local entry not found. 403 Forbidden: None.", "may not read them"),
    ("Error: Revision not found in model 'meta-llama/Llama-3.1-8B-Instruct'.", "no such revision"),
)
"""What `hf download` writes (huggingface_hub 2.4), and that will not pass."""
PASSING = (
    ("Error: Local entry not found. [Errno -2] Name or service not known", "cannot reach the place", "Let the pod reach it"),
    ("Error: Local entry not found. [Errno 111] Connection refused", "cannot reach the place", "Let the pod reach it"),
    (
        "Error: Local entry not found. 429 Too Many Requests for url: https://huggingface.co/api/models/a/b/revision/main.",
        "limits how often it is asked",
        "Give a token",
    ),
    ("MaxRetryError: Failed to resolve 'huggingface.co' ([Errno -3])", "cannot reach the place", "Let the pod reach it"),
)


@pytest.mark.parametrize("count", range(1, len(LINES) + 1))
def test_the_last_step_counts(count: int) -> None:
    assert step("\n".join(line for line, _ in LINES[:count])) == LINES[count - 1][1]


@pytest.mark.parametrize(("line", "told"), OLDER)
def test_the_steps_of_older_versions(line: str, told: str) -> None:
    assert step(f"INFO 01-31 12:00:09 first\n{line}\n") == told


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
            "ValueError: To serve at least one request with the model's max seq len (131072), (16.00 GiB KV cache is needed, "
            "which is larger than the available KV cache memory (7.2 GiB). Based on the available memory, the estimated maximum",
            "the model's context does not fit",
        ),
        (
            "ValueError: The model's max seq len (131072) is larger than the maximum number of tokens that can be stored in KV "
            "cache (9000).",
            "the model's context does not fit",
        ),
        ("ValueError: max_num_batched_tokens (2048) is smaller than max_model_len (4096).", "--max-num-batched-tokens"),
        (
            "  Value error, max_num_batched_tokens (64) must be greater than or equal to max_num_seqs (256).",
            "--max-num-batched-tokens",
        ),
        ("  Value error, Unknown quantization method: fp5. Must be one of ['awq', 'fp8'].", "quantized like this"),
        (
            "ValueError: The quantization method fp8 is not supported for the current GPU. Minimum capability: 89.",
            "quantized like this",
        ),
        ("OSError: [Errno 98] Address already in use", "something else listens on the engine's port"),
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
        *DOWNLOADS,
        ("huggingface_hub.errors.RepositoryNotFoundError: 401 Client Error.", "does not exist"),
        ("vllm: error: unrecognized arguments: --max-modle-len=1", "does not know one of its arguments"),
        ("vllm serve: error: argument --dtype: invalid choice: 'fp9'", "the value of one of its arguments"),
        ("OSError: [Errno 28] No space left on device", "a disk that the engine writes to is full"),
        ("PermissionError: [Errno 13] Permission denied: '/models/huggingface'", "may not write to the model cache"),
        ("OSError: [Errno 30] Read-only file system: '/models/huggingface'", "may not write to the model cache"),
        ("RuntimeError: No CUDA GPUs are available", "the engine sees no GPU"),
        ("RuntimeError: CUDA error: no CUDA-capable device is detected", "the engine sees no GPU"),
        ("RuntimeError: Device string must not be empty", "the engine sees no GPU"),
        ("RuntimeError: Failed to infer device type, please set the environment variable", "the engine sees no GPU"),
        (
            "RuntimeError: Unexpected error from cudaGetDeviceCount(). Error 803: system has unsupported display "
            "driver / cuda driver combination",
            "the node's GPU driver does not fit",
        ),
        ("RuntimeError: CUDA driver version is insufficient for CUDA runtime version", "the node's GPU driver is too old"),
        ("/usr/bin/ld: cannot find -l:libcuda.so.1: No such file or directory", "does not see the node's GPU driver"),
        (
            "ImportError: libcuda.so.1: cannot open shared object file: No such file or directory",
            "does not see the node's GPU driver",
        ),
        ("RuntimeError: unable to open shared memory object </torch_1>", "too little shared memory"),
    ],
)
def test_causes_that_are_known(line: str, cause: str) -> None:
    found = known_cause(f"INFO first\n{line}\nINFO last\n")
    assert found is not None
    assert cause in found.cause
    assert found.line == line.strip()
    assert found.is_final


def test_a_process_of_the_engine_that_was_killed() -> None:
    found = known_cause("RuntimeError: Engine core initialization failed. Failed core proc(s): {'EngineCore_DP0': -9}")
    assert found is not None
    assert "memory limit" in found.hint
    assert known_cause("Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': 1}") is None


@pytest.mark.parametrize(("line", "cause", "hint"), PASSING)
def test_a_network_may_come_back(line: str, cause: str, hint: str) -> None:
    found = known_cause(f"{line}\nHint: set HF_DEBUG=1 as environment variable for full traceback.\n")
    assert found is not None
    assert cause in found.cause
    assert found.hint.startswith(hint)
    assert not found.is_final


def test_what_is_not_needed_may_be_unwritable() -> None:
    """As of a cache that has the weights already and that others write to."""
    line = "Ignored error while writing commit hash to /models/main: [Errno 13] Permission denied: '/models/huggingface'."
    assert known_cause(line) is None
    # vLLM's statistics of its use, in a thread of their own.
    assert known_cause("PermissionError: [Errno 13] Permission denied: '/.config'") is None
    assert known_cause("OSError: [Errno 30] Read-only file system: '/root/.config/vllm'") is None
