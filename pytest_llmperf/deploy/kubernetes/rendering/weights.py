"""How weights come to the engine: the volume that keeps them, the token that opens the door, the container that fetches them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from pytest_llmperf.deploy.engine_options import Option, base_name, options_of, value_of
from pytest_llmperf.deploy.kubernetes.api.kinds import Manifest
from pytest_llmperf.deploy.kubernetes.rendering.engine_container import Engine
from pytest_llmperf.deploy.kubernetes.rendering.engine_patch import GIB, raised, set_variable, set_variables
from pytest_llmperf.deploy.kubernetes.rendering.manifests import Sourced
from pytest_llmperf.deploy.kubernetes.rendering.structure import claim_templates, entries, mappings, pod_templates, section
from pytest_llmperf.deploy.kubernetes.settings import check_hf_secret, check_model_cache
from pytest_llmperf.errors import Where
from pytest_llmperf.experiment.fit import weight_bytes
from pytest_llmperf.experiment.records import Cell
from pytest_llmperf.secrets import Hidden

CACHE_OPTION = "--llmperf-model-cache"
SECRET_OPTION = "--llmperf-hf-secret"
TOKEN = "HF_TOKEN"
_TOKEN_SECRET, _TOKEN_KEY = "hub-token", "token"
_CACHE_VARIABLES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME")
_DEFAULT_CACHE = "/root/.cache/huggingface"
_VOLUME, _MOUNT = "llmperf-models", "/llmperf-models"
_DOWNLOADERS = (("hf", "download"), ("huggingface-cli", "download"))
# An engine's option that says which files it reads or where it keeps them, and the downloader's for the same.
_OF_THE_DOWNLOAD = {"revision": "--revision", "download-dir": "--cache-dir"}
_OFFLINE = "HF_HUB_OFFLINE"
_READS_MORE = frozenset(
    {
        "code-revision",
        "config",
        "default-mm-loras",
        "download-dir",
        "hf-config-path",
        "lora-modules",
        "sc",
        "spec-model",
        "speculative-config",
        "speculative-model",
        "tokenizer",
        "tokenizer-revision",
        "trust-remote-code",
    }
)
"""An engine's options that may name files which no download has fetched, or (``download-dir``) which vLLM finds online only."""
_DOWNLOAD_SHARE = 1.2
"""Beside the weights lie a tokenizer, a file that is not finished yet, and what else the repository has."""
_CACHES_BYTES = 20 * GIB
"""What an engine keeps beside the weights: compiled graphs and kernels, of one version and of the next."""


@dataclass(frozen=True)
class ModelCache:
    """Where the weights are kept, as a pod's volume writes it."""

    volume: Mapping[str, object]


def parse_model_cache(text: str) -> ModelCache:
    """``pvc:NAME``, ``hostpath:/DIR`` or ``none``. Raises ``ConfigError``."""
    check_model_cache(text, Where(option=CACHE_OPTION))
    kind, _, place = text.partition(":")
    if kind == "pvc":
        return ModelCache({"persistentVolumeClaim": {"claimName": place}})
    if kind == "hostpath":
        # One that is made for a pod is root's, and no pod of another user can write to it.
        return ModelCache({"hostPath": {"path": place, "type": "Directory"}})
    return ModelCache({"emptyDir": {}})


def downloads(engine: Engine) -> list[Manifest]:
    """The init containers that fetch the weights."""
    return [one for one in engine.template.init_containers if _download_at(one) is not None]


def set_cache(objects: list[Sourced], engine: Engine, cache: ModelCache) -> None:
    """Keep the weights there, and not where the manifest says; a claim of the set that nobody needs any more goes."""
    claims_before = _claims_in_use(objects)
    name = _cache_mount(engine.container)
    if name is None:
        name = _VOLUME
        for container in (engine.container, *downloads(engine)):
            entries(container, "volumeMounts").append({"name": name, "mountPath": _MOUNT})
            set_variables(container, {"HF_HOME": f"{_MOUNT}/huggingface"})
    volumes = entries(engine.template.spec, "volumes")
    volumes[:] = [one for one in volumes if one.get("name") != name]
    volumes.append({"name": name, **cache.volume})
    templates = claim_templates(engine.workload.manifest)
    if any(one["metadata"]["name"] == name for one in templates):
        spec = engine.workload.manifest["spec"]
        spec["volumeClaimTemplates"] = [one for one in templates if one["metadata"]["name"] != name]
    unneeded = claims_before - _claims_in_use(objects)
    objects[:] = [
        one
        for one in objects
        if not (one.manifest["kind"] == "PersistentVolumeClaim" and one.manifest["metadata"]["name"] in unneeded)
    ]


def set_storage(objects: Sequence[Sourced], engine: Engine, cell: Cell) -> None:
    """The platform's storage class for claims that name none, and room for the model in the one that keeps it."""
    claims = [(one.manifest, one.where) for one in objects if one.manifest["kind"] == "PersistentVolumeClaim"]
    claims += [(claim, one.where) for one in objects for claim in claim_templates(one.manifest)]
    kept = _cache_claim(engine)
    for claim, where in claims:
        spec = section(claim, "spec")
        if cell.platform.storage_class is not None:
            spec.setdefault("storageClassName", cell.platform.storage_class)
        if claim["metadata"]["name"] == kept:
            requests = section(section(spec, "resources"), "requests")
            size = requests.get("storage", "0")
            requests["storage"] = raised(size, storage_bytes(cell), f"the claim {kept}'s size {size!r}", where)


