"""Runs beside a baseline's: which of them match, and what is said of the others."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pytest_llmperf.errors import ConfigError, Where
from pytest_llmperf.judge.fingerprint import fingerprint
from pytest_llmperf.judge.regression import ChangeVerdict
from pytest_llmperf.report.comparison import (
    by_question,
    cannot_tell,
    check_measured,
    compare_runs,
    compare_sessions,
    failing,
    is_new_cell,
    matching,
    regressed,
    repetition_id,
    run_key,
    test_key,
    title_of,
)
from pytest_llmperf.report.comparison_table import comparison_table
from pytest_llmperf.report.results_v2 import ComparisonPart, RunDocument, SteadinessPart
from tests.unit.report.compared import DEFAULTS, by_metric, compared, document, variant
from tests.unit.report.runs import answered, cell, judged, run_of

WHERE = Where(option="--fail")


def ids(runs: Sequence[RunDocument]) -> list[str]:
    return [run.run_id for run in runs]


CELL = cell().id


@pytest.mark.parametrize(
    ("parameters", "left"),
    [
        (CELL, ""),
        (f"{CELL}-run1of3", ""),
        (f"{CELL}-2s", "2s"),
        (f"{CELL}-run1of3-2s", "2s"),
        (f"2s-{CELL}-run12of20", "2s"),
        (f"2s-{CELL}-on", "2s-on"),
        # Whatever else looks like a repetition is the test's own.
        (f"{CELL}-1of2", "1of2"),
        (f"{CELL}-run1of3-1of2", "1of2"),
        (f"{CELL}-b-1of2", "b-1of2"),
        (f"{CELL}-2s-run1of3", "2s-run1of3"),
        (f"1of3-{CELL}-run2of3", "1of3"),
        (f"{CELL}-run1of3-a[b]-2of9", "a[b]-2of9"),
        (f"-5-{CELL}", "-5"),
        (f"{CELL}--5", "-5"),
        # What only begins or ends like the cell's id is no cell.
        (f"{CELL}x-{CELL}", f"{CELL}x"),
        (f"a{CELL}-{CELL}-b", f"a{CELL}-b"),
    ],
)
def test_a_tests_key_has_its_own_parameters(parameters: str, left: str) -> None:
    name = "suites/test_sla.py::TestChat::test_chat"
    node_id, key = f"{name}[{parameters}]", f"{name}[{left}]" if left else name
    assert test_key(node_id, CELL) == key
    assert test_key(document(node_id=node_id)) == key
    assert test_key(document(node_id=node_id, label="8/s")) == f"{key} 8/s"
    assert title_of(document(node_id=node_id)) == f"{name}[{CELL}-{left}]".replace("-]", "]")
    assert test_key(node_id) == name, "without the cell nothing tells which parameters are the test's own"


def test_a_node_id_without_parameters_is_its_own_key() -> None:
    assert test_key("suites/test_sla.py::test_chat", CELL) == "suites/test_sla.py::test_chat"
    assert test_key("suites[old]/test_sla.py::test_chat[2s]", CELL) == "suites[old]/test_sla.py::test_chat[2s]"


def test_the_id_of_a_cell_may_begin_like_anothers() -> None:
    longer = document(of=cell(model="llama-3.1-8b-2s"))
    assert test_key(longer) == test_key(document()) == "suites/test_sla.py::test_chat"
    assert test_key(longer.node_id, CELL) == "suites/test_sla.py::test_chat[2s]"


def test_repetitions_share_a_key_and_nothing_else_does() -> None:
    first = document("first")
    assert run_key(first) == run_key(document("again", node_id=f"suites/test_sla.py::test_chat[{CELL}-run2of3]", seed=7))
    others = [
        document(node_id=f"suites/test_sla.py::test_chat[{CELL}-2s]"),
        document(test="test_other"),
        document(of=variant("tuned")),
        document(profile="poisson 8/s"),
        document(ordinal=2),
        document(label="8/s"),
    ]
    assert all(run_key(first) != run_key(other) for other in others)


def test_the_id_of_a_repetition_is_no_parameter_of_a_test() -> None:
    assert test_key(f"t.py::test_it[{CELL}-{repetition_id(2, 12)}-1of2]", CELL) == "t.py::test_it[1of2]"


def test_parameters_of_a_test_are_no_repetitions_of_each_other() -> None:
    def parametrized(run_id: str, parameters: str, tpot_s: float = 0.01) -> RunDocument:
        node_id = f"suites/test_sla.py::test_chat[{CELL}-{parameters}]"
        return document(run_id, node_id=node_id, values={"tpot_p50": tpot_s})

    def session(scale: float) -> list[RunDocument]:
        quick, slow = (f"run{i}of2-0s" for i in (1, 2)), (f"run{i}of2-2s" for i in (1, 2))
        return [*(parametrized(p, p) for p in quick), *(parametrized(p, p, 0.05 * scale) for p in slow)]

    assert [ids(runs) for runs in by_question(session(1.0)).values()] == [
        ["run1of2-0s", "run2of2-0s"],
        ["run1of2-2s", "run2of2-2s"],
    ]
    found = compare_sessions(session(2.0), session(1.0), "main", DEFAULTS, set(DEFAULTS))
    assert [(part.runs, part.verdict) for _, part in found] == [
        (("run1of2-0s", "run2of2-0s"), "unchanged"),
        (("run1of2-2s", "run2of2-2s"), "regressed"),
    ]
    assert matching([parametrized("a", "0s")], parametrized("now", "5s")).verdict is ChangeVerdict.NEW


def test_the_same_question_matches() -> None:
    baseline = [document("a"), document("b", test="test_other"), document("c", profile="poisson 8/s"), document("d")]
    assert ids(matching(baseline, document()).runs) == ["a", "d"]


def test_its_own_cell_is_preferred_and_another_of_the_same_fingerprint_will_do() -> None:
    baseline = [document("a"), document("b", of=variant("slow", X="1")), document("c", of=variant("slower", X="2"))]
    assert ids(matching(baseline, document()).runs) == ["a"]
    assert ids(matching(baseline, document(of=variant("slow", X="9"))).runs) == ["b"]
    assert ids(matching(baseline, document(of=variant("fast"))).runs) == ["c"]


def test_its_own_place_in_the_test_is_preferred() -> None:
    baseline = [document("a"), document("b", ordinal=2)]
    assert ids(matching(baseline, document(ordinal=2)).runs) == ["b"]
    assert ids(matching(baseline, document(ordinal=3)).runs) == ["a", "b"]


def test_a_test_that_the_baseline_does_not_have_is_new() -> None:
    match = matching([document(test="test_other"), document(label="8/s")], document())
    assert (match.runs, match.verdict) == ((), ChangeVerdict.NEW)
    part = compared(document(), document(test="test_other"))
    assert (part.verdict, part.note) == ("new", "the baseline has no run of suites/test_sla.py::test_chat")


def test_other_conditions_are_named_by_the_run_that_is_nearest() -> None:
    far, near = document("far", of=cell("a100", 4), profile="poisson 8/s"), document("near", of=cell("a100"))
    match = matching([far, near, far], document())
    assert (match.verdict, match.differing) == (ChangeVerdict.INCOMPARABLE, {"hardware": "a100 -> h100"})
    part = compared(document(), far, near)
    assert (part.verdict, part.runs, part.changes, part.differences) == ("incomparable", (), (), {"hardware": "a100 -> h100"})


def test_a_new_cell_beside_others_of_its_test_is_new() -> None:
    baseline = [document("a"), document("b", of=cell("l40s"), test="test_other")]
    l40s = document(of=cell("l40s"))
    assert is_new_cell(baseline, test_key(l40s), l40s.cell.id, other_cells_match=True)
    assert not is_new_cell(baseline, test_key(l40s), l40s.cell.id, other_cells_match=False)
    assert not is_new_cell(baseline, test_key(l40s), CELL, other_cells_match=True)
    match = matching(baseline, l40s, other_cells_match=True)
    assert (match.verdict, match.differing) == (ChangeVerdict.NEW, {})
    assert match.note == f"the baseline has other cells of suites/test_sla.py::test_chat, and no run of {l40s.cell.id}"
    assert matching(baseline, l40s).verdict is ChangeVerdict.INCOMPARABLE
    # A cell that the baseline has is compared with that, whatever else matches.
    other_load = document(profile="poisson 8/s")
    assert matching(baseline, other_load, other_cells_match=True).verdict is ChangeVerdict.INCOMPARABLE
    part = compare_runs([l40s], baseline, "main", DEFAULTS, set(DEFAULTS), other_cells_match=True)
    assert (part.verdict, failing(part)) == ("new", False)


def spoiled(run: RunDocument, *reasons: str) -> RunDocument:
    return run.model_copy(update={"client": run.client.model_copy(update={"distrust": reasons})})


def interrupted(run: RunDocument) -> RunDocument:
    return run.model_copy(update={"timing": run.timing.model_copy(update={"interrupted": True})})


@pytest.mark.parametrize(
    ("now", "before", "note"),
    [
        (document(), spoiled(document("a"), "worker 0 was late"), "the baseline's run is INVALID: worker 0 was late"),
        (document(), document("a", verdict="INVALID"), "the baseline's run is INVALID"),
        (document(), interrupted(document("a")), "the baseline's run was interrupted"),
        (spoiled(document(), "worker 0 was late"), document("a"), "this run is INVALID: worker 0 was late"),
        (interrupted(document()), document("a"), "this run was interrupted"),
        (document(fingerprint={}), document("a"), "this run: the document says nothing of the conditions"),
        (document(), document("a", fingerprint={}), "the baseline's run: the document says nothing of the conditions"),
        (document(fingerprint={}), document("a", fingerprint={}), "this run: the document says nothing of the conditions"),
    ],
)
def test_a_run_that_cannot_be_trusted_is_compared_with_none(now: RunDocument, before: RunDocument, note: str) -> None:
    part = compared(now, before)
    assert (part.verdict, part.changes) == ("incomparable", ())
    assert part.note.startswith(note)


def test_runs_that_cannot_be_trusted_are_left_out_beside_others() -> None:
    now = [spoiled(document("n1"), "late"), document("n2")]
    part = compared(now, spoiled(document("b1"), "late"), document("b2"))
    assert (part.repeats, part.runs) == (1, ("b2",))
    # Also where it is the last of the repetitions, which decides for all of them.
    slow = [document(f"n{i}", values={"tpot_p50": 0.02}) for i in (1, 2)]
    part = compared([*slow, spoiled(document("n3"), "late")], *(document(f"b{i}") for i in (1, 2, 3)))
    assert (part.repeats, part.verdict) == (2, "regressed")
    assert compared([spoiled(document("n1"), "late"), spoiled(document("n2"), "late")], document("b")).verdict == "incomparable"


def test_a_metric_of_which_no_run_has_a_value_cannot_be_gated() -> None:
    stream = document("stream")
    # Documents name every metric, also those that have no value.
    part = stream.metrics["ttft_p50"].model_copy(update={"value": None, "unbounded": ()})
    silent = document("silent").model_copy(update={"metrics": {**stream.metrics, "ttft_p50": part}})
    check_measured("ttft_p50", [silent, stream], "main", WHERE)
    check_measured("e2e_p50", [silent], "main", WHERE)
    with pytest.raises(ConfigError, match=r"--fail: no run of baseline 'main' .* has a value of TTFT p50 \(ttft_p50\)"):
        check_measured("ttft_p50", [silent], "main", WHERE)
    with pytest.raises(ConfigError, match=r"unknown metric of baseline 'main' 'ttft_p99\.9'\n.*Did you mean 'ttft_p99'"):
        check_measured("ttft_p99.9", [silent, stream], "main", WHERE)
    # So many requests failed that it is infinite: that is measured.
    check_measured("ttft_p50", [document("lost", values={"ttft_p50": None})], "main", WHERE)


def test_every_standard_metric_is_shown_and_what_is_named_besides() -> None:
    part = compared(document(values={"itl_p99": 0.02}), document("a"), fail=["itl_p99:10%", "tpot_p50:7%"])
    found = by_metric(part)
    assert list(found) == [
        *(f"{name}_{statistic}" for name in ("ttft", "tpot", "e2e") for statistic in ("p50", "p95", "p99")),
        *("output_tokens_per_s", "request_rate", "error_rate", "itl_p99"),
    ]
    assert {name for name, change in found.items() if change.gated} == {"itl_p99", "tpot_p50"}
    assert [found[name].tolerance for name in ("tpot_p50", "tpot_p95", "ttft_p99", "error_rate")] == ["7%", "10%", "5%", "0.5pp"]
    assert found["itl_p99"].verdict == "regressed"
    assert found["itl_p99"].ratio == pytest.approx(2.0)
    assert part.verdict == "regressed"


def test_only_gated_metrics_decide_and_the_default_ones_where_none_is() -> None:
    slow_tail, slow_decode = document(values={"ttft_p99": 0.05}), document(values={"tpot_p50": 0.05})
    assert compared(slow_tail, document("a")).verdict == "unchanged"
    assert compared(slow_tail, document("a"), fail=["ttft_p99:10%"]).verdict == "regressed"
    assert compared(slow_decode, document("a"), fail=["ttft_p99:10%"]).verdict == "unchanged"
    assert compare_runs([slow_tail], [document("a")], "main", {}, ()).verdict == "unchanged"
    assert compare_runs([slow_decode], [document("a")], "main", {}, ()).verdict == "regressed"


def test_a_ratio_and_a_difference_each_have_their_interval() -> None:
    values = {"ttft_p50": (0.13, 0.12, 0.14), "error_rate": (0.04, 0.03, 0.05)}
    before = {"ttft_p50": (0.10, 0.09, 0.11), "error_rate": (0.00, 0.00, 0.01)}
    found = by_metric(compared(document(values=values), document("a", values=before)))
    ratio, difference = found["ttft_p50"], found["error_rate"]
    assert (ratio.scale, difference.scale, difference.ratio) == ("ratio", "difference", None)
    assert ratio.ratio == pytest.approx(1.3)
    assert ratio.low is not None
    assert ratio.high is not None
    assert 1.1 < ratio.low < 1.3 < ratio.high < 1.6
    assert difference.low is not None
    assert difference.high is not None
    assert 0.02 < difference.low < 0.04 < difference.high < 0.06


def test_values_without_a_bound_are_null_and_named() -> None:
    change = by_metric(compared(document(values={"ttft_p50": None}), document("a")))["ttft_p50"]
    assert (change.measured, change.unbounded, change.ratio, change.low, change.high) == (None, ("measured",), None, None, None)
    assert (change.verdict, change.note) == ("regressed", "so many requests failed that there is no finite value")
    # An end of the interval that has none is null as well, and the other is not.
    part = document(values={"ttft_p50": 0.02})
    unbounded = part.metrics["ttft_p50"].model_copy(update={"high": None, "unbounded": ("high",)})
    now = part.model_copy(update={"metrics": {**part.metrics, "ttft_p50": unbounded}})
    change = by_metric(compared(now, document("a")))["ttft_p50"]
    assert (change.high, change.verdict) == (None, "regressed")
    assert change.low == pytest.approx(1.91, abs=0.01)
    change = by_metric(compared(document("a"), now))["ttft_p50"]
    assert (change.low, change.verdict) == (None, "improved")  # certain: what is unbounded is how much


def test_a_metric_that_one_side_lacks() -> None:
    whole = document("whole")
    lacking = whole.model_copy(update={"metrics": {k: v for k, v in whole.metrics.items() if k != "tpot_p50"}})
    assert by_metric(compared(lacking, whole))["tpot_p50"].verdict == "missing"
    assert by_metric(compared(whole, lacking))["tpot_p50"].verdict == "new"


def test_a_metric_that_neither_side_has_fails_nothing() -> None:
    """TTFT of a workload that does not stream, goodput without limits."""
    whole = document("whole")
    lacking = whole.model_copy(update={"metrics": {k: v for k, v in whole.metrics.items() if not k.startswith("ttft")}})
    part = compared(lacking, lacking)
    ttft = by_metric(part)["ttft_p50"]
    assert (ttft.gated, ttft.verdict, ttft.note) == (True, "new", "measured on neither side")
    assert (part.verdict, failing(part)) == ("unchanged", False)
    assert compared(lacking, lacking, fail=["ttft_p50:10%"]).verdict == "new", "nothing else was asked"
    assert compared(whole, lacking).verdict == "new", "the baseline lacks what this run has"
    assert "TTFT p50" in comparison_table(part, simulated=False).partition(": measured on neither side")[0].splitlines()[-1]


def test_what_fails_a_test() -> None:
    def said(now: RunDocument, *before: RunDocument, fail: str = "tpot_p50:5%") -> tuple[bool, bool, bool]:
        part = compared(now, *before, fail=[fail])
        return regressed(part), cannot_tell(part), failing(part)

    slow = document(values={"tpot_p50": 0.05})
    gone = slow.model_copy(update={"metrics": {k: v for k, v in slow.metrics.items() if k != "tpot_p50"}})
    assert said(document(), document("a")) == (False, False, False)
    assert said(slow, document("a")) == (True, False, True)
    assert said(slow, document("a"), fail="ttft_p50:5%") == (False, False, False)
    assert said(gone, document("a")) == (False, True, True)
    assert said(gone, document("a"), fail="ttft_p50:5%") == (False, False, False)
    assert said(interrupted(slow), document("a")) == (False, True, True)
    assert said(slow, document("a", test="test_other")) == (False, False, False)


def test_repetitions_count_together_and_only_they() -> None:
    now = [document(f"n{i}", values={"tpot_p50": 0.01 + i * 1e-5}) for i in range(3)]
    strangers = [document("x", profile="poisson 8/s"), document("y", ordinal=2), document("z", of=variant("slow"))]
    before = [document(f"b{i}", values={"tpot_p50": 0.01 - i * 1e-5}) for i in range(3)]
    part = compared(now, *strangers, *before)
    assert (part.repeats, part.runs, part.note) == (3, ("b0", "b1", "b2"), "")
    change = by_metric(part)["tpot_p50"]
    assert change.measured == pytest.approx(0.01001, rel=1e-4)
    assert change.verdict == "unchanged"
    assert "a standard deviation of 2% between runs is assumed" in compared(now[:2], *before[:2]).note
    assert compared(now[:1], *before).note == ""
    with pytest.raises(ValueError, match="no run to compare"):
        compared([], *before)
    with pytest.raises(ValueError, match="not repetitions of each other"):
        compared([*strangers, *now], *before)


def test_what_may_differ_is_shown() -> None:
    now = document(of=variant("default", TUNED="1"))
    part = compared(now.model_copy(update={"context": {**now.context, "engine version": "vLLM 0.33.0"}}), document("a"))
    assert part.verdict == "unchanged"
    assert part.differences == {"engine version": "vLLM 0.32.0 -> vLLM 0.33.0", "env TUNED": "unset -> 1"}


def test_what_the_engine_was_told_is_shown_where_both_say_it() -> None:
    saved = document("a")
    now = document(context={**saved.context, "argument max-model-len": "auto", "image": "vllm:2"})
    then = document("b", context={**saved.context, "argument max-model-len": "16384", "image": "vllm:1"})
    assert compared(now, then).differences == {"argument max-model-len": "16384 -> auto", "image": "vllm:1 -> vllm:2"}
    assert compared(now, saved).differences == {}


def test_a_run_without_a_steady_state_is_said_to_be_one() -> None:
    growing = document("a", steadiness=SteadinessPart(extra_warmup_s=0.0, unstable="the backlog grew by 4 % of arrivals"))
    assert "the baseline's run had no steady state (the backlog grew by 4 % of arrivals)" in compared(document(), growing).note
    assert "this run had no steady state" in compared(growing, document("b")).note


def test_sessions_are_compared_question_by_question() -> None:
    now = [
        document("n1"),
        document("n2", of=cell("a100")),
        document("n3", test="test_new"),
        document("n4"),
        document("n5", label="8/s"),
        document("n6", ordinal=2, profile="poisson 8/s"),
    ]
    before = [document("b1"), document("b2", label="8/s")]
    found = compare_sessions(now, before, "main", DEFAULTS, set(DEFAULTS))
    assert [(run.run_id, part.verdict, part.repeats) for run, part in found] == [
        ("n4", "unchanged", 2),
        ("n2", "new", 1),
        ("n3", "new", 1),
        ("n6", "incomparable", 1),
    ]
    # A cell makes no other load of its own new, and where no cell matches the baseline is one of something else.
    twice = [document("n1", of=variant("slow")), document("n2", of=variant("slow"), ordinal=2, profile="poisson 8/s")]
    assert [part.verdict for _, part in compare_sessions(twice, before, "main", DEFAULTS, ())] == ["unchanged", "incomparable"]
    (only,) = compare_sessions(now[1:2], before, "main", DEFAULTS, ())
    assert only[1].verdict == "incomparable"


def test_real_documents_can_be_compared() -> None:
    """What ``run_document`` writes, with the intervals that were measured, once through the whole way."""

    def written(scale: float) -> RunDocument:
        run = run_of(answered(600, scale=scale))
        printed = fingerprint(run.identity.cell, run.identity.workload, run.identity.profile, run.deployment.target, True)
        return judged(run).model_copy(update={"fingerprint": printed})

    part = compared(written(1.5), written(1.0), fail=["ttft_p50:10%"])
    assert by_metric(part)["ttft_p50"].verdict == "regressed"
    assert ComparisonPart.model_validate_json(part.model_dump_json()) == part
