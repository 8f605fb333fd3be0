"""Parts of the results JSON, version 2: how everything was set up, the course of a run, the server's side, what it cost.

``results_v2`` has the others, and the rules for all of them.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Part(BaseModel):
    """What all parts of a document share: frozen, finite; a field that a later writer added is passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


def finite(value: float) -> float | None:
    """The number where JSON has one for it, else None."""
    return value if math.isfinite(value) else None


class ConfigurationPart(Part):
    """How everything was set up: enough to do it again, and to say later why two runs differ.

    ``settings`` are the session's, by their names (``policy``), as they were resolved; ``environment`` has those of the client's
    variables that an allow-list names. Neither holds a secret. ``packages`` and ``client_platform`` are of the machine that made
    the load.
    """

    settings: dict[str, str]
    environment: dict[str, str]
    packages: dict[str, str]
    client_platform: str
    commit: str | None = None
    """The full hash of what was checked out in pytest's rootdir; null without git or a repository."""
    dirty: bool = False
    """Whether tracked files differed from the commit."""
    engine_version: str | None = None
    engine_arguments: tuple[str, ...] = ()
    """The engine's own, without the command that they follow; keys and tokens read ``***``."""
    image: str | None = None
    image_digest: str | None = None
    gpu: str | None = None
    """The accelerator as the machine or the node names it; null where nobody says."""
    driver: str | None = None
    manifests: tuple[str, ...] = ()
    """What was applied, as YAML documents; secrets in them read ``***``."""


class SeriesPart(Part):
    """The run over time, warm-up included: bins of ``step_s`` from ``start_s``, both in seconds since ``started_at``.

    The last bin ends with what was seen last: it is ``last_step_s`` long, from half to one and a half of ``step_s`` where it has
    others before it, and its rates are over that time (null, in older documents: as long as the others). Every list has one value
    a bin. Counts are per second; ``in_flight`` is a mean; latencies, in seconds, are of the requests that ended well in the bin
    (TTFT: whose first token arrived in it), null where there was none.
    """

    start_s: float
    step_s: float
    last_step_s: float | None = None
    sent_per_s: tuple[float, ...]
    ok_per_s: tuple[float, ...]
    failed_per_s: tuple[float, ...]
    output_tokens_per_s: tuple[float, ...]
    in_flight: tuple[float, ...]
    ttft_p50_s: tuple[float | None, ...]
    ttft_p99_s: tuple[float | None, ...]
    tpot_p50_s: tuple[float | None, ...]
    tpot_p99_s: tuple[float | None, ...]
    e2e_p50_s: tuple[float | None, ...]
    e2e_p99_s: tuple[float | None, ...]


class ServerTimesPart(Part):
    """One of the engine's own histograms over the window, in seconds; quantiles interpolated within its buckets.

    ``p99_bucket_s`` are the bounds of the bucket in which p99 lies (null: beyond the last bound, or an older document),
    ``resolution_s`` is its width: p99 is known no better than that. Of fewer than 100 observations p99 is the slowest.
    """

    count: int
    mean_s: float
    p50_s: float | None
    p99_s: float | None
    resolution_s: float | None = None
    p99_bucket_s: tuple[float, float] | None = None


class ServerSeriesPart(Part):
    """What the server said of itself, sample by sample: ``at_s`` in seconds since ``started_at``; null: not said then.

    ``values`` by name: ``running``, ``waiting``, ``kv_cache_usage`` (a fraction), ``prompt_tokens_per_s``,
    ``generation_tokens_per_s``, ``preemptions_per_s``, ``prefix_cache_hit_rate``; where they are known ``gpu_utilisation``,
    ``gpu_power_w``, ``gpu_memory_bytes``, ``cpu_cores``, ``memory_bytes``.
    """

    at_s: tuple[float, ...]
    values: dict[str, tuple[float | None, ...]]


class ServerPart(Part):
    """The server's side of the window. null where it does not say.

    ``source`` is where it was read: ``metrics`` (its own ``/metrics``, once a second) or ``prometheus``.
    """

    source: Literal["metrics", "prometheus"]
    samples: int
    failed_samples: int = 0
    running_mean: float | None = None
    running_max: float | None = None
    waiting_mean: float | None = None
    waiting_max: float | None = None
    kv_cache_usage_mean: float | None = None
    kv_cache_usage_max: float | None = None
    prefix_cache_hit_rate: float | None = None
    preemptions: int | None = None
    prompt_tokens_per_s: float | None = None
    generation_tokens_per_s: float | None = None
    gpu_utilisation_mean: float | None = None
    gpu_power_w: float | None = None
    """All of the cell's accelerators together, on average."""
    times: dict[str, ServerTimesPart] = Field(default_factory=dict)
    """``ttft``, ``itl``, ``e2e``, ``queue``, ``prefill``, ``decode``."""
    series: ServerSeriesPart | None = None
    notes: tuple[str, ...] = ()


class BottleneckPart(Part):
    """What the run waited for, and what shows it. ``none``: nothing was short; ``unknown``: too little is known to say."""

    kind: Literal["queueing", "kv_cache", "prefill", "decode", "client", "none", "unknown"]
    evidence: str


class CostPart(Part):
    """What the run's work cost, in US dollars, at a price of the price book; null where nothing was done to divide by.

    Input is the prompts' tokens, output the answers'; both are priced by all of the cell's cost, each as if it were alone: they
    say what a million of them costs at this mix, and do not add up. ``total`` is of both together.
    """

    price_per_gpu_hour: float
    price_per_hour: float
    """Of all the cell's accelerators."""
    source: str
    date: str
    """When the price was read."""
    per_million_input_tokens: float | None
    per_million_output_tokens: float | None
    per_million_total_tokens: float | None
    output_tokens_per_dollar: float | None
    requests_per_gpu_hour: float | None
    joules_per_output_token: float | None = None
    """null where the accelerators' power is not known."""
