"""What must be equal in two runs for a comparison of them to mean anything, and what may differ but is shown.

Both are plain text by field, in the words of the catalog, so that a document can keep them and a person can read a difference.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pytest_llmperf.deploy.engine_options import base_name, is_option, options_of, value_of
from pytest_llmperf.secrets import MASK, is_secret, masked_words, without_credentials
from pytest_llmperf.units import format_duration

if TYPE_CHECKING:
    from pytest_llmperf.deploy.base import DeploymentInfo
    from pytest_llmperf.experiment.http_template import HttpTemplate, Query
    from pytest_llmperf.experiment.records import Cell, Lengths, SharedPrefix, Turns, Workload

_ENGINE = "engine "
_ARGUMENT = "argument "
_IMAGE, _DIGEST = "image", "image digest"
_BY_NATURE = ("host", "port")
"""Arguments that say where a deployment was and not how it serves."""
_PLACEHOLDER = re.compile(r"\{\w+\}")
UNSET = "unset"
"""How a field reads on the side that has none: an engine argument that only the other one sets."""


def fingerprint(cell: Cell, workload: Workload, profile: str, target: str, simulated: bool) -> dict[str, str]:
    """What must be equal, by field: hardware, model, engine arguments, workload, load profile, target.

    ``profile`` is ``str()`` of the load profile, ``target`` the target's name; ``simulated`` says whether a simulator answered:
    an endpoint may be one too, and is then no real server. Left out is what changes no request and no answer's cost by itself
    (duration, seed, warm-up, timeout, SLA) and what a comparison is often about (engine version, environment, platform, method,
    the variant's name): the latter is ``context``. A secret among the engine arguments reads ``***``.
    """
    return {**cell_fingerprint(cell, workload, target, simulated), "profile": profile}


def cell_fingerprint(cell: Cell, workload: Workload, target: str, simulated: bool | None) -> dict[str, str]:
    """The part of ``fingerprint`` that is known before anything is deployed: all but the load profile.

    ``simulated`` is None where only the deployment will tell (an endpoint); the field ``server`` is then left out, and
    ``known_differences`` compares what is known.
    """
    server = {} if simulated is None else {"server": "simulator" if simulated else "real"}
    return {
        "target": target,
        **server,
        "hardware": cell.hardware.id,
        "model": cell.model.name,
        "precision": cell.precision,
        **_engine_arguments(cell),
        "workload": workload.name,
        "api": workload.api,
        "stream": _switch(workload.stream),
        "ignore_eos": _switch(workload.ignore_eos),
        "prompt": workload.prompt,
        "input": _lengths(workload.input),
        "output": _lengths(workload.output),
        "shared prefix": _shared_prefix(workload.shared_prefix),
        "turns": _turns(workload.turns),
        # Only where there are some: baselines of workloads without them keep their fingerprint.
        **({"continuous usage": "true"} if workload.continuous_usage else {}),
        **_template(workload.http),
        **({"queries": _queries(workload.queries)} if workload.queries else {}),
    }


def context(cell: Cell, info: DeploymentInfo) -> dict[str, str]:
    """What may differ between two runs that are compared, by field; the environment's variables are the variant's.

    The arguments are all that the engine was told, by a manifest or a command as well as by the variant. Values of variables and
    arguments whose names speak of a secret read ``***``, as do credentials in URLs.
    """
    return {
        "engine version": info.engine,
        "platform": cell.platform.name,
        "method": cell.method.name,
        "variant": cell.variant.name,
        "accelerator": cell.hardware.title,
        **({_IMAGE: info.image} if info.image else {}),
        **({_DIGEST: info.image_digest} if info.image_digest else {}),
        **_arguments(info),
        **{f"env {name}": _shown(name, value) for name, value in sorted(cell.variant.env.items())},
    }


def differences(now: Mapping[str, str], before: Mapping[str, str]) -> dict[str, str]:
    """The fields that differ, each as ``was -> is``; a field that one side lacks reads ``unset`` there."""
    fields = dict.fromkeys((*now, *before))
    return {
        field: f"{before.get(field, UNSET)} -> {now.get(field, UNSET)}" for field in fields if now.get(field) != before.get(field)
    }


def context_differences(now: Mapping[str, str], before: Mapping[str, str]) -> dict[str, str]:
    """``differences`` of two contexts, without what one of them cannot tell.

    A run that was saved before they were kept has no image and no arguments, and of some deployments nobody knows them: that is
    no difference. That another image has another digest needs no saying.
    """
    both_have_arguments = all(any(field.startswith(_ARGUMENT) for field in side) for side in (now, before))

    def is_told(field: str) -> bool:
        if field in (_IMAGE, _DIGEST):
            return field in now and field in before and (field == _IMAGE or now.get(_IMAGE) == before.get(_IMAGE))
        return both_have_arguments or not field.startswith(_ARGUMENT)

    return {field: change for field, change in differences(now, before).items() if is_told(field)}


def known_differences(now: Mapping[str, str], before: Mapping[str, str]) -> dict[str, str]:
    """The fields of ``cell_fingerprint`` (``now``) that differ from a run's whole fingerprint: what is known beforehand."""
    return differences(now, {field: value for field, value in before.items() if field in now or field.startswith(_ENGINE)})


def _engine_arguments(cell: Cell) -> dict[str, str]:
    # vLLM takes max_num_seqs for max-num-seqs; YAML's order means nothing.
    given = {name.replace("_", "-"): value for name, value in cell.variant.engine_args.items()}
    return {
        f"{_ENGINE}{name}": _switch(value) if isinstance(value, bool) else _shown(name, str(value))
        for name, value in sorted(given.items())
    }


def _arguments(info: DeploymentInfo) -> dict[str, str]:
    """What the engine was told, by name. Spelling and order mean nothing; of what is given twice both are shown."""
    given: dict[str, list[str]] = {}
    for option in options_of(masked_words(info.engine_arguments)):
        if not is_option(option[0]):
            given["model"] = [" ".join(option)]
            continue
        value = value_of(option) or _switch(not option[0].startswith(("--no-", "--no_")))
        given.setdefault(base_name(option[0]), []).append(value)
    return {f"{_ARGUMENT}{name}": " ".join(values) for name, values in sorted(given.items()) if name not in _BY_NATURE}


def _switch(on: bool) -> str:
    return "true" if on else "false"


def _shown(name: str, value: str) -> str:
    return MASK if is_secret(name) else without_credentials(value)


def _lengths(lengths: Lengths) -> str:
    """``fixed 512``; ``lognormal 128, cv 0.5, 16..512`` (mean, then the bounds)."""
    if lengths.distribution == "fixed":
        return f"fixed {lengths.mean}"
    cv = f", cv {lengths.cv:g}" if lengths.cv else ""
    return f"{lengths.distribution} {lengths.mean}{cv}, {lengths.min}..{lengths.max or ''}"


def _shared_prefix(prefix: SharedPrefix | None) -> str:
    return "none" if prefix is None else f"{prefix.tokens} tokens, groups: {prefix.groups}"


def _template(http: HttpTemplate | None) -> dict[str, str]:
    if http is None:
        return {}
    headers = {f"http header {name}": _shown(name, value) for name, value in sorted(http.headers.items())}
    body = json.dumps(_without_secrets(http.body), sort_keys=True, ensure_ascii=False)
    asked = f"{http.method} {without_credentials(http.path)}"
    return {"http": asked, "http body": body, "http text": http.text, **headers}


def _without_secrets(value: object) -> object:
    """JSON, with the mask for the values of keys that speak of a secret. A placeholder and a switch are none."""
    match value:
        case str():
            return without_credentials(value)
        case list() | tuple():
            return [_without_secrets(each) for each in value]
        case Mapping():
            return {key: MASK if is_secret(key) and not _is_open(each) else _without_secrets(each) for key, each in value.items()}
        case _:
            return value


def _is_open(value: object) -> bool:
    return value is None or isinstance(value, bool) or (isinstance(value, str) and _PLACEHOLDER.fullmatch(value) is not None)


def _queries(queries: tuple[Query, ...]) -> str:
    """By a digest: texts are long, and may be nobody else's business."""
    written = json.dumps([[query.text, query.weight] for query in queries]).encode()
    return f"{len(queries)} texts, {hashlib.sha256(written).hexdigest()[:12]}"


def _turns(turns: Turns | None) -> str:
    if turns is None:
        return "one"
    pause = f"pause {turns.pause_distribution} {format_duration(turns.pause)}"
    return f"{_lengths(turns.count)}; input {_lengths(turns.input)}; {pause}"
