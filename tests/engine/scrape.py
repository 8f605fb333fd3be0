"""Reading /metrics: families and labels, counters, and what a histogram has taken between two scrapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families

from pytest_llmperf.deploy.base import Endpoint

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Scrape:
    """One page: each sample's value by its name and labels, and each family's type and help text."""

    samples: Mapping[tuple[str, Labels], float]
    families: Mapping[str, tuple[str, str]]

    def total(self, name: str, **labels: str) -> float:
        """The sum of a name's samples that have these labels."""
        wanted = set(labels.items())
        return sum(value for (each, have), value in self.samples.items() if each == name and wanted <= set(have))

    def labels_of(self, name: str) -> set[Labels]:
        """The label sets a name has."""
        return {labels for each, labels in self.samples if each == name}


@dataclass(frozen=True)
class Taken:
    """What a histogram took: ``bounds`` are the buckets' upper ends, ``below`` how many were at most that."""

    count: float
    total: float
    bounds: tuple[float, ...]
    below: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean of what was observed, exactly."""
        return self.total / self.count

    def bucket_of(self, quantile: float) -> tuple[float, float]:
        """Between which bounds the quantile lies: all that a histogram tells of it."""
        index = next(index for index, below in enumerate(self.below) if below >= quantile * self.count)
        return (self.bounds[index - 1] if index else 0.0, self.bounds[index])


def scrape(endpoint: Endpoint) -> Scrape:
    """The server's metrics now."""
    page = httpx.get(f"{endpoint.base_url}/metrics", trust_env=False, timeout=10.0).raise_for_status().text
    samples, families = {}, {}
    for family in text_string_to_metric_families(page):
        families[family.name] = (family.type, family.documentation)
        for sample in family.samples:
            samples[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return Scrape(samples, families)


def taken(before: Scrape, after: Scrape, histogram: str) -> Taken:
    """What a histogram (``vllm:time_to_first_token_seconds``) took between two scrapes."""

    def grown(name: str, **labels: str) -> float:
        return after.total(name, **labels) - before.total(name, **labels)

    edges = sorted({dict(labels)["le"] for labels in after.labels_of(f"{histogram}_bucket")}, key=float)
    return Taken(
        count=grown(f"{histogram}_count"),
        total=grown(f"{histogram}_sum"),
        bounds=tuple(float(edge) for edge in edges),
        below=tuple(grown(f"{histogram}_bucket", le=edge) for edge in edges),
    )
