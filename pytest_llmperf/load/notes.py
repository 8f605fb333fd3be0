"""What a run says of how its tokens were counted, where that is not by the server's own word."""

from __future__ import annotations

import numpy as np

from pytest_llmperf.deploy.base import Endpoint
from pytest_llmperf.experiment.records import Workload
from pytest_llmperf.load.records import Outcome, RequestLog, TokenFit


def counting_notes(workload: Workload, endpoint: Endpoint, log: RequestLog) -> tuple[str, ...]:
    """A sentence for each way in which tokens are less well known than a server can say."""
    ok = log.outcome == Outcome.OK
    notes = []
    if workload.api == "chat" and (workload.prompt == "token_ids" and not workload.queries):
        notes.append("chat prompts are text of about a word a token: the server's usage says how many tokens they were")
    if unknown := np.count_nonzero(ok & ~log.usage_reported):
        of_all = f"{unknown:,} of {np.count_nonzero(ok):,} answers"
        notes.append(f"{of_all} do not say how many tokens they have{_not_said(workload, endpoint)}")
    if more := np.count_nonzero(ok & (log.token_fit == TokenFit.MORE)):
        spread = f"{more:,} answers have more tokens than events, taken to be evenly spread over them"
        notes.append(spread + _how_to_know(workload))
    if fewer := np.count_nonzero(ok & (log.token_fit == TokenFit.FEWER)):
        notes.append(
            f"{fewer:,} answers have fewer tokens, by the server's count, than events with a text: the first and the last text "
            "are taken for the first and the last token"
        )
    return tuple(notes)


def _not_said(workload: Workload, endpoint: Endpoint) -> str:
    if workload.http is not None:
        pointer = workload.http.output_tokens
        why = f" ('{pointer}' is missing, 0, or never grows)" if pointer is not None else ""
        return f"{why}: there are no metrics of tokens"
    if not workload.stream:
        return ": each counts as one"
    refused = "" if endpoint.stream_usage else " (the server takes no 'stream_options')"
    return f"{refused}: each event with a text counts as one"


def _how_to_know(workload: Workload) -> str:
    if workload.http is not None:
        return ""
    if workload.continuous_usage:
        return ": the server does not say with every event how many there are so far, though 'continuous_usage' asks for it"
    return ": 'continuous_usage: true' in the workload asks the server how many each event has"
