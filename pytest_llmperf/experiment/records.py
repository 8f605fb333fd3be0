"""The frozen records an experiment is made of, as the catalog's YAML holds them (keys are the field names)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from pydantic import ConfigDict

from pytest_llmperf.experiment.http_template import HttpTemplate, Query
from pytest_llmperf.experiment.profile import LoadProfile
from pytest_llmperf.experiment.profile_keys import ProfileArrivals, ProfileStage, check_keys, driven_profile
from pytest_llmperf.experiment.quantities import Bytes, BytesPerSecond, Count, Fraction, PerSecond, Seconds, UsdPerHour
from pytest_llmperf.experiment.stages import ThinkDistribution

STRICT = ConfigDict(extra="forbid")
Precision = Literal["bf16", "fp16", "fp8", "int4"]
MethodName = Literal["standalone", "kustomize", "helm", "llm-d", "kserve"]


@dataclass(frozen=True)
class Toleration:
    """A Kubernetes toleration, as the pod spec writes it."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    key: str
    operator: Literal["Exists", "Equal"] = "Exists"
    value: str | None = None
    effect: Literal["NoSchedule", "NoExecute", "PreferNoSchedule"] | None = None


@dataclass(frozen=True)
class Platform:
    """A kind of cluster. ``accelerator_label`` is the node label by which it names its GPUs.

    Where it ``assigns_users``, a pod may not choose the user and groups it runs as.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: str
    title: str
    accelerator_label: str
    storage_class: str | None = None
    tolerations: tuple[Toleration, ...] = ()
    assigns_users: bool = False


@dataclass(frozen=True)
class Efficiency:
    """How much of its datasheet peaks an accelerator reaches when it serves: what the simulator computes step times from.

    ``bandwidth`` is the share of the memory bandwidth a decode step streams at, ``mfu_*`` the share of the dense peak a long
    prefill reaches, ``layer_overhead`` the seconds per layer and step that neither bytes nor FLOPs explain,
    ``sequence_overhead`` those per layer and running sequence, ``token_overhead`` those per layer and prompt token.
    ``api_overhead`` are the seconds of a request outside the engine.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    bandwidth: Fraction = 0.80
    mfu_bf16: Fraction = 0.55
    mfu_fp8: Fraction = 0.40
    layer_overhead: Seconds = 40e-6
    sequence_overhead: Seconds = 0.3e-6
    token_overhead: Seconds = 0.0
    api_overhead: Seconds = 5e-3


@dataclass(frozen=True)
class Hardware:
    """An accelerator, and ``count`` of them (``h100x4`` is the record ``h100`` with count 4).

    ``memory`` is what the engine sees as total device memory. Peaks are dense (no sparsity), per second; they, ``bandwidth``
    (bytes per second) and ``memory`` are of one accelerator (of the slice, for MIG). ``node_labels`` maps a platform's name to
    the value of its ``accelerator_label`` there. ``engine_class`` says which defaults vLLM takes: ``large`` for 70 GiB and
    more that is not an A100. ``interconnect: none`` means that there is no path between two of them.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: str
    title: str
    memory: Bytes
    bandwidth: BytesPerSecond
    bf16_flops: Count
    fp8_flops: Count | None
    interconnect: Literal["nvlink-h100", "nvlink-a100", "pcie4", "pcie3", "none"]
    power_watts: float
    resource: str = "nvidia.com/gpu"
    node_labels: Mapping[str, str] = field(default_factory=dict)
    counts: tuple[int, ...] = (1,)
    count: int = 1
    engine_class: Literal["large", "small"] = "small"
    supports_bf16: bool = True
    efficiency: Efficiency = Efficiency()

    def __post_init__(self) -> None:
        if not self.counts or min(self.counts) < 1:
            raise ValueError("'counts' needs at least one number, each 1 or more")
        if self.memory < 2**30:
            raise ValueError(f"'memory' is only {self.memory} bytes: is its unit missing (80Gi)?")

    @property
    def id(self) -> str:
        """``h100`` or ``h100x4``."""
        return self.name if self.count == 1 else f"{self.name}x{self.count}"


@dataclass(frozen=True)
class Model:
    """A model's shape: what its weights and KV cache weigh and what a token costs.

    ``params_active`` differs from ``params_total`` for mixtures of experts, which have ``experts`` of which each token passes
    through ``experts_per_token``.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: str
    title: str
    repository: str
    params_total: Count
    params_active: Count
    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    max_model_len: int
    experts: int = 0
    experts_per_token: int = 0
    tied_embeddings: bool = False
    precision: Precision = "bf16"
    gated: bool = False

    def __post_init__(self) -> None:
        for name in ("layers", "hidden_size", "heads", "kv_heads", "head_dim", "vocab_size", "max_model_len"):
            if getattr(self, name) < 1:
                raise ValueError(f"'{name}' must be 1 or more")
        if self.heads % self.kv_heads:
            raise ValueError(f"'heads' ({self.heads}) must be a multiple of 'kv_heads' ({self.kv_heads})")
        if not 0 < self.params_active <= self.params_total:
            raise ValueError("'params_active' must be more than 0 and at most 'params_total'")
        if self.experts_per_token > self.experts:
            raise ValueError(f"'experts_per_token' ({self.experts_per_token}) is more than 'experts' ({self.experts})")


