"""How much a deployment can take before it breaks its SLA. The walk of the search is on the test's report (``-rP`` shows it)."""

import pytest

from pytest_llmperf import FindCapacity, NamedProfile, Sla

ROOM = 4
"""The search ends at so many times the profile's rate."""


@pytest.mark.llmperf(workload="summarization")
def test_capacity(find_capacity: FindCapacity, sla: Sla, profile: NamedProfile) -> None:
    """The rate that is planned for is within the capacity. Coarse, to be quick: 5% takes four probes more."""
    rate = profile.rate or 1.0
    capacity = find_capacity(sla, f"{rate:g}/s", f"{ROOM * rate:g}/s", probe="6s", precision="50%")
    assert capacity.reaches(rate)
