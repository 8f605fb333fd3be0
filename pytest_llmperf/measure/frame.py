"""A log as a table, for whoever wants to look for themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pytest_llmperf.load.records import Outcome, TokenFit
from pytest_llmperf.measure.latencies import PER_REQUEST, request_latencies

if TYPE_CHECKING:
    import pandas as pd

    from pytest_llmperf.load.records import RequestLog

_COLUMNS = (
    "scheduled_s",
    "sent_s",
    "connected_s",
    "first_byte_s",
    "first_token_s",
    "last_token_s",
    "end_s",
    "http_status",
    "prompt_tokens",
    "output_tokens",
    "usage_reported",
    "planned_prompt_tokens",
    "planned_output_tokens",
    "received_bytes",
    "session",
    "turn",
    "worker",
    "warmup",
)


def requests_frame(log: RequestLog) -> pd.DataFrame:
    """One row a request, the warm-up's included, in order of ``scheduled_s``.

    The log's columns under their names (times in seconds since the run's start), and:

    * ``outcome``: the name of the outcome, ``OK`` or ``TIMEOUT`` (a category); ``error``: its class, ``""`` when OK;
    * ``ttft_s``, ``tpot_s``, ``e2e_s``, ``service_ttft_s``, ``service_e2e_s``: the request's latencies as the registry of
      metrics defines them, of answered requests; nan for any other outcome and where a request has no such latency;
    * ``chunks``: how many token-bearing chunks arrived; ``token_fit``: the name of the ``TokenFit`` (a category).
    """
    import pandas as pd

    ok = log.outcome == Outcome.OK
    latencies = request_latencies(log)
    columns = {name: getattr(log, name) for name in _COLUMNS}
    columns |= {f"{name}_s": np.where(ok, latencies[name], np.nan) for name in PER_REQUEST}
    columns["chunks"] = np.diff(log.chunk_start)
    names = [outcome.name for outcome in Outcome]
    columns["outcome"] = pd.Categorical.from_codes(log.outcome.astype(np.int8), categories=pd.Index(names))
    columns["token_fit"] = pd.Categorical.from_codes(
        log.token_fit.astype(np.int8), categories=pd.Index([f.name for f in TokenFit])
    )
    columns["error"] = list(log.error)
    return pd.DataFrame(columns)