@dataclass(frozen=True)
class Method:
    """How the engine is deployed on Kubernetes, and where its manifests lie (relative to ``manifests/``)."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: MethodName
    title: str
    manifests: str


@dataclass(frozen=True)
class Variant:
    """A named set of engine arguments and environment; ``precision`` overrides the model's.

    The keys of ``engine_args`` are ``vllm serve``'s options without the leading dashes (``max-num-seqs: 64``,
    ``enable-prefix-caching: false``).
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: str
    title: str = ""
    engine_args: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    precision: Precision | None = None

    def engine_arg(self, name: str) -> str | int | float | bool | None:
        """An engine argument, written with dashes or (as vLLM also takes it) underscores; None where it is not set."""
        return next((value for key, value in self.engine_args.items() if key.replace("_", "-") == name), None)


@dataclass(frozen=True)
class Lengths:
    """A distribution of token counts, truncated to [``min``, ``max``]; lognormal has ``mean`` and ``cv`` (sd / mean)."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    mean: int
    distribution: Literal["fixed", "uniform", "lognormal"] = "fixed"
    cv: float = 0.0
    min: int = 1
    max: int | None = None

    def __post_init__(self) -> None:
        if self.distribution == "lognormal" and not self.cv > 0:
            raise ValueError("a lognormal distribution needs a 'cv' (sd / mean) of more than 0")
        if self.distribution != "lognormal" and self.cv:
            raise ValueError(f"'cv' belongs to a lognormal distribution, not to a {self.distribution} one")
        if self.min < 1:
            raise ValueError("'min' must be 1 or more")
        if self.mean < self.min:
            raise ValueError(f"'mean' ({self.mean}) is less than 'min' ({self.min})")
        if self.max is not None and self.mean > self.max:
            raise ValueError(f"'mean' ({self.mean}) is more than 'max' ({self.max})")

    @property
    def least(self) -> int:
        """The fewest tokens that can be drawn."""
        return self.mean if self.distribution == "fixed" else self.min


@dataclass(frozen=True)
class Turns:
    """Several requests of one session: each turn's prompt is all that came before plus ``input`` new tokens.

    Between an answer and the next turn passes ``pause`` (a tool at work, a person thinking), exponentially distributed
    when ``pause_distribution`` says so.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    count: Lengths
    input: Lengths
    pause: Seconds = 0.0
    pause_distribution: Literal["fixed", "exponential"] = "exponential"


