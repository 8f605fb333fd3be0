"""A steady load for long: what leaks, fragments or throttles shows at the end. The profile ``soak`` says for how long."""

import pytest

from pytest_llmperf import Load, NamedProfile, drift


@pytest.mark.llmperf(workload="interactive-chat", profile="soak")
def test_soak(load: Load, profile: NamedProfile) -> None:
    """The last third is no slower than the first, and nothing fails."""
    run = load(profile)
    assert run["error_rate"] == 0
    assert drift(run, "tpot_p50", margin="10%").meets()
