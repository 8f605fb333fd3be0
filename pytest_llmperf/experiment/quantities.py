"""Types of YAML fields written with units: pydantic calls the parser, the record holds a number in base units."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator

from pytest_llmperf import units

Seconds = Annotated[float, BeforeValidator(units.parse_duration)]
PerSecond = Annotated[float, BeforeValidator(units.parse_rate)]
Fraction = Annotated[float, BeforeValidator(units.parse_fraction)]
Bytes = Annotated[int, BeforeValidator(units.parse_bytes)]
Count = Annotated[float, BeforeValidator(units.parse_count)]
BytesPerSecond = Annotated[float, BeforeValidator(units.parse_bandwidth)]
UsdPerHour = Annotated[float, BeforeValidator(units.parse_usd_per_hour)]
