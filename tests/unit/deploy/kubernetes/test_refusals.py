"""What API servers say no with, and what is made of it. The messages are those of Kubernetes 1.36."""

from __future__ import annotations

import json

import pytest

from pytest_llmperf.deploy.kubernetes.api.refusals import (
    Asked,
    ConflictError,
    ExpiredError,
    ForbiddenError,
    NotFoundError,
    Quota,
    RefusedError,
    exceeded_quota,
    read_status,
    refusal,
)

ASKED = Asked("apply", "deployments", "llama", "perf", "apps/v1")
QUOTA = (
    'pods "x" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=1, used: requests.nvidia.com/gpu=8, '
    "limited: requests.nvidia.com/gpu=8"
)


def refused(code: int, reason: str, message: str, **details: object) -> RefusedError:
    body = {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message, "details": details}
    return refusal(read_status(code, json.dumps(body).encode()), ASKED)


def test_a_permission_that_is_missing() -> None:
    error = refused(
        403,
        "Forbidden",
        'deployments.apps "llama" is forbidden: User "jane" cannot patch resource "deployments" in API group "apps" '
        'in the namespace "perf"',
    )
    assert isinstance(error, ForbiddenError)
    assert str(error) == (
        "'jane' may not patch deployments.apps in the namespace 'perf'\n"
        "  manifests/rbac/ holds all permissions that are needed; `pytest-llmperf doctor` says which of them are missing."
    )


def test_a_permission_on_the_whole_cluster() -> None:
    message = 'nodes is forbidden: User "jane" cannot list resource "nodes" in API group "" at the cluster scope'
    assert refused(403, "Forbidden", message).what == "'jane' may not list nodes in the whole cluster"


def test_nobody_is_told_to_log_in() -> None:
    message = 'pods is forbidden: User "system:anonymous" cannot list resource "pods" in API group "" in the namespace "perf"'
    assert "log in again" in str(refused(403, "Forbidden", message))


def test_a_quota_is_read_from_any_message() -> None:
    quota = exceeded_quota(f"Error creating: {QUOTA}")
    gpus = "requests.nvidia.com/gpu"
    assert quota == Quota("gpus", f"{gpus}=1", f"{gpus}=8", f"{gpus}=8")
    assert exceeded_quota("something else") is None


@pytest.mark.parametrize(
    ("code", "message", "told", "hint"),
    [
        (
            403,
            QUOTA,
            "the quota 'gpus' has no room: requested requests.nvidia.com/gpu=1, used requests.nvidia.com/gpu=8 of "
            "requests.nvidia.com/gpu=8",
            "kubectl describe quota gpus --namespace=perf",
        ),
        (
            403,
            'pods "x" is forbidden: failed quota: cpu: must specify limits.cpu for: main',
            "the quota 'cpu' wants every container to say its limits.cpu for: main",
            "the manifest's resources",
        ),
        (
            400,
            'admission webhook "images.example.com" denied the request: images come from registry.example only',
            "the admission webhook 'images.example.com' denies it: images come from registry.example only",
            "its administrators know it",
        ),
        (
            403,
            'admission webhook "quiet.example.com" denied the request without explanation',
            "the admission webhook 'quiet.example.com' denies it: it does not say why",
            "its administrators know it",
        ),
        (
            422,
            "deployments.apps is forbidden: ValidatingAdmissionPolicy 'owners' with binding 'all' denied request: no owner",
            "the admission policy 'owners' denies it: no owner",
            "`kubectl get validatingadmissionpolicy owners -o yaml`",
        ),
        (
            403,
            'pods "x" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false',
            "the namespace's level 'restricted:latest' forbids allowPrivilegeEscalation != false",
            "securityContext",
        ),
        (
            403,
            'secrets "x" is forbidden: unable to create new content in namespace perf because it is being terminated',
            "the namespace is being deleted",
            "Wait until it is gone",
        ),
        (
            500,
            'Internal error occurred: failed calling webhook "w.example.com": failed to call webhook: Post "https://w": refused',
            "the admission webhook 'w.example.com' does not answer: failed to call webhook: Post \"https://w\": refused",
            "administrators have to bring it back",
        ),
        (
            400,
            'Deployment in version "v1" cannot be handled as a Deployment: strict decoding error: unknown field "spec.foo"',
            'unknown field "spec.foo"',
            "Correct the manifest",
        ),
        (
            500,
            "failed to create typed patch object (perf/llama; apps/v1, Kind=Deployment): .spec.foo: field not declared in schema",
            ".spec.foo: field not declared in schema",
            "Correct the manifest",
        ),
    ],
)
def test_what_looks_at_an_object_says_no(code: int, message: str, told: str, hint: str) -> None:
    error = refused(code, "", message)
    assert error.what == f"cannot apply deployments/llama in the namespace 'perf': {told}"
    assert hint in (error.hint or "")
    assert error.status == code


def test_fields_that_are_wrong_are_named() -> None:
    causes = [
        {"reason": "FieldValueRequired", "message": "Required value", "field": "spec.selector"},
        {"reason": "FieldValueInvalid", "message": "Invalid value: -1: must be 0 or more", "field": "spec.replicas"},
    ]
    error = refused(422, "Invalid", "Deployment.apps is invalid: ...", causes=causes)
    assert error.what.endswith(": spec.selector: Required value; spec.replicas: Invalid value: -1: must be 0 or more")


def test_a_namespace_that_does_not_exist() -> None:
    error = refused(404, "NotFound", 'namespaces "perf" not found', name="perf", kind="namespaces")
    assert isinstance(error, NotFoundError)
    assert "there is no such namespace" in error.what
    assert "kubectl create namespace perf" in (error.hint or "")


def test_a_kind_that_the_cluster_does_not_know() -> None:
    error = refusal(read_status(404, b"404 page not found\n"), ASKED)
    assert "the cluster does not know deployments of apps/v1" in error.what
    assert "kubectl api-resources" in (error.hint or "")


@pytest.mark.parametrize(
    ("reason", "told"), [("AlreadyExists", "it exists already"), ("Conflict", "the object has been modified")]
)
def test_conflicts(reason: str, told: str) -> None:
    error = refused(409, reason, "the object has been modified")
    assert isinstance(error, ConflictError)
    assert told in error.what
    assert error.reason == reason


def test_what_is_too_old() -> None:
    assert isinstance(refused(410, "Expired", "too old resource version: 1 (2)"), ExpiredError)


def test_a_page_of_a_proxy_is_told_as_it_is_but_not_whole_and_without_secrets() -> None:
    page = b"<html>no entry for Bearer abcdefghijkl" + b"x" * 5000
    error = refusal(read_status(502, page), ASKED)
    assert "502 <html>no entry for Bearer ***" in error.what
    assert len(error.what) < 1200
