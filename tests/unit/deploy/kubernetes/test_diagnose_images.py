"""Images that cannot be had, or not yet: what the registry said, and how often."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_llmperf.deploy.kubernetes.ready.findings import Stage
from tests.unit.deploy.kubernetes.seen_objects import container, fault, patience, pod, said, seen, wait

IMAGE = "vllm/vllm-openai:v1"
PULL_FAILED = f'Failed to pull image "{IMAGE}": '


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        ("failed to resolve reference: docker.io/x: not found", "there is no such image"),
        ("unexpected status: 401 Unauthorized", "the registry wants other credentials"),
        ("no basic auth credentials", "the registry wants other credentials"),
        ("denied: requested access to the resource is denied", "may not be read without credentials"),
        (
            'denied: Permission "artifactregistry.repositories.downloadArtifacts" denied on resource "a" (or it may not exist)',
            "may not be read without credentials",
        ),
        ("name unknown: The repository with name 'x' does not exist in the registry with id '1'", "there is no such image"),
        ("initializing source docker://x:1: reading manifest 1 in x: manifest unknown", "there is no such image"),
        ("http: server gave HTTP response to HTTPS client", "the registry does not speak TLS"),
        ('Head "https://a": tls: first record does not look like a TLS handshake', "the registry does not speak TLS"),
        ("tls: failed to verify certificate: x509: certificate signed by", "the node does not trust the registry's certificate"),
        ("pull access denied, repository does not exist or may require authorization", "may not be read without credentials"),
        ("dial tcp: lookup registry on 10.0.0.1:53: no such host", "the registry cannot be reached"),
        ("no match for platform in manifest", "it is not made for the node's kind of processor"),
        ("write /var/lib: no space left on device", "the node's disk is full"),
        ("the moon is full", "the moon is full"),
    ],
)
def test_an_image_that_cannot_be_pulled(message: str, cause: str) -> None:
    backed_off = container(
        waiting="ImagePullBackOff", waiting_message=f'Back-off pulling image "{IMAGE}": ErrImagePull: {message}'
    )
    found = fault(seen(pod(backed_off)))
    assert found.cause.startswith(f"the image {IMAGE} cannot be pulled: ")
    assert found.cause.endswith(cause)


def test_one_failure_to_pull_may_pass() -> None:
    failed = pod(container(waiting="ErrImagePull", waiting_message="rpc error: code = Unknown desc = i/o timeout"))
    event = said("Failed", PULL_FAILED + "not found")
    assert wait(seen(failed, events=(event,))).text == f"pulling {IMAGE} has failed once (the registry cannot be reached)"
    known = pod(container(waiting="ErrImagePull", waiting_message="not found"))
    assert fault(seen(known, events=(replace(event, count=2),))).cause.startswith(f"the image {IMAGE} cannot be pulled")


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ("pulling from host a failed with status code [manifests 1]: 429 Too Many Requests", "the registry limits how often"),
        ("unexpected status from HEAD request to https://a: 503 Service Unavailable", "the registry has trouble of its own"),
        ("dial tcp 10.0.0.1:443: i/o timeout", "the registry cannot be reached"),
        ("failed to copy: httpReadSeeker: failed open: unexpected EOF", "the registry cannot be reached"),
    ],
)
def test_what_a_registry_may_get_over_is_certain_after_some_tries(message: str, why: str) -> None:
    backed_off = pod(container(waiting="ImagePullBackOff", waiting_message=message))
    event = said("Failed", PULL_FAILED + message, count=3)
    back_off = said("BackOff", f'Back-off pulling image "{IMAGE}"')
    waiting = wait(seen(backed_off, events=(event, back_off)))
    assert waiting.text == f"pulling {IMAGE} has failed 3 times ({why})"
    assert patience(waiting, "pull")[0] == 300.0
    again = wait(seen(backed_off, events=(event, back_off, said("Pulling", f"Pulling image {IMAGE}"))))
    assert [one.state for one in again.patience] == ["starting of vllm-1"], "a large image takes its time"
    assert fault(seen(backed_off, events=(replace(event, count=4), back_off))).cause.endswith(why)


def test_a_pull_that_has_succeeded_after_all_is_no_fault() -> None:
    backed_off = pod(container(waiting="ImagePullBackOff", waiting_message="not found"))
    events = (
        said("Failed", PULL_FAILED + "not found", count=2),
        said("BackOff", f'Back-off pulling image "{IMAGE}"'),
        said("Pulling", f"Pulling image {IMAGE}"),
        said("Pulled", f"Successfully pulled image {IMAGE} in 3s"),
    )
    assert wait(seen(backed_off, events=events)).text == "scheduled on node1"


def test_the_events_of_a_back_off_come_before_the_pods_own_state() -> None:
    events = (said("Pulling", f"Pulling image {IMAGE}"), said("Failed", PULL_FAILED + "not found"))
    backed_off = said("BackOff", f'Back-off pulling image "{IMAGE}"')
    found = fault(seen(pod(container(waiting="ContainerCreating")), events=(*events, backed_off)))
    assert found.details[-1] == "not found"


def test_an_image_is_pulled() -> None:
    event = said("Pulling", f"Pulling image {IMAGE}")
    waiting = wait(seen(pod(container(waiting="ContainerCreating")), events=(event,)))
    assert (waiting.text, waiting.stage) == (f"pulling {IMAGE}", Stage.PULLING)


@pytest.mark.parametrize(
    ("reason", "cause"), [("InvalidImageName", "not an image's name"), ("ErrImageNeverPull", "may not pull it")]
)
def test_images_that_are_certain_at_once(reason: str, cause: str) -> None:
    assert cause in fault(seen(pod(container(waiting=reason)))).cause
