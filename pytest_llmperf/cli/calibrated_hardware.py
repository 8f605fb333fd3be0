"""Hardware records of a calibration: of a machine that nobody has described, with fitted constants, and as YAML."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_llmperf.deploy.simspec import WEIGHT_BYTES
from pytest_llmperf.experiment.records import Cell, Efficiency, Hardware, Model

if TYPE_CHECKING:
    from pytest_llmperf.measure.calibration import Constants


def unknown_hardware(name: str, model: Model) -> Hardware:
    """A record whose peaks are what is reached; of memory there is enough, since nothing here measures it."""
    return Hardware(
        name=name,
        title=f"equivalent of the machine that served {model.name}",
        memory=int(2 * model.params_total * max(WEIGHT_BYTES.values())) + 64 * 2**30,
        bandwidth=1e12,
        bf16_flops=1e14,
        fp8_flops=1e14 if model.precision == "fp8" else None,
        interconnect="none",
        power_watts=0.0,
        efficiency=Efficiency(bandwidth=1.0, mfu_bf16=1.0, mfu_fp8=1.0),
    )


def calibrated(cell: Cell, constants: Constants, *, is_known: bool) -> Hardware:
    """The cell's hardware with these constants: as shares of its peaks where they are known, else as its peaks."""
    hardware = cell.hardware
    overheads = {
        "layer_overhead": constants.layer_overhead_s,
        "sequence_overhead": constants.sequence_overhead_s,
        "token_overhead": constants.token_overhead_s,
        "api_overhead": constants.api_overhead_s,
    }
    efficiency = replace(hardware.efficiency, **overheads)
    fp8 = cell.precision == "fp8"
    if not is_known:
        flops = constants.flops_per_s
        reached = replace(hardware, bf16_flops=flops, fp8_flops=flops if fp8 else None)
        return replace(reached, bandwidth=constants.bandwidth_bytes_per_s, efficiency=efficiency)
    peak = (hardware.fp8_flops if fp8 else None) or hardware.bf16_flops
    mfu = {"mfu_fp8" if fp8 else "mfu_bf16": min(1.0, constants.flops_per_s / peak)}
    bandwidth = min(1.0, constants.bandwidth_bytes_per_s / hardware.bandwidth)
    return replace(hardware, efficiency=replace(efficiency, bandwidth=bandwidth, **mfu))


def record_yaml(hardware: Hardware) -> str:
    """A hardware record as a catalog's file holds it."""
    import yaml

    def plain(record: object, left_out: tuple[str, ...]) -> dict[str, object]:
        return {key: value for key, value in vars(record).items() if key not in left_out and value != {}}

    document = plain(hardware, ("name", "count", "efficiency"))
    document["counts"] = list(hardware.counts)
    document["node_labels"] = dict(hardware.node_labels)
    document["bandwidth"] = f"{hardware.bandwidth / 1e9:.5g}GB/s"
    for peak in ("bf16_flops", "fp8_flops"):
        document[peak] = None if document[peak] is None else float(f"{document[peak]:.4e}")
    efficiency = hardware.efficiency
    document["efficiency"] = {
        **{name: f"{100 * getattr(efficiency, name):.4g}%" for name in ("bandwidth", "mfu_bf16", "mfu_fp8")},
        **{
            name: f"{1e6 * getattr(efficiency, name):.4g}us"
            for name in ("layer_overhead", "sequence_overhead", "token_overhead", "api_overhead")
        },
    }
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