@dataclass(frozen=True)
class SharedPrefix:
    """The first ``tokens`` of a prompt are one of ``groups`` fixed texts (a system prompt): what a prefix cache can reuse."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    tokens: int
    groups: int = 1

    def __post_init__(self) -> None:
        if self.tokens < 1 or self.groups < 1:
            raise ValueError("'tokens' and 'groups' must be 1 or more")


_NOT_SAID = Lengths(1)
"""Where a workload says nothing of its lengths."""


@dataclass(frozen=True)
class Workload:
    """What is asked: input and output lengths in tokens, what prompts share, turns, API.

    ``input`` counts the whole first prompt, the shared prefix included; ``queries`` take its place where texts are given.
    ``continuous_usage`` asks for the count of tokens in every event of a stream: for engines that send several tokens in one
    (speculative decoding, a stream interval), since it makes each event nearly half as long again and its decoding more than
    twice as dear. ``http`` is the form of a service that is not OpenAI-compatible. ``warmup`` is the load that primes and is
    not counted, fixed beforehand. ``timeout`` bounds a request from the moment it was begun, ``first_token_timeout`` the wait
    for a stream's first token, ``idle_timeout`` the silence after that; None leaves those to ``timeout``. ``sla`` names the SLA
    that fits, ``profile`` the load at which it is held.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: str
    title: str
    input: Lengths = _NOT_SAID
    output: Lengths = _NOT_SAID
    shared_prefix: SharedPrefix | None = None
    turns: Turns | None = None
    api: Literal["completions", "chat", "http"] = "completions"
    prompt: Literal["token_ids", "text"] = "token_ids"
    stream: bool = True
    ignore_eos: bool = True
    warmup: Seconds = 2.0
    timeout: Seconds = 120.0
    first_token_timeout: Seconds | None = None
    idle_timeout: Seconds | None = None
    sla: str | None = None
    profile: str | None = None
    continuous_usage: bool = False
    http: HttpTemplate | None = None
    queries: tuple[Query, ...] = ()

    def __post_init__(self) -> None:
        if self.http is None and self.api == "http":
            raise ValueError("'api: http' needs a template: the key 'http' with 'path', 'body' and 'text'")
        if self.http is not None and self.api != "http":
            raise ValueError(f"the template 'http' is for 'api: http', not for 'api: {self.api}'")
        self._check_lengths()
        self._check_queries()
        if self.continuous_usage and (self.api == "http" or not self.stream):
            raise ValueError("'continuous_usage' is for streamed answers of completions and chat")
        for name in ("first_token_timeout", "idle_timeout"):
            limit = getattr(self, name)
            if limit is not None and not (self.stream and 0 < limit <= self.timeout):
                raise ValueError(f"'{name}' is for streamed answers: more than 0 and at most 'timeout' ({self.timeout:g}s)")
        if self.shared_prefix is not None and self.shared_prefix.tokens > self.input.least:
            raise ValueError(
                f"'shared_prefix.tokens' ({self.shared_prefix.tokens}) is more than the shortest input ({self.input.least}); "
                "raise 'input.min'"
            )

    def _check_lengths(self) -> None:
        if self.input is _NOT_SAID and not self.queries:
            raise ValueError("the key 'input' is missing")
        if self.output is _NOT_SAID and (self.http is None or "output_tokens" in self.http.placeholders):
            raise ValueError("the key 'output' is missing")

    def _check_queries(self) -> None:
        if not self.queries:
            return
        if self.api == "completions" and self.prompt == "token_ids":
            raise ValueError("'queries' are texts: they need 'prompt: text' (or 'api: chat')")
        beside = {"input": self.input is not _NOT_SAID, "shared_prefix": self.shared_prefix is not None}
        beside["turns"] = self.turns is not None and self.api == "completions"
        if (key := next((key for key, given in beside.items() if given), None)) is not None:
            raise ValueError(f"'queries' are the whole prompts: {key!r} has no meaning beside them")


