"""Request parameters that change what a real engine computes or answers, and that the simulator has not got.

What only shapes the choice of tokens (temperature, top_p, penalties, ...) is accepted: it takes the engine no other time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# By name: the values, besides null, that ask for nothing.
_NOTHING: Mapping[str, Sequence[object]] = {
    "n": (1,),
    "best_of": (1,),
    "use_beam_search": (False,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "prompt_logprobs": (),
    "echo": (False,),
    "suffix": ("",),
    "stop": ("", []),
    "stop_token_ids": ([],),
    "bad_words": ([],),
    "allowed_token_ids": (),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none",),
    "functions": ([],),
    "response_format": ({"type": "text"},),
    "structured_outputs": ({},),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "prompt_embeds": (),
    "truncate_prompt_tokens": (),
    "priority": (0,),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "kv_transfer_params": (),
}


def unsupported(document: Mapping[str, Any]) -> str | None:
    """The first parameter of a request that asks for what the simulator has not got; None where there is none."""
    for name, value in document.items():
        nothing = _NOTHING.get(name)
        if nothing is not None and value is not None and not any(value == each and type(value) is type(each) for each in nothing):
            return name
    return None
