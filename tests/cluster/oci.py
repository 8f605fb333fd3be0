"""Images of a few files, written as the OCI archives that ``ctr images import`` reads: no registry and no engine is needed."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_MEDIA = "application/vnd.oci.image"


@dataclass(frozen=True)
class SmallImage:
    """One layer: programs by their place in the image, links by theirs; and what runs where the pod does not say."""

    name: str
    programs: Mapping[str, Path]
    links: Mapping[str, str] = field(default_factory=dict)
    command: Sequence[str] = ()

    def write(self, archive: Path) -> None:
        """Write the archive; the same image gives the same bytes."""
        layer = self._layer()
        blobs = {_sha256(layer): layer}
        config = _json(
            {
                "architecture": architecture(),
                "os": "linux",
                "config": {"Cmd": list(self.command), "Env": ["PATH=/bin"]},
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{_sha256(layer)}"]},
            }
        )
        manifest = _json(
            {
                "schemaVersion": 2,
                "mediaType": f"{_MEDIA}.manifest.v1+json",
                "config": _described(f"{_MEDIA}.config.v1+json", config),
                "layers": [_described(f"{_MEDIA}.layer.v1.tar", layer)],
            }
        )
        blobs |= {_sha256(config): config, _sha256(manifest): manifest}
        annotations = {"io.containerd.image.name": self.name}
        index = {
            "schemaVersion": 2,
            "manifests": [_described(f"{_MEDIA}.manifest.v1+json", manifest) | {"annotations": annotations}],
        }
        with tarfile.open(archive, "w") as tar:
            _add(tar, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
            _add(tar, "index.json", _json(index))
            for digest, blob in sorted(blobs.items()):
                _add(tar, f"blobs/sha256/{digest}", blob)

    def _layer(self) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for place in ("bin", "tmp", "etc"):
                folder = tarfile.TarInfo(place)
                folder.type, folder.mode = tarfile.DIRTYPE, 0o1777 if place == "tmp" else 0o755
                tar.addfile(folder)
            for place, source in self.programs.items():
                _add(tar, place, source.read_bytes(), mode=0o755)
            for place, target in self.links.items():
                link = tarfile.TarInfo(place)
                link.type, link.linkname = tarfile.SYMTYPE, target
                tar.addfile(link)
        return buffer.getvalue()


def architecture() -> str:
    """This machine's architecture, as images call it."""
    return _ARCHITECTURES.get(platform.machine(), platform.machine())


def _add(tar: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    tar.addfile(entry, io.BytesIO(data))


def _described(media: str, blob: bytes) -> dict[str, object]:
    return {"mediaType": media, "digest": f"sha256:{_sha256(blob)}", "size": len(blob)}


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