def storage_bytes(cell: Cell) -> float:
    """What a model's files need on disk, and the engine's own caches beside them; in steps of 10 GiB.

    An engine that makes fp8 of a checkpoint in 16 bit reads the checkpoint all the same.
    """
    needed = weight_bytes(cell.model, cell.model.precision) * _DOWNLOAD_SHARE + _CACHES_BYTES
    return math.ceil(needed / (10 * GIB)) * 10 * GIB


def token_reference(hf_secret: str) -> Manifest:
    """``NAME`` or ``NAME/KEY`` as a variable's source. Raises ``ConfigError``."""
    check_hf_secret(hf_secret, Where(option=SECRET_OPTION))
    name, _, key = hf_secret.partition("/")
    return {"secretKeyRef": {"name": name, "key": key or _TOKEN_KEY}}


def set_token(objects: list[Sourced], engine: Engine, hf_secret: str | None, environ: Mapping[str, str]) -> None:
    """Give engine and download a token: that of a Secret that exists, else ``HF_TOKEN``, else what the manifest refers to."""
    if hf_secret is not None:
        source = token_reference(hf_secret)
    elif token := Hidden(environ.get(TOKEN, "").strip()):
        source = {"secretKeyRef": {"name": _TOKEN_SECRET, "key": _TOKEN_KEY}}
        objects.append(Sourced(_secret(token), Where(option=f"the variable {TOKEN}")))
    else:
        return
    for container in (engine.container, *downloads(engine)):
        set_variable(container, {"name": TOKEN, "valueFrom": {"secretKeyRef": dict(source["secretKeyRef"])}})


def set_downloads(engine: Engine, cell: Cell, options: Sequence[Option]) -> None:
    """Fetch the cell's model, of the revision and to the place that the engine's options name.

    An engine that its manifest takes offline, since all is there by then, is online where its options may name more.
    """
    named = {base_name(option[0]): option for option in options}
    reads_more = any(name.partition(".")[0] in _READS_MORE for name in named)
    if downloads(engine) and reads_more and _OFFLINE not in cell.variant.env:
        variables = entries(engine.container, "env")
        variables[:] = [one for one in variables if one.get("name") != _OFFLINE]
    added = [(f"{theirs}={value_of(named[ours])}",) for ours, theirs in _OF_THE_DOWNLOAD.items() if ours in named]
    replaced = [base_name(option[0]) for option in added]
    for container in downloads(engine):
        at = _download_at(container)
        assert at is not None
        words = [*map(str, container.get("command") or []), *map(str, container.get("args") or [])]
        kept = [option for option in options_of(words[at + 1 :]) if base_name(option[0]) not in replaced]
        words = [*words[:at], cell.model.repository, *(word for option in (*kept, *added) for word in option)]
        split = min(len(container.get("command") or []), at)
        container["command"], container["args"] = words[:split], words[split:]
        if not container["command"]:
            del container["command"]


def drop_downloads(engine: Engine) -> None:
    """Fetch nothing: what stands in for the engine reads no weights."""
    fetching = downloads(engine)
    if not fetching:
        return
    kept = [one for one in engine.template.init_containers if one not in fetching]
    if kept:
        engine.template.spec["initContainers"] = kept
    else:
        del engine.template.spec["initContainers"]


def _download_at(container: Manifest) -> int | None:
    """Where among the container's words the repository stands that it fetches; None where it is no downloader."""
    words = [*(container.get("command") or []), *(container.get("args") or [])]
    for index in range(len(words) - 2):
        if (str(words[index]).rpartition("/")[2], words[index + 1]) in _DOWNLOADERS:
            return index + 2
    return None


def _cache_mount(container: Manifest) -> str | None:
    """The name of the volume in which the Hub's files are kept; None where they go to the container's own disk."""
    values = {one.get("name"): one.get("value") for one in container.get("env") or []}
    paths = [str(values[name]) for name in _CACHE_VARIABLES if values.get(name)] or [_DEFAULT_CACHE]
    words = [str(word) for key in ("command", "args") for word in container.get(key) or []]
    paths[:0] = [value_of(option) for option in options_of(words) if base_name(option[0]) == "download-dir"]
    mounts = [
        (len(mount["mountPath"]), mount["name"])
        for mount in container.get("volumeMounts") or []
        if PurePosixPath(paths[0]).is_relative_to(mount["mountPath"])
    ]
    return max(mounts)[1] if mounts else None


def _cache_claim(engine: Engine) -> str | None:
    """The claim, or the StatefulSet's template of one, that the cache's volume is."""
    name = _cache_mount(engine.container)
    for volume in engine.template.spec.get("volumes") or []:
        if volume.get("name") == name:
            claim = (volume.get("persistentVolumeClaim") or {}).get("claimName")
            return str(claim) if claim is not None else None
    return name


def _claims_in_use(objects: Sequence[Sourced]) -> set[str]:
    return {
        str(inner["claimName"])
        for one in objects
        for template in pod_templates(one.manifest)
        for inner in mappings(template.spec)
        if "claimName" in inner
    }


def _secret(token: Hidden) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": _TOKEN_SECRET},
        "type": "Opaque",
        "stringData": {_TOKEN_KEY: token},
    }
