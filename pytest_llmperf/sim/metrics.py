"""vLLM's /metrics: its names, labels, help texts and buckets (vLLM 0.32), fed by what the engine's steps did."""

from __future__ import annotations

from prometheus_client import REGISTRY, generate_latest

from pytest_llmperf.sim.engine import Engine
from pytest_llmperf.sim.exposition import Exposition, Histogram, Value
from pytest_llmperf.sim.request import Request, Step
from pytest_llmperf.sim.spec import EngineConfig, SimSpec

TTFT_BOUNDS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
TOKEN_BOUNDS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
REQUEST_BOUNDS = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0),
    *(50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
ITERATION_BOUNDS = (1, 8, *(2**power for power in range(4, 15)))
_MFU = "(for Model Flops Utilization calculations)."
_REASONS = ("stop", "length", "abort", "error", "repetition")


def token_count_bounds(max_model_len: int) -> list[int]:
    """1, 2, 5, 10, 20, 50, ... up to the longest sequence."""
    series = (mantissa * 10**exponent for exponent in range(12) for mantissa in (1, 2, 5))
    return [bound for bound in series if bound <= max_model_len]


class Metrics:
    """All families of one engine; ``observe`` is called after each step, ``render`` on a scrape."""

    def __init__(self, spec: SimSpec, engine: Engine) -> None:
        self._engine = engine
        self._page = Exposition()
        self._base = {"engine": "0", "model_name": spec.model_id}
        self._queue_gauges()
        self._token_counters(spec)
        self._request_histograms(engine.config)
        self._latency_histograms()
        self._kv_computed = self._histogram(
            "request_prefill_kv_computed_tokens",
            "Histogram of new KV tokens computed during prefill (excluding cached tokens).",
            token_count_bounds(engine.config.max_model_len),
        )
        self._cache_config(spec, engine.config)
        self._last_step_end_s = 0.0
        self._preemptions_seen = 0

    def _labels(self, **more: str) -> dict[str, str]:
        return {**self._base, **more}

    def _gauge(self, name: str, help_text: str) -> Value:
        return self._page.gauge(f"vllm:{name}", help_text, self._base)[0]

    def _counter(self, name: str, help_text: str) -> Value:
        return self._page.counter(f"vllm:{name}", help_text, self._base)[0]

    def _by(self, name: str, help_text: str, label: str, values: tuple[str, ...]) -> dict[str, Value]:
        sets = [self._labels(**{label: value}) for value in values]
        return dict(zip(values, self._page.counter(f"vllm:{name}", help_text, *sets), strict=True))

    def _histogram(self, name: str, help_text: str, bounds: tuple[float, ...] | list[int]) -> Histogram:
        return self._page.histogram(f"vllm:{name}", help_text, bounds, self._base)

    def _queue_gauges(self) -> None:
        self._counter("estimated_flops_per_gpu", f"Estimated number of floating point operations per GPU {_MFU}")
        self._counter("estimated_read_bytes_per_gpu", f"Estimated number of bytes read from memory per GPU {_MFU}")
        self._counter("estimated_write_bytes_per_gpu", f"Estimated number of bytes written to memory per GPU {_MFU}")
        self._running = self._gauge("num_requests_running", "Number of requests in model execution batches.")
        self._waiting = self._gauge("num_requests_waiting", "Number of requests waiting to be processed.")
        self._waiting_capacity, _ = self._page.gauge(
            "vllm:num_requests_waiting_by_reason",
            "Number of waiting requests by reason. Reason labels: 'capacity' = waiting for scheduling capacity; "
            "'deferred' = deferred by transient constraints (LoRA budget, KV transfer, blocked status). Sum of all "
            "reasons equals vllm:num_requests_waiting.",
            *(self._labels(reason=reason) for reason in ("capacity", "deferred")),
        )
        awake, _offloaded, _discarded = self._page.gauge(
            "vllm:engine_sleep_state",
            "Engine sleep state; awake = 0 means engine is sleeping; awake = 1 means engine is awake; "
            "weights_offloaded = 1 means sleep level 1; discard_all = 1 means sleep level 2.",
            *(self._labels(sleep_state=state) for state in ("awake", "weights_offloaded", "discard_all")),
        )
        awake.value = 1.0
        self._kv_usage = self._gauge("kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.")

    def _token_counters(self, spec: SimSpec) -> None:
        queried = "in terms of number of queried tokens."
        external = "from KV connector cross-instance cache sharing, in terms of number of"
        self._queries = self._counter("prefix_cache_queries", f"Prefix cache queries, {queried}")
        self._hits = self._counter("prefix_cache_hits", "Prefix cache hits, in terms of number of cached tokens.")
        self._counter("external_prefix_cache_queries", f"External prefix cache queries {external} queried tokens.")
        self._counter("external_prefix_cache_hits", f"External prefix cache hits {external} cached tokens.")
        self._counter("mm_cache_queries", "Multi-modal cache queries, in terms of number of queried items.")
        self._counter("mm_cache_hits", "Multi-modal cache hits, in terms of number of cached items.")
        self._preemptions = self._counter("num_preemptions", "Cumulative number of preemption from the engine.")
        self._prompt = self._counter("prompt_tokens", "Number of prefill tokens processed.")
        self._sources = self._by(
            "prompt_tokens_by_source",
            "Number of prompt tokens by source.",
            "source",
            ("local_compute", "local_cache_hit", "external_kv_transfer"),
        )
        self._cached = self._counter("prompt_tokens_cached", "Number of cached prompt tokens (local + external).")
        self._tiers = self._by(
            "prompt_tokens_cached_by_source",
            "Prefix-cache hit tokens by the cache tier that supplied them: device (local HBM), host (offloaded to DRAM), "
            "disk, p2p (transferred from another vLLM instance) or external_unspecified. Counted at admission; sums to "
            "vllm:prefix_cache_hits + vllm:external_prefix_cache_hits.",
            "source",
            ("device", "host", "p2p", "disk", "external_unspecified"),
        )
        self._generation = self._counter("generation_tokens", "Number of generation tokens processed.")
        self._success = self._by("request_success", "Count of successfully processed requests.", "finished_reason", _REASONS)
        self._page.counter(
            "vllm:admission_rejections",
            "Number of admission attempts rejected by a queue limit, by reason.",
            *({"model_name": spec.model_id, "reason": f"max_num_queued_{what}"} for what in ("reqs", "tokens")),
        )

    def _request_histograms(self, config: EngineConfig) -> None:
        counts = token_count_bounds(config.max_model_len)
        self._h_prompt = self._histogram("request_prompt_tokens", "Number of prefill tokens processed.", counts)
        self._h_output = self._histogram("request_generation_tokens", "Number of generation tokens processed.", counts)
        self._h_iteration = self._histogram(
            "iteration_tokens_total", "Histogram of number of tokens per engine_step.", ITERATION_BOUNDS
        )
        self._h_max_output = self._histogram(
            "request_max_num_generation_tokens",
            "Histogram of maximum number of requested generation tokens.",
            counts,
        )
        self._h_n = self._histogram("request_params_n", "Histogram of the n request parameter.", (1, 2, 5, 10, 20))
        self._h_max = self._histogram("request_params_max_tokens", "Histogram of the max_tokens request parameter.", counts)

    def _latency_histograms(self) -> None:
        def times(name: str, help_text: str, bounds: tuple[float, ...] = REQUEST_BOUNDS) -> Histogram:
            return self._histogram(name, help_text, bounds)

        phase = "Histogram of time spent in {} phase for request."
        self._h_ttft = times("time_to_first_token_seconds", "Histogram of time to first token in seconds.", TTFT_BOUNDS)
        self._h_itl = times("inter_token_latency_seconds", "Histogram of inter-token latency in seconds.", TOKEN_BOUNDS)
        self._h_tpot = times(
            "request_time_per_output_token_seconds",
            "Histogram of time_per_output_token_seconds per request.",
            TOKEN_BOUNDS,
        )
        self._h_e2e = times("e2e_request_latency_seconds", "Histogram of e2e request latency in seconds.")
        self._h_queue = times("request_queue_time_seconds", phase.format("WAITING"))
        self._h_inference = times("request_inference_time_seconds", phase.format("RUNNING"))
        self._h_prefill = times("request_prefill_time_seconds", phase.format("PREFILL"))
        self._h_decode = times("request_decode_time_seconds", phase.format("DECODE"))
        self._h_preempted = self._histogram(
            "request_num_preemptions",
            "Histogram of the number of times a request was preempted.",
            (1, 2, 3, 4, 5, 10, 20),
        )

    def _cache_config(self, spec: SimSpec, config: EngineConfig) -> None:
        tokens = config.num_gpu_blocks * config.block_size
        kv_bytes = int(tokens * spec.model.kv_bytes_per_token / config.tensor_parallel_size)
        known = {
            "_block_size_resolved": True,
            "block_size": config.block_size,
            "effective_attention_block_size": config.block_size,
            "enable_mamba_shared_prefix_checkpoint": False,
            "enable_prefix_caching": config.enable_prefix_caching,
            "gpu_memory_utilization": config.gpu_memory_utilization,
            "is_attention_free": False,
            "kv_cache_dtype_skip_layers": [],
            "kv_cache_max_concurrency": tokens / config.max_model_len,
            "kv_cache_memory_bytes": kv_bytes,
            "kv_cache_size_tokens": tokens,
            "kv_offloading_backend": "native",
            "kv_sharing_fast_prefill": False,
            "mamba_cache_mode": "none",
            "mamba_ssm_cache_dtype": "float32",
            "num_gpu_blocks": config.num_gpu_blocks,
            "num_gpu_blocks_override": spec.engine.num_gpu_blocks_override,
            "prefix_cache_retention_interval": 0,
            "prefix_caching_hash_algo": "sha256",
            "replayssm_buffer_len": 16,
            "swa_bounded_replay": True,
            "use_kda_recoverssm": False,
            "use_replayssm": False,
            "user_specified_block_size": False,
        }
        unset = "cache_hit_alignment_tokens hash_block_size kv_cache_layout kv_offloading_size mamba_block_size"
        unset += " mamba_page_size_padded num_cpu_blocks prefix_match_unit skip_page_size_padded sliding_window"
        labels = {name: str(value) for name, value in known.items()} | dict.fromkeys(unset.split(), "None")
        labels |= {"cache_dtype": "auto", "mamba_cache_dtype": "auto", "engine": "0"}
        help_text = "Information of the LLMEngine CacheConfig"
        self._page.gauge("vllm:cache_config_info", help_text, labels)[0].value = 1.0

    def observe(self, step: Step) -> None:
        """Count what a step did, once its tokens have left. A request whose client goes away is in no metric, as in vLLM."""
        self._h_iteration.observe(step.n_tokens)
        if step.decoded:
            self._h_itl.observe(step.end_s - self._last_step_end_s, len(step.decoded))
        self._last_step_end_s = step.end_s
        for request in step.first_tokens:
            if request.n_preemptions == 0:
                self._h_ttft.observe(step.end_s - request.arrival_s)
        for request in step.finished:
            self._observe_finished(request)

    def _observe_finished(self, request: Request) -> None:
        self._success[request.finish_reason].value += 1
        self._h_prompt.observe(request.prompt_tokens)
        self._h_output.observe(request.output_tokens)
        self._h_max_output.observe(request.output_tokens)
        self._h_n.observe(1)
        self._h_max.observe(request.max_tokens)
        self._h_preempted.observe(request.n_preemptions)
        self._kv_computed.observe(request.prompt_tokens - request.cached_tokens)
        scheduled, first, finished = request.scheduled_s, request.first_token_s, request.finished_s
        if scheduled is None or first is None or finished is None:
            return
        if request.output_tokens > 1:
            self._h_tpot.observe((finished - first) / (request.output_tokens - 1))
        self._h_e2e.observe(finished - request.arrival_s)
        self._h_queue.observe(scheduled - request.arrival_s)
        self._h_inference.observe(finished - scheduled)
        self._h_prefill.observe(first - scheduled)
        self._h_decode.observe(finished - first)

    def render(self) -> bytes:
        """The page, with the gauges and totals read off the engine."""
        engine, stats = self._engine, self._engine.stats
        self._running.value = engine.n_running
        self._waiting.value = self._waiting_capacity.value = engine.n_waiting
        self._kv_usage.value = engine.pool.usage
        self._queries.value = stats.prefix_query_tokens
        self._hits.value = self._cached.value = stats.prefix_hit_tokens
        self._tiers["device"].value = self._sources["local_cache_hit"].value = stats.prefix_hit_tokens
        self._sources["local_compute"].value = stats.prompt_tokens - stats.prefix_hit_tokens
        self._preemptions.value = stats.n_preemptions
        self._prompt.value = stats.prompt_tokens
        self._generation.value = stats.generation_tokens
        # What prometheus-client tells of any Python process, as vLLM's page does.
        return generate_latest(REGISTRY) + self._page.render()