@dataclass(frozen=True)
class ProfileChange:
    """What a profile does otherwise on one hardware; None keeps the profile's own."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    rate: PerSecond | None = None
    users: int | None = None
    duration: Seconds | None = None
    stages: tuple[ProfileStage, ...] = ()


@dataclass(frozen=True)
class NamedProfile:
    """A load profile with a name and a duration: an open loop at ``rate`` or a closed loop of ``users``, or either in ``stages``.

    ``arrivals`` says how requests come: ``gamma`` has a ``burstiness``, ``bursts`` have ``size`` requests at once ``every`` so
    often; users of ``concurrency`` have a ``think_time`` and come over the ``ramp``. Stages have a duration of their own, unless
    they ``repeat``. ``hardware`` says what changes on which (``h100``, or ``h100x4`` for just that count): a rate that one
    accelerator serves easily would drown another.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: str
    arrivals: ProfileArrivals
    duration: Seconds | None = None
    rate: PerSecond | None = None
    users: int | None = None
    think_time: Seconds = 0.0
    hardware: Mapping[str, ProfileChange] = field(default_factory=dict)
    burstiness: float | None = None
    size: int | None = None
    every: Seconds | None = None
    think_distribution: ThinkDistribution = "fixed"
    ramp: Seconds = 0.0
    stages: tuple[ProfileStage, ...] = ()
    repeat: bool = False

    def __post_init__(self) -> None:
        check_keys(self)
        for hardware, change in self.hardware.items():
            try:
                self._changed(change)
            except ValueError as error:
                raise ValueError(f"on hardware {hardware!r}: {error}") from None

    @property
    def is_open(self) -> bool:
        """Whether arrivals are independent of the answers."""
        return self.arrivals != "concurrency"

    def on(self, hardware: Hardware) -> NamedProfile:
        """The profile as it is on this hardware."""
        return self._changed(self.hardware.get(hardware.id) or self.hardware.get(hardware.name) or ProfileChange())

    def _changed(self, change: ProfileChange) -> NamedProfile:
        return replace(
            self,
            rate=self.rate if change.rate is None else change.rate,
            users=self.users if change.users is None else change.users,
            duration=self.duration if change.duration is None else change.duration,
            stages=change.stages or self.stages,
            hardware={},
        )

    @property
    def load_profile(self) -> LoadProfile:
        """What the load engine drives."""
        return driven_profile(self)


@dataclass(frozen=True)
class Price:
    """What one accelerator of a kind costs per hour on a platform, with where and when that was read."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    hardware: str
    platform: str
    per_gpu: UsdPerHour
    source: str
    date: str


@dataclass(frozen=True)
class MemoryPolicy:
    """How much of an accelerator's memory the engine may use, and what it needs there besides weights and KV cache.

    ``outside_torch`` (CUDA context and, in parallel, communication buffers) and ``cuda_graphs`` are bytes per accelerator;
    ``min_context_tokens`` is the context of the one request that must fit for a deployment to be of use.
    """

    gpu_memory_utilization: Fraction = 0.92
    outside_torch: Bytes = 600 * 2**20
    outside_torch_parallel: Bytes = 1536 * 2**20
    cuda_graphs: Bytes = 2**29
    min_context_tokens: int = 2048


@dataclass(frozen=True, repr=False)
class Cell:
    """One point of the matrix: everything a deployment is made from."""

    platform: Platform
    hardware: Hardware
    method: Method
    model: Model
    variant: Variant

    @property
    def id(self) -> str:
        """``gke_h100_standalone_llama-3.1-8b``; the variant follows when it is not ``default``."""
        parts = [self.platform.name, self.hardware.id, self.method.name, self.model.name]
        return "_".join(parts if self.variant.name == "default" else [*parts, self.variant.name])

    def __repr__(self) -> str:
        # Short and stable: pytest and Allure show it as the test's parameter, and Allure's history hashes it.
        return f"Cell({self.id})"

    @property
    def precision(self) -> Precision:
        """The number format of the weights."""
        return self.variant.precision or self.model.precision
