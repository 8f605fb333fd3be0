"""What an engine's log says of its start: how far it is, how long the weights took, and causes of its end that are known."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Known:
    """A cause that a log tells. One that is ``final`` comes back however often the engine is started."""

    cause: str
    hint: str
    line: str
    """The line that tells it."""
    is_final: bool = True


@dataclass(frozen=True)
class _Pattern:
    pattern: str
    cause: str
    hint: str
    is_final: bool = True


_TOKEN_HINT = (
    "Accept the model's licence where it is published, and give a token that may read it: HF_TOKEN, or --llmperf-hf-secret."
)
_KNOWN = (
    _Pattern(
        r"torch\.(?:cuda\.)?OutOfMemoryError|CUDA out of memory|CUDA error: out of memory",
        "the engine ran out of the GPU's memory",
        "Lower the engine's --max-model-len, --max-num-seqs or --gpu-memory-utilization, or take hardware with more memory.",
    ),
    _Pattern(
        r"max seq len \(\d+\).*KV cache|larger than the maximum number of tokens that can be stored in KV cache",
        "the model's context does not fit into the GPU's memory beside its weights",
        "Lower the engine's --max-model-len, raise --gpu-memory-utilization, or take hardware with more memory.",
    ),
    _Pattern(
        r"No available memory for the cache blocks|Cannot auto-fit max_model_len",
        "the GPU's memory has no room for a KV cache beside the weights",
        "Raise the engine's --gpu-memory-utilization, or take hardware with more memory.",
    ),
    _Pattern(
        r"User-specified max_model_len \(\d+\) is greater than the derived max_model_len",
        "the engine's --max-model-len is more than the model was made for",
        "Lower --max-model-len in the variant or the manifest; 'auto' takes what fits.",
    ),
    _Pattern(
        r"max_num_batched_tokens \(\d+\) (?:is smaller than max_model_len|must be greater than or equal to max_num_seqs)",
        "the engine's --max-num-batched-tokens does not go with its other limits",
        "Raise it, or lower --max-model-len or --max-num-seqs, as the line says, in the variant or the manifest.",
    ),
    _Pattern(
        r"Unknown quantization method|[Qq]uantization (?:method|scheme) .*is not supported",
        "the engine cannot serve a model that is quantized like this, or not on this GPU",
        "Name another model or quantization in the variant's engine_args, a newer image, or hardware that has it.",
    ),
    _Pattern(
        r"OSError: \[Errno 98\]",
        "something else listens on the engine's port",
        "Pods of a host's network share its ports: take 'hostNetwork' out of the manifest, or name another --port.",
    ),
    _Pattern(
        r"Free memory on device .*less than desired GPU memory utilization",
        "something else uses the GPU's memory",
        "See what runs on the node's GPU (nvidia-smi there), or lower the engine's --gpu-memory-utilization.",
    ),
    # Before what is gated: of a repository that does not exist, who shows no token hears 401 too.
    _Pattern(
        r"RepositoryNotFoundError|is not a valid model identifier|Invalid repository ID or local"
        r"|Repository [Nn]ot [Ff]ound|Error: (?:Model|Repository) '[^']*' not found",
        "the model's repository does not exist, or the engine's token may not see it",
        f"Check the model's 'repository' in the catalog. {_TOKEN_HINT}",
    ),
    _Pattern(
        r"GatedRepoError|gated repo|Access to model .* is restricted|Access denied\. .* requires approval|40[13] Client Error",
        "the model's weights are gated, and the engine's token may not read them",
        _TOKEN_HINT,
    ),
    _Pattern(
        r"Error: Client error '401 Unauthorized' for url|Error: Local entry not found\. 40[13] ",
        "the token for the model's weights does not count, or may not read them",
        "Give one that does, and that may read the contents of the model's repository: HF_TOKEN, or --llmperf-hf-secret.",
    ),
    _Pattern(
        r"RevisionNotFoundError|Error: Revision not found",
        "the model's repository has no such revision",
        "Correct the 'revision' in the variant's engine arguments.",
    ),
    _Pattern(
        r"error: unrecognized arguments?:",
        "the engine does not know one of its arguments",
        "Correct the variant's engine_args or the manifest's args: this is what the engine's version says of them.",
    ),
    _Pattern(
        r"error: argument .+: ",
        "the engine does not take the value of one of its arguments",
        "Correct the variant's engine_args or the manifest's args: this is what the engine's version says of them.",
    ),
    _Pattern(
        r"No space left on device",
        "a disk that the engine writes to is full",
        "Ask for a larger claim or a larger emptyDir: the model cache must hold all of the weights.",
    ),
    _Pattern(
        r"Error 803|unsupported display driver / cuda driver combination",
        "the node's GPU driver does not fit the engine's image",
        "Name an image made for the CUDA of the node's driver, or have that updated. An image's own libcuda (compat) must not "
        "come before the node's in LD_LIBRARY_PATH.",
    ),
    _Pattern(
        r"libcuda\.so(?:\.1)?: cannot open shared object file|cannot find -l:?(?:lib)?cuda\b",
        "the engine's container does not see the node's GPU driver",
        "Check that the container asks for the cell's GPU resource, and that the node has a driver. On GKE LD_LIBRARY_PATH must "
        "name /usr/local/nvidia/lib64; elsewhere NVIDIA's container runtime brings it in (runtimeClassName).",
    ),
    _Pattern(
        r"No CUDA GPUs are available|no CUDA-capable device|Failed to infer device type|Device string must not be empty"
        r"|Found no NVIDIA driver",
        "the engine sees no GPU",
        "Check that the container asks for the cell's GPU resource, and that the node's GPU driver and runtime work.",
    ),
    _Pattern(
        r"CUDA driver version is insufficient|NVIDIA driver on your system is too old",
        "the node's GPU driver is too old for the engine's image",
        "Name an image made for an older CUDA, or have the node's driver updated.",
    ),
    _Pattern(
        r"out of shared memory|unable to (?:open|allocate) shared memory",
        "the engine's processes have too little shared memory",
        "Mount an emptyDir of medium Memory at /dev/shm, as the shipped manifests do.",
    ),
    # Not of vLLM's statistics of its use, without which it goes on.
    _Pattern(
        r"Error: \[Errno (?:13|30)\] (?:Permission denied|Read-only file system): '/(?!(?:[^'\n]*/)?\.config\b)",
        "the user that the pod runs as may not write to the model cache, or wherever the engine writes",
        "The line names the folder. Of a hostPath: chown it on the node to the pod's runAsUser. Of a claim: set fsGroup in the "
        "manifest's securityContext. Or use another: --llmperf-model-cache.",
    ),
    _Pattern(
        r"429 Too Many Requests|429 Client Error",
        "the place that has the weights limits how often it is asked",
        "Give a token, which may ask more often (HF_TOKEN, or --llmperf-hf-secret), try later, or keep the weights: "
        "--llmperf-model-cache.",
        is_final=False,
    ),
    _Pattern(
        r"LocalEntryNotFoundError|Failed to resolve '[^']*huggingface|couldn't connect to 'https?://[^']*huggingface"
        r"|Error: Local entry not found\. ",
        "the pod cannot reach the place that has the weights",
        "Let the pod reach it (egress rules, a proxy), or use a volume that has the weights: --llmperf-model-cache.",
        is_final=False,
    ),
    # Last: whatever else is said tells more.
    _Pattern(
        r"Failed core proc\(s\): \{[^}]*: -9\b",
        "one of the engine's processes was killed, most likely for the container's use of memory",
        "Raise the container's memory limit in the manifest: loading weights may need as much as they weigh.",
        is_final=False,
    ),
)
_STEPS = (
    (r"Fetching \d+ files:\s+(\d+%)", "downloading weights"),
    (r"Starting to load model", "loading weights"),
    (r"Loading \w+ checkpoint shards:\s+(\d+%)", "loading weights"),
    (r"Loading weights took|Model loading took", "weights loaded"),
    (r"Dynamo bytecode transform|Compiling a graph|torch\.compile (?:takes|took)", "compiling"),
    (r"Capturing (?:the model for )?CUDA graphs?[^%\n\r]*?(?:(\d+%)|$)", "capturing CUDA graphs"),
    (r"Graph capturing finished", "CUDA graphs captured"),
    (r"Starting vLLM (?:API )?server|Application startup complete", "its server starts"),
)
_WEIGHTS = re.compile(r"Loading weights took ([\d.]+) seconds")


def known_cause(log: str) -> Known | None:
    """The cause that the end of a log tells; of several the one that stands first in the list, which says most."""
    for one in _KNOWN:
        if (match := re.search(one.pattern, log)) is not None:
            start, end = log.rfind("\n", 0, match.start()) + 1, log.find("\n", match.end())
            return Known(one.cause, one.hint, log[start : end if end >= 0 else None].strip(), one.is_final)
    return None


def step(log: str) -> str:
    """How far the engine is by its log's last words on that: ``loading weights 25%``; empty where it does not say."""
    found = [(match.start(), name, match) for pattern, name in _STEPS for match in re.finditer(pattern, log, re.MULTILINE)]
    if not found:
        return ""
    _, name, match = max(found, key=lambda one: one[0])
    percent = match[1] if match.re.groups else None
    return f"{name} {percent}" if percent else name


def weights_load_s(log: str) -> float | None:
    """How long the engine says that it loaded the weights; of several ranks the slowest. None where it does not say."""
    return max((float(match[1]) for match in _WEIGHTS.finditer(log)), default=None)
