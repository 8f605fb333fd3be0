"""``sim calibrate`` over HTTP: a simulator with other constants than the catalog's is served, and its constants come back."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pytest_llmperf.experiment.catalog import builtin_directory, load_catalog

COMMAND = (sys.executable, "-m", "pytest_llmperf.cli")
CHANGED = {
    "bandwidth": 0.45,
    "mfu_bf16": 0.25,
    "layer_overhead": 120e-6,
    "sequence_overhead": 4e-6,
    "api_overhead": 12e-3,
}
WITHIN = {"mfu_bf16": 0.15, "sequence_overhead": 0.35, "api_overhead": 0.20}
"""Relative errors: the client's own half a millisecond and the noise of a shared machine are in what is measured."""
TOLD_APART = {"bandwidth": "bandwidth", "layer_overhead": "layer overhead"}
"""Both are in every step alike, but for what long contexts read: where the loads did not tell them apart, the command says so."""


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A simulator of an h100 that is slower than the catalog's in everything."""
    document = yaml.safe_load((builtin_directory() / "hardware" / "h100.yaml").read_text(encoding="utf-8"))
    overheads = {name: f"{1e6 * value:g}us" for name, value in CHANGED.items() if name.endswith("overhead")}
    document["efficiency"] = {**document["efficiency"], **CHANGED, **overheads}
    (tmp_path / "slower" / "hardware").mkdir(parents=True)
    (tmp_path / "slower" / "hardware" / "h100.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    command = (*COMMAND, "sim", "--catalog", str(tmp_path / "slower"), "--model", "llama-3.2-3b", "--port", "0")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().split()[4]
        process.terminate()


def test_changed_constants_come_back(url: str, tmp_path: Path) -> None:
    out = tmp_path / "found" / "hardware" / "h100.yaml"
    out.parent.mkdir(parents=True)
    done = subprocess.run(
        [*COMMAND, "sim", "calibrate", "--url", url, "--hardware", "h100", "--quick", "--out", str(out), "--max-error", "25%"],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    print(f"\n{done.stdout}{done.stderr}")
    assert done.returncode == 0, done.stderr
    assert "SIMULATED" in done.stdout
    assert re.search(r"largest error of the check: [\d.]+%", done.stdout)
    found = load_catalog([builtin_directory(), tmp_path / "found"]).hardware["h100"].efficiency
    for name, bound in WITHIN.items():
        assert getattr(found, name) == pytest.approx(CHANGED[name], rel=bound), name
    for name, shown in TOLD_APART.items():
        known = re.search(rf"^  {shown} .*\+-([\d.]+)%$", done.stdout, re.MULTILINE)
        if known is not None:
            assert getattr(found, name) == pytest.approx(CHANGED[name], rel=3 * float(known[1]) / 100), name
