"""What there is to say of one container: it is on its way, or it will never run, and why."""

from __future__ import annotations

import re
from dataclasses import replace
from signal import Signals

from pytest_llmperf.deploy.kubernetes.ready.engine_log import Known, known_cause, step
from pytest_llmperf.deploy.kubernetes.ready.findings import Diagnosis, Patience, Stage, Waiting, shortened
from pytest_llmperf.deploy.kubernetes.ready.image_pull import is_pulling, pull_finding
from pytest_llmperf.deploy.kubernetes.ready.missing import is_missing, missing_finding, missing_hint
from pytest_llmperf.deploy.kubernetes.ready.pods import Container, Ended, Pod
from pytest_llmperf.deploy.kubernetes.ready.seen import LogOf, Seen
from pytest_llmperf.units import format_duration

CONFIG_GRACE_S = 30.0
"""How long the node may have trouble to make a container that is not the manifest's fault."""
_CONFIG = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError", "PreStartHookError", "PostStartHookError")
_PASSING = re.compile(
    r"timed out|failed to sync|deadline exceeded|is reserved for|code = Unavailable|context canceled|error while dialing"
)
_STARTED = ("StartError", "ContainerCannotRun")
_PROBE_KILL = re.compile(r"failed (startup|liveness) probe")
_PROBE_SAID = re.compile(r"^(Startup|Readiness|Liveness) probe (?:failed|errored and resulted in \w+ state): (.*)", re.DOTALL)
_DIALLED = re.compile(r'^Get "[^"]*": (?:dial tcp \S+ (?:connect: )?)?')
_RUNTIME = re.compile(
    r".*(?:unable to start container process|OCI runtime create failed|failed to create shim task): ", re.DOTALL
)
_POD_ID = re.compile(r" \(pod: [^)]*\)[^)]*\)$")
"""What the kubelet adds to a message about a user: pod, namespace and uid."""
_SIGNALLED = 128


def container_finding(pod: Pod, one: Container, seen: Seen) -> Diagnosis | Waiting | None:
    """What there is to say of a container of a pod that has its node; None where it does what it is to do."""
    return (
        pull_finding(pod, one, seen)
        or _not_made(pod, one)
        or _killed_by_probe(pod, one, seen)
        or _ended(pod, one, seen)
        or _on_its_way(pod, one, seen)
    )


def log_of(pod: Pod, one: Container) -> LogOf:
    """The log of the run that ended last, or of the one that goes on where none has ended."""
    return LogOf(pod.name, one.name, previous=one.is_running and one.last is not None)


def how_it_ended(one: Container, ended: Ended) -> str:
    """``ended with exit code 3``."""
    if ended.reason == "OOMKilled":
        limit = f"its limit of {one.memory_limit}" if one.memory_limit else "the node's memory"
        return f"was killed for using more memory than {limit} (OOMKilled)"
    number = ended.signal or (ended.exit_code - _SIGNALLED if ended.exit_code > _SIGNALLED else 0)
    try:
        return f"was killed by {Signals(number).name} (exit code {ended.exit_code})"
    except ValueError:
        return f"ended with exit code {ended.exit_code}"


def _title(one: Container) -> str:
    return f"{'init container' if one.is_init else 'container'} {one.name}"


def _not_made(pod: Pod, one: Container) -> Diagnosis | Waiting | None:
    if one.waiting not in _CONFIG:
        return None
    found = _cannot_be_made(pod, one, one.waiting_message)
    if one.waiting == "PostStartHookError":
        return replace(found, cause=f"the postStart hook of {_title(one)} failed", details=(pod.place, one.waiting_message))
    if _PASSING.search(one.waiting_message):
        text = f"{_title(one)} is not made yet: {shortened(one.waiting_message, 80)}"
        return Waiting(text, Stage.PREPARING, (Patience(one.waiting, CONFIG_GRACE_S, found),))
    return missing_finding(f"{found.cause} yet", Stage.PREPARING, found) if is_missing(one.waiting_message) else found


def _cannot_be_made(pod: Pod, one: Container, message: str) -> Diagnosis:
    why = _RUNTIME.sub("", _POD_ID.sub("", message)).removesuffix(": unknown").strip()
    return Diagnosis(f"{_title(one)} cannot be started: {shortened(why)}", _hint_of(pod, message), (pod.place,))


def _hint_of(pod: Pod, message: str) -> str:
    """What to do about a container that cannot be made or started."""
    if hint := missing_hint(message, pod.namespace):
        return hint
    if "runAsNonRoot" in message:
        return "Set a 'runAsUser' other than 0 in the manifest's securityContext, or use an image that names one."
    if "executable file not found" in message or "no such file or directory" in message:
        return "Correct the manifest's 'command', or name an image that has this program."
    if "permission denied" in message:
        return "The program may not be run: check its mode in the image, and the user that the container runs as."
    return "Correct the container in the manifest; what the node says of it is above."


