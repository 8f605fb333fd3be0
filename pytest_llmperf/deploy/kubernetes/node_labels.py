"""What a node's labels say of its accelerator and of the driver."""

from __future__ import annotations

from collections.abc import Mapping

from pytest_llmperf.experiment.records import Cell

PRODUCT_LABELS = ("nvidia.com/gpu.product", "cloud.google.com/gke-accelerator")
"""On a node: its accelerator, the more exact first. The cell's platform has a label of its own before these."""
DRIVER_LABELS = ("nvidia.com/cuda.driver-version.full", "nvidia.com/gpu-driver-version")
DRIVER_PARTS = ("nvidia.com/cuda.driver.major", "nvidia.com/cuda.driver.minor", "nvidia.com/cuda.driver.rev")


def accelerator(cell: Cell, labels: Mapping[str, str], *, simulated: bool) -> str | None:
    """``4 x NVIDIA-H100-80GB-HBM3``, as the node names it; None where it does not."""
    names = (cell.platform.accelerator_label, *PRODUCT_LABELS)
    named = next((labels[name] for name in names if labels.get(name)), None)
    if named is None:
        return None
    count = f"{cell.hardware.count} x " if cell.hardware.count > 1 else ""
    return f"{count}{named}{' (simulated)' if simulated else ''}"


def driver(labels: Mapping[str, str]) -> str | None:
    """The accelerator's driver as the node's labels have it, whole or in parts; None where they do not."""
    if (whole := next((labels[name] for name in DRIVER_LABELS if labels.get(name)), None)) is not None:
        return whole
    parts = [labels[name] for name in DRIVER_PARTS if labels.get(name)]
    return ".".join(parts) or None
