"""The end of a session whose API server is gone for good: only its first removal waits for that."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from pytest_llmperf.deploy.kubernetes.api.client import KubeApi
from pytest_llmperf.deploy.kubernetes.api.refusals import NotFoundError, UnreachableError
from pytest_llmperf.deploy.kubernetes.deployment import Placed
from pytest_llmperf.deploy.kubernetes.ownership.session import KubeSession, Ownership
from pytest_llmperf.deploy.kubernetes.ownership.teardown import UnansweredError, telling_how
from pytest_llmperf.deploy.kubernetes.rendering.render import Rendered
from pytest_llmperf.deploy.kubernetes.settings import KubernetesSettings, RenderSettings
from tests.unit.deploy.kubernetes.cells import H100
from tests.unit.deploy.kubernetes.forwarding import kubeconfig
from tests.unit.deploy.kubernetes.scripted_api import Reply, ScriptedApi, api_at, scripted_api

SETTINGS = KubernetesSettings(RenderSettings(), "abcd1234", namespace="ns")
NOTHING = Reply(body={"items": [], "metadata": {}}, headers={"Date": "Sat, 21 Nov 2026 22:00:00 GMT"})


@pytest.fixture
def server() -> Iterator[ScriptedApi]:
    with scripted_api(NOTHING) as serving:
        yield serving


@pytest.fixture
def api(server: ScriptedApi, tmp_path: Path) -> KubeApi:
    """One whose kubeconfig leads nowhere: what is connected anew fails at once, what goes on with ``api`` does not."""
    connected = api_at(server.url)
    connected.kubeconfig = kubeconfig(tmp_path, server.url.replace("http://", "https://"), {})
    return connected


@pytest.fixture
def dark(api: KubeApi) -> KubeSession:
    """A session of which a removal has ended without an answer."""
    session = KubeSession(api, SETTINGS)
    with pytest.raises(UnansweredError), session.removing("a cell"), telling_how("a cell", "gc"):
        raise UnreachableError("nobody answers")
    return session


def test_the_next_cells_end_is_told_at_once_with_how_to_clean_up(dark: KubeSession, api: KubeApi, server: ScriptedApi) -> None:
    ownership = Ownership("ns", {}, SETTINGS.identity)
    placed = Placed(api, SETTINGS, H100, cast(Rendered, None), ownership, (), (), dark)
    for _ in range(2):
        with pytest.raises(UnansweredError) as raised:
            placed.remove()
        assert raised.value.what.startswith(f"{H100.id}: nobody can say whether all of it is gone: https://127.0.0.1")
        assert "Then `pytest-llmperf gc" in str(raised.value.hint)
        assert "--namespace=ns --session=abcd1234` removes what is left." in str(raised.value.hint)
    assert server.asked == []


def test_a_server_that_has_come_back_is_asked_as_ever(
    dark: KubeSession, api: KubeApi, server: ScriptedApi, tmp_path: Path
) -> None:
    kubeconfig(tmp_path, server.url, {})
    ownership = Ownership("ns", {}, SETTINGS.identity)
    placed = Placed(api, SETTINGS, H100, cast(Rendered, None), ownership, (), (), dark)
    placed.remove()
    assert server.asked.count("GET /version") == 1
    placed.remove()
    assert server.asked.count("GET /version") == 1


def test_a_kubeconfig_that_has_gone_hides_nothing(dark: KubeSession, tmp_path: Path) -> None:
    (tmp_path / "kubeconfig.yaml").unlink()
    with pytest.raises(UnansweredError) as raised, dark.removing("a cell"):
        pass
    assert raised.value.what.startswith("a cell: nobody can say whether all of it is gone: ")
    assert str(tmp_path / "kubeconfig.yaml") in str(raised.value)
    assert "Then `pytest-llmperf gc" in str(raised.value.hint)


def test_another_error_says_that_somebody_answers(api: KubeApi, server: ScriptedApi) -> None:
    session = KubeSession(api, SETTINGS)
    with pytest.raises(NotFoundError), session.removing("a cell"):
        raise NotFoundError("it is gone")
    with session.removing("another"):
        pass
    assert server.asked == []