def _killed_by_probe(pod: Pod, one: Container, seen: Seen) -> Diagnosis | None:
    kills = [event for event in seen.events_of("Pod", pod.name, "Killing") if event.container == one.name]
    match = next((match for event in kills if (match := _PROBE_KILL.search(event.message))), None)
    if match is None or (one.is_ready and one.is_started):
        return None
    said = _last_answer(pod, one, seen, match[1])
    details = (pod.place, *((f"its last answer: {said}",) if said else ()))
    if match[1] == "startup" and one.startup is not None:
        allowed = format_duration(one.startup.delay_s + one.startup.period_s * one.startup.failures)
        return Diagnosis(
            f"{_title(one)} did not pass its startup probe within {allowed}, and was ended",
            "If its log shows that it was on its way, raise the startupProbe's failureThreshold in the manifest.",
            details,
            log=log_of(pod, one),
        )
    return Diagnosis(
        f"{_title(one)} failed its {match[1]} probe before it was ready, and was ended",
        f"Make the manifest's {match[1]}Probe more patient, or give the container a startupProbe.",
        details,
        log=log_of(pod, one),
    )


def _last_answer(pod: Pod, one: Container, seen: Seen, probe: str) -> str:
    """What a probe heard last."""
    for event in reversed(seen.events_of("Pod", pod.name, "Unhealthy")):
        match = _PROBE_SAID.match(event.message)
        if event.container == one.name and match is not None and match[1].lower() == probe:
            return shortened(_DIALLED.sub("", match[2]), 160)
    return ""


def _ended(pod: Pod, one: Container, seen: Seen) -> Diagnosis | Waiting | None:
    """What there is to say of a container that has ended and was not to end."""
    ended = one.ended or one.last
    if ended is None or (one.is_ready and one.is_started) or (one.is_init and one.ended is not None and ended.exit_code == 0):
        return None
    if ended.reason in _STARTED and not one.is_running and not (one.exits == 1 and _PASSING.search(ended.message)):
        return _cannot_be_made(pod, one, ended.message)
    log = log_of(pod, one)
    known = known_cause(seen.logs.get(log, ""))
    if ended.reason == "OOMKilled":
        return _out_of_memory(pod, one, ended)
    if _is_final(pod, one, ended) or (known is not None and known.is_final):
        return _crashed(pod, one, ended, known)
    told = f"{_title(one)} {how_it_ended(one, ended)}"
    now = _on_its_way(pod, one, seen)
    if now is not None:
        return replace(now, text=f"{now.text}; before, {told}", log=log if log not in seen.logs else now.log)
    return Waiting(f"{told}, and is started again", Stage.PREPARING if one.is_init else Stage.STARTING, log=log)


def _is_final(pod: Pod, one: Container, ended: Ended) -> bool:
    restarted = pod.restart_policy == "Always" or (pod.restart_policy == "OnFailure" and ended.exit_code != 0)
    return one.waiting == "CrashLoopBackOff" or one.exits > 1 or pod.phase == "Failed" or not restarted


def _out_of_memory(pod: Pod, one: Container, ended: Ended) -> Diagnosis:
    return Diagnosis(
        f"{_title(one)} {how_it_ended(one, ended)}",
        "Raise the container's memory limit in the manifest: loading weights may need as much as they weigh.",
        (pod.place,),
        log=log_of(pod, one),
    )


def _crashed(pod: Pod, one: Container, ended: Ended, known: Known | None) -> Diagnosis:
    again = f" ({one.exits} times)" if one.exits > 1 else ""
    how = f"{_title(one)} {how_it_ended(one, ended)}{again}"
    if known is not None:
        return Diagnosis(known.cause, known.hint, (how, shortened(known.line), pod.place), log=log_of(pod, one))
    hint = "See what it wrote last, below, and correct its image, command or arguments."
    if ended.exit_code == 0:
        hint = "A server is not to end: check the manifest's command and arguments."
    return Diagnosis(how, hint, (pod.place,), log=log_of(pod, one))


def _on_its_way(pod: Pod, one: Container, seen: Seen) -> Waiting | None:
    if one.is_init:
        return Waiting(_preparing(one), Stage.PREPARING) if one.is_running else _pulling(pod, one, seen)
    if not one.is_running:
        return _pulling(pod, one, seen)
    if not one.is_started:
        return Waiting(
            f"{_doing(pod, one, seen) or 'starting'}{_probed(one, seen)}", Stage.STARTING, log=LogOf(pod.name, one.name)
        )
    if not one.is_ready:
        said = _last_answer(pod, one, seen, "readiness")
        doing = _doing(pod, one, seen) or "running"
        return Waiting(f"{doing}, not ready{f': {said}' if said else ''}", Stage.RUNNING, log=LogOf(pod.name, one.name))
    return None


def _doing(pod: Pod, one: Container, seen: Seen) -> str:
    """How far the engine says that it is."""
    return step(seen.logs.get(LogOf(pod.name, one.name), ""))


def _pulling(pod: Pod, one: Container, seen: Seen) -> Waiting | None:
    return Waiting(f"pulling {one.image}", Stage.PULLING) if is_pulling(pod, one, seen) else None


def _preparing(one: Container) -> str:
    return "downloading weights" if one.brings_weights else f"init container {one.name} runs"


def _probed(one: Container, seen: Seen) -> str:
    """How many of the startup probe's attempts have passed."""
    if one.startup is None or one.running_since_s is None:
        return ""
    passed = (seen.now_s - one.running_since_s - one.startup.delay_s) / one.startup.period_s
    return f" (startup probe: {min(max(int(passed), 0), one.startup.failures)}/{one.startup.failures})"
