"""Runs of one template and the same queries may be compared; others may not."""

from __future__ import annotations

import json
from dataclasses import replace

from pytest_llmperf.experiment.catalog import builtin_directory, load_catalog
from pytest_llmperf.experiment.http_template import HttpTemplate, Query
from pytest_llmperf.experiment.matrix import expand
from pytest_llmperf.experiment.records import Lengths, Workload
from pytest_llmperf.judge.fingerprint import cell_fingerprint, differences

CATALOG = load_catalog([builtin_directory()])
CELL = expand(CATALOG.matrix_named("default"), CATALOG)[0]
TEMPLATE = HttpTemplate("/chat", "/t", {"q": "{prompt}", "top_k": 3}, headers={"X-Team": "a"})
ASKED = Workload("c", "C", api="http", http=TEMPLATE, queries=(Query("Where is it?", 2.0), Query("When?")))


def of(asked: Workload) -> dict[str, str]:
    return cell_fingerprint(CELL, asked, "endpoint", None)


def changed(**changes: object) -> dict[str, str]:
    return differences(of(replace(ASKED, http=replace(TEMPLATE, **changes))), of(ASKED))  # type: ignore[arg-type]


def test_what_a_template_asks_is_part_of_it() -> None:
    assert changed(path="/v2/chat") == {"http": "POST /chat -> POST /v2/chat"}
    assert changed(body={"top_k": 5, "q": "{prompt}"}) == {
        "http body": '{"q": "{prompt}", "top_k": 3} -> {"q": "{prompt}", "top_k": 5}'
    }
    assert changed(headers={"X-Team": "b"}) == {"http header X-Team": "a -> b"}
    # The order of keys means nothing.
    assert changed(body={"top_k": 3, "q": "{prompt}"}) == {}


def test_secrets_of_a_template_are_in_none() -> None:
    body = {
        "q": "{prompt}",
        "apiKey": "s3cret",
        "auth": {"user": "s3cret"},
        "more": [{"token": 5331}],
        "session_key": "{session}",
        "bypass_auth": True,
        "callback": "https://me:s3cret@host/done?page=1&token=s3cret",
    }
    told = of(
        replace(ASKED, http=replace(TEMPLATE, path="/chat?access_token=s3cret&page=2", body=body, headers={"X-Auth": "s3cret"}))
    )
    assert not [field for field, value in told.items() if "s3cret" in value or "5331" in value]
    assert told["http"] == "POST /chat?access_token=***&page=2"
    assert told["http header X-Auth"] == "***"
    assert json.loads(told["http body"]) == {
        "q": "{prompt}",
        "apiKey": "***",
        "auth": "***",
        "more": [{"token": "***"}],
        "session_key": "{session}",
        "bypass_auth": True,
        "callback": "https://***@host/done?page=1&token=***",
    }


def test_queries_are_part_of_it_and_not_told() -> None:
    assert of(ASKED)["queries"].startswith("2 texts, ")
    assert "Where" not in str(of(ASKED))
    heavier = replace(ASKED, queries=(Query("Where is it?", 3.0), Query("When?")))
    assert set(differences(of(heavier), of(ASKED))) == {"queries"}


def test_other_workloads_keep_the_fingerprint_they_had() -> None:
    plain = Workload("w", "W", Lengths(5), Lengths(5))
    assert not [field for field in of(plain) if "http" in field or "queries" in field or "continuous" in field]
    assert differences(of(replace(plain, continuous_usage=True)), of(plain)) == {"continuous usage": "unset -> true"}
