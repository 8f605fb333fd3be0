"""Phases add up to the whole, whatever was seen and in whatever order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmperf.deploy.kubernetes.ready.pods import Ended
from pytest_llmperf.deploy.kubernetes.ready.timeline import Timeline, pulls_s
from tests.unit.deploy.kubernetes.seen_objects import container, pod, said

PULLED = 'Successfully pulled image "vllm/vllm-openai:v1" in {} (1m including waiting). Image size: 9 bytes.'
DONE = Ended(0)
DOWNLOAD = container("download", is_init=True, running_since_s=1.0)
DOWNLOADED = container("download", is_init=True, ended=DONE)
RUNNING = container(running_since_s=1.0)


def names_and_seconds(timeline: Timeline, ready: float, log: str = "") -> dict[str, float]:
    return {phase.name: phase.seconds for phase in timeline.phases(ready, log)}


def test_every_stretch_has_its_name() -> None:
    timeline = Timeline(100.0)
    timeline.saw([pod(node="")], "vllm", [], 101.0)
    timeline.saw([pod(DOWNLOAD, container())], "vllm", [said("Pulled", PULLED.format("3.5s"))], 104.0)
    timeline.saw([pod(DOWNLOADED, container())], "vllm", [], 110.0)
    timeline.saw([pod(DOWNLOADED, RUNNING)], "vllm", [said("Pulled", PULLED.format("3.5s"))], 112.0)
    assert names_and_seconds(timeline, 120.0, "INFO Loading weights took 2.5 seconds\n") == {
        "scheduled": 4.0,
        "image pulled": 3.5,
        "weights downloaded": pytest.approx(4.5),
        "weights loaded": 2.5,
        "ready": 5.5,
    }


def test_what_did_not_happen_is_not_named() -> None:
    timeline = Timeline(0.0)
    timeline.saw([pod(RUNNING)], "vllm", [], 1.0)
    assert names_and_seconds(timeline, 3.0) == {"scheduled": 1.0, "ready": 2.0}


def test_what_was_reached_is_lost_with_the_pod() -> None:
    timeline = Timeline(0.0)
    timeline.saw([pod(RUNNING)], "vllm", [said("Pulled", PULLED.format("30s"))], 50.0)
    timeline.saw([], "vllm", [], 60.0)
    timeline.saw([pod(RUNNING)], "vllm", [], 70.0)
    assert names_and_seconds(timeline, 80.0) == {"scheduled": 70.0, "ready": 10.0}


def test_pulls_are_read_from_events() -> None:
    texts = ["345ms", "1m2.5s"]
    found = pulls_s([said("Pulled", PULLED.format(text)) for text in texts])
    assert sorted(found.values()) == pytest.approx([0.345, 62.5])
    assert (
        pulls_s([said("Pulled", 'Container image "x" already present on machine'), said("Pulled", PULLED.format("soon"))]) == {}
    )


@given(
    marks=st.lists(st.floats(0.0, 1e4), min_size=1, max_size=6).map(sorted),
    order=st.lists(st.integers(0, 3), min_size=6, max_size=6),
    pull_s=st.integers(0, 20_000),
    load_s=st.floats(0.0, 1e4),
    wait_s=st.floats(0.0, 100.0),
)
def test_phases_add_up(marks: list[float], order: list[int], pull_s: int, load_s: float, wait_s: float) -> None:
    states = [pod(node=""), pod(DOWNLOAD, container()), pod(DOWNLOADED, container()), pod(DOWNLOADED, RUNNING)]
    timeline = Timeline(0.0)
    for at, state in zip(marks, order, strict=False):
        timeline.saw([states[state]], "vllm", [said("Pulled", PULLED.format(f"{pull_s}s"))], at)
    ready = marks[-1] + wait_s
    phases = timeline.phases(ready, f"Loading weights took {load_s:.6f} seconds")
    assert sum(phase.seconds for phase in phases) == pytest.approx(ready)
    assert all(phase.seconds > 0 for phase in phases)
