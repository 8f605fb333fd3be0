"""The options of a cluster: their forms, their defaults, what goes with which target, and what they make of a target."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from pytest_llmperf.deploy.kubernetes.names import Identity
from pytest_llmperf.deploy.kubernetes.settings import REACHES, KubernetesSettings, RenderSettings
from pytest_llmperf.deploy.kubernetes.target import KubernetesTarget
from pytest_llmperf.errors import ConfigError
from pytest_llmperf.plugin.kubernetes_options import KubernetesOptions
from pytest_llmperf.plugin.options import Settings, read_settings
from pytest_llmperf.plugin.targets import kubernetes_settings, target_of

ROOT = Path("/root/dir")
HERE = Path("/working/dir")
WHO = Identity("k3x9q0ab", "gw1")


def settings(
    given: Mapping[str, str | list[str]], environ: Mapping[str, str] | None = None, ini: Mapping[str, str] | None = None
) -> Settings:
    command_line = {f"--llmperf-{name}": value for name, value in given.items()}
    return read_settings(command_line.get, (ini or {}).get, environ or {}, ROOT, HERE)


def on_a_cluster(**given: str | list[str]) -> Settings:
    return settings({"target": "kubernetes", **{name.replace("_", "-"): value for name, value in given.items()}})


def test_nothing_need_be_said() -> None:
    assert on_a_cluster().kubernetes == KubernetesOptions()
    expected = KubernetesSettings(RenderSettings(), "k3x9q0ab", "gw1", log_directory=ROOT / ".llmperf" / "deployments")
    assert kubernetes_settings(on_a_cluster(), WHO) == expected


def test_everything_may_be_said() -> None:
    found = kubernetes_settings(
        on_a_cluster(
            kubeconfig="a.yaml",
            context="prod",
            namespace="perf",
            manifests="chart",
            helm_values=["a.yaml,b.yaml", "c.yaml"],
            image="vllm:1",
            simulator_image="sim:1",
            model_cache="pvc:models",
            hf_secret="hf/token",
            queue="gpus",
            queue_timeout="2h",
            unschedulable_grace="90s",
            reach="ingress",
            keep="yes",
            ready_timeout="5m",
            storage="out",
        ),
        WHO,
    )
    rendered = RenderSettings(
        manifests=HERE / "chart",
        helm_values=(HERE / "a.yaml", HERE / "b.yaml", HERE / "c.yaml"),
        image="vllm:1",
        simulator_image="sim:1",
        model_cache="pvc:models",
        hf_secret="hf/token",
        queue="gpus",
    )
    assert found == KubernetesSettings(
        render=rendered,
        session="k3x9q0ab",
        worker="gw1",
        kubeconfig=HERE / "a.yaml",
        context="prod",
        namespace="perf",
        reach="ingress",
        keep=True,
        ready_timeout_s=300.0,
        unschedulable_grace_s=90.0,
        queue_timeout_s=7200.0,
        log_directory=HERE / "out" / "deployments",
    )


def test_the_other_forms_of_an_option() -> None:
    environ = {"LLMPERF_TARGET": "kubernetes", "LLMPERF_HELM_VALUES": "a.yaml,b.yaml", "LLMPERF_KEEP": "yes"}
    found = settings({}, environ, {"llmperf_namespace": "perf", "llmperf_kubeconfig": "k.yaml"}).kubernetes
    assert (found.helm_values, found.keep) == ((HERE / "a.yaml", HERE / "b.yaml"), True)
    assert (found.namespace, found.kubeconfig) == ("perf", ROOT / "k.yaml")
    assert not settings({}, {"LLMPERF_KEEP": "no"}).kubernetes.keep


def test_the_session_is_the_targets() -> None:
    target = target_of(on_a_cluster(url="http://gpu.example"), identity=WHO)
    assert isinstance(target, KubernetesTarget)
    assert target.settings.identity == WHO
    assert target.settings.url == "http://gpu.example"
    alone = [target_of(on_a_cluster()) for _ in range(2)]
    assert all(isinstance(one, KubernetesTarget) and one.settings.worker == "" for one in alone)
    assert len({one.settings.session for one in alone if isinstance(one, KubernetesTarget)}) == 2


def test_a_token_that_nobody_named_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMPERF_API_KEY", "another-servers")
    monkeypatch.setenv("MINE", "this-servers")
    keys = []
    for found in (on_a_cluster(), on_a_cluster(api_key_env="MINE")):
        target = target_of(found)
        assert isinstance(target, KubernetesTarget)
        keys.append(target.api_key)
    assert keys == [None, "this-servers"]


def test_what_is_rendered_may_be_said_of_any_target() -> None:
    found = settings({"render": "out", "image": "vllm:1", "manifests": "chart"})
    assert (found.target, found.kubernetes.render, found.kubernetes.image) == ("sim", HERE / "out", "vllm:1")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"namespace": "perf"}, "namespace: a namespace is named, but the target is 'sim'\n  Add --llmperf-target=kubernetes."),
        ({"keep": "yes"}, "keep: deployments are to be kept, but the target is 'sim'"),
        ({"render": "out", "context": "prod"}, "context: a kubeconfig's context is named, but the target is 'sim'"),
        ({"image": "vllm:1"}, "image: an engine's image is named, but the target is 'sim'"),
        ({"target": "process", "simulator-image": "s"}, "simulator-image: a simulator's image is named, but the target is"),
        ({"target": "kubernetes", "served-model": "m"}, "served-model: a served model is named, but the target is 'kubernetes'"),
        (
            {"target": "kubernetes", "reach": "ingres"},
            "reach: unknown way to reach a deployment 'ingres'\n  Did you mean 'ingress'?",
        ),
        (
            {"target": "kubernetes", "reach": "service", "url": "http://h"},
            "reach: a URL says already how deployments are reached\n  Leave out one",
        ),
        ({"target": "kubernetes", "insecure": "yes"}, "insecure: certificates are not to be checked, but no URL is given"),
        ({"target": "kubernetes", "namespace": "Perf_1"}, "namespace: 'Perf_1' is no namespace's name\n  It is made of"),
        ({"target": "kubernetes", "queue-timeout": "10"}, "queue-timeout: '10' has no unit"),
        ({"target": "kubernetes", "unschedulable-grace": "0s"}, "unschedulable-grace: '0s' is not more than 0 seconds"),
        ({"target": "kubernetes", "keep": "maybe"}, "keep: 'maybe' is neither yes nor no"),
        ({"target": "kubernets"}, "target: unknown target 'kubernets'\n  Did you mean 'kubernetes'?"),
    ],
)  # fmt: skip
def test_what_cannot_be(given: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(given)
    assert str(caught.value).startswith(f"--llmperf-{says}")


@pytest.mark.parametrize("token", ["hf_aBcDeFgHiJkLmNoPqRsTuVwXyZ", "hf/to ken", "hf/", "/token"])
def test_a_token_in_the_place_of_a_secrets_name_is_not_shown(token: str) -> None:
    with pytest.raises(ConfigError, match=r"^--llmperf-hf-secret: no Secret can be called that") as caught:
        on_a_cluster(hf_secret=token)
    assert token not in str(caught.value)


def test_the_help_names_every_way_to_reach_a_deployment() -> None:
    from pytest_llmperf.plugin.option_table import KUBERNETES

    (option,) = [option for option in KUBERNETES if option.name == "reach"]
    assert ", ".join(REACHES) in option.help
