"""Each workload's SLA at the steady load that ``fixtures/profiles.yaml`` gives the hardware: the suite to copy first."""

import pytest

from pytest_llmperf import Load, NamedProfile, Sla


@pytest.mark.llmperf(workload="interactive-chat")
def test_interactive_chat(load: Load, sla: Sla, profile: NamedProfile) -> None:
    """A person waits for every token."""
    run = load(profile)
    assert run.meets(sla)


@pytest.mark.llmperf(workload="classification")
def test_classification(load: Load, sla: Sla, profile: NamedProfile) -> None:
    """Short answers, asked by machines, many at once."""
    run = load(profile)
    assert run.meets(sla)


@pytest.mark.llmperf(workload="summarization")
def test_summarization(load: Load, sla: Sla, profile: NamedProfile) -> None:
    """Long prompts: prefill decides."""
    run = load(profile)
    assert run.meets(sla)


@pytest.mark.llmperf(workload="code-generation")
def test_code_generation(load: Load, sla: Sla, profile: NamedProfile) -> None:
    """Long answers: decode decides."""
    run = load(profile)
    assert run.meets(sla)


@pytest.mark.llmperf(workload="translation")
def test_translation(load: Load, sla: Sla, profile: NamedProfile) -> None:
    """As much out as in."""
    run = load(profile)
    assert run.meets(sla)


@pytest.mark.llmperf(workload="agentic")
def test_agentic(load: Load, sla: Sla, profile: NamedProfile) -> None:
    """Agents at work: the context grows from turn to turn, and a tool runs between them."""
    run = load(profile)
    assert run.meets(sla)
