"""Quantities as people write them (``500ms``, ``0.1%``, ``4/s``, ``16Gi``, ``$2.10/h``) and back.

Parsed values are plain numbers in base units: seconds, fractions, events per second, bytes, US dollars per hour.
A bare number is taken in the base unit only where that cannot mislead: durations and rates need their unit.
"""

from __future__ import annotations

import math
import re

from pytest_llmperf.errors import UnitError

_NUMBER = r"([-+]?(?:\d+(?:[_,]\d{3})*(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?)"
_DURATIONS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_PERIODS = {"s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_BYTES = {
    "": 1,
    "B": 1,
    "k": 10**3,
    "K": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}
_COUNTS = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9, "T": 10**12}
_ENERGIES = {"uJ": 1e-6, "µJ": 1e-6, "mJ": 1e-3, "J": 1.0, "kJ": 1e3, "MJ": 1e6}
_BANDWIDTHS = {"B/s": 1, "MB/s": 10**6, "GB/s": 10**9, "TB/s": 10**12}


def _split(text: object, wanted: str, example: str) -> tuple[float, str]:
    match = re.fullmatch(rf"\s*{_NUMBER}\s*(.*?)\s*", str(text)) if not isinstance(text, bool) else None
    if match is None:
        raise UnitError(f"{text!r} is not {wanted}; write it like {example}")
    return float(match[1].replace("_", "").replace(",", "")), match[2]


def _scaled(text: object, units: dict[str, float] | dict[str, int], wanted: str, example: str) -> float:
    number, unit = _split(text, wanted, example)
    if unit not in units:
        known = ", ".join(u for u in units if u)
        problem = f"has the unknown unit {unit!r}" if unit else "has no unit"
        raise UnitError(f"{text!r} {problem}; {wanted} is written like {example} (units: {known})")
    if not math.isfinite(number) or number < 0:
        raise UnitError(f"{text!r} is not {wanted}: it must be finite and not negative")
    return number * units[unit]


def parse_duration(text: object) -> float:
    """``"500ms"`` -> 0.5 seconds; also ``1m30s``. Raises ``UnitError``, also for a number without a unit."""
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([a-zµ]+)", str(text))
    # '1e3s' looks like two parts as well, but there is no unit 'e'.
    if len(parts) > 1 and all(unit in _DURATIONS for _, unit in parts):
        joined = "".join(number + unit for number, unit in parts)
        if joined == "".join(str(text).split()):
            return sum(parse_duration(number + unit) for number, unit in parts)
    return _scaled(text, _DURATIONS, "a duration", "'500ms', '30s' or '1m30s'")


def parse_rate(text: object) -> float:
    """``"4/s"`` or ``"240/min"`` -> 4.0 per second. Raises ``UnitError``."""
    number, unit = _split(text, "a rate", "'4/s' or '240/min'")
    period = unit.removeprefix("/").strip()
    if not unit.startswith("/") or period not in _PERIODS:
        raise UnitError(f"{text!r} is not a rate; write it like '4/s' or '240/min'")
    if not math.isfinite(number) or number < 0:
        raise UnitError(f"{text!r} is not a rate: it must be finite and not negative")
    return number / _PERIODS[period]


def parse_fraction(text: object) -> float:
    """``"0.1%"`` or ``0.001`` -> 0.001. Raises ``UnitError`` outside 0 to 1."""
    number, unit = _split(text, "a fraction", "'0.1%' or 0.001")
    if unit not in {"", "%"}:
        raise UnitError(f"{text!r} has the unknown unit {unit!r}; a fraction is written like '0.1%' or 0.001")
    value = number / 100 if unit == "%" else number
    if not 0 <= value <= 1:
        raise UnitError(f"{text!r} is not a fraction between 0 and 1 (0% and 100%)")
    return value


def parse_bytes(text: object) -> int:
    """``"16Gi"`` -> 17179869184 bytes; Kubernetes' suffixes. Raises ``UnitError``."""
    return round(_scaled(text, _BYTES, "a size in bytes", "'16Gi' or '80G'"))


def parse_count(text: object) -> float:
    """``"8k"`` or ``8000`` -> 8000.0; ``"8.03B"`` is billions, ``"989T"`` trillions. Raises ``UnitError``."""
    return _scaled(text, _COUNTS, "a count", "'8k', '8.03B' or 8000")


def parse_bandwidth(text: object) -> float:
    """``"3.35TB/s"`` -> 3.35e12 bytes per second. Raises ``UnitError``, also for a number without a unit."""
    return _scaled(text, _BANDWIDTHS, "a bandwidth", "'3.35TB/s' or '864GB/s'")


def parse_usd_per_hour(text: object) -> float:
    """``"$2.10/h"`` -> 2.10. Raises ``UnitError``."""
    return _dollars(text, r"\s*/\s*h", "a price", "'$2.10/h'")


def parse_usd(text: object) -> float:
    """``"$1.20"`` -> 1.20. Raises ``UnitError``."""
    return _dollars(text, "", "an amount of money", "'$1.20'")


def parse_per_hour(text: object) -> float:
    """``"7200/h"``, ``"7.2k/h"`` or ``"2/s"`` -> 7200.0 per hour. Raises ``UnitError``."""
    number, slash, period = str(text).partition("/")
    if not slash or period.strip() not in _PERIODS:
        raise UnitError(f"{text!r} is not a number for each hour; write it like '7200/h' or '7.2k/h'")
    return parse_count(number) / _PERIODS[period.strip()] * _PERIODS["h"]


def parse_per_usd(text: object) -> float:
    """``"450k/$"`` -> 450000.0 for each US dollar. Raises ``UnitError``."""
    number, slash, dollar = str(text).partition("/")
    if not slash or dollar.strip() != "$":
        raise UnitError(f"{text!r} is not a number for each dollar; write it like '450k/$'")
    return parse_count(number)


def parse_energy(text: object) -> float:
    """``"0.4J"`` or ``"400mJ"`` -> 0.4 joules. Raises ``UnitError``, also for a number without a unit."""
    return _scaled(text, _ENERGIES, "an energy", "'0.4J' or '400mJ'")


def _dollars(text: object, per: str, wanted: str, example: str) -> float:
    match = re.fullmatch(rf"\s*\$\s*{_NUMBER}{per}\s*", str(text))
    amount = float(match[1].replace("_", "").replace(",", "")) if match else math.nan
    if not math.isfinite(amount) or amount < 0:
        raise UnitError(f"{text!r} is not {wanted}; write it like {example}")
    return amount


def _significant(value: float, digits: int = 3) -> str:
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def format_duration(seconds: float) -> str:
    """0.0231 -> ``23.1ms``; three significant digits, the unit a reader expects; NaN -> ``-``, infinity -> ``inf``."""
    if not math.isfinite(seconds):
        return "-" if math.isnan(seconds) else str(seconds)
    size = abs(seconds)
    if size >= 60:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes}m{rest:02d}s" if rest else f"{minutes}m"
    # The borders are where three digits would round up to a thousand of the smaller unit.
    if size >= 0.9995 or size == 0:
        return f"{_significant(seconds)}s"
    # 1.5 µs is the finest step anything here is measured in; below it three digits would be noise.
    return f"{_significant(seconds * 1e3)}ms" if size >= 0.9995e-3 else f"{_significant(seconds * 1e6)}us"


def format_fraction(value: float) -> str:
    """0.001 -> ``0.1%``; NaN -> ``-``."""
    return "-" if math.isnan(value) else f"{_significant(value * 100)}%"


def format_number(value: float) -> str:
    """1234.5 -> ``1,234``; three significant digits below a thousand; NaN -> ``-``."""
    if math.isnan(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else _significant(value)


def format_rate(per_s: float) -> str:
    """4.0 -> ``4/s``; NaN -> ``-``."""
    return "-" if math.isnan(per_s) else f"{format_number(per_s)}/s"


def format_usd(amount: float) -> str:
    """1.2 -> ``$1.20``; two significant digits at least: 0.0352 -> ``$0.035``; NaN -> ``-``."""
    if math.isnan(amount):
        return "-"
    # Rounded to two digits first: 0.0996 is $0.10, not $0.100.
    rounded = float(f"{abs(amount):.1e}")
    decimals = 1 - math.floor(math.log10(rounded)) if 0 < rounded < 0.1 else 2
    return f"${amount:,.{decimals}f}"


def format_per_usd(amount: float) -> str:
    """452123.0 -> ``452,123/$``; NaN -> ``-``."""
    return "-" if math.isnan(amount) else f"{format_number(amount)}/$"


def format_per_hour(amount: float) -> str:
    """7200.0 -> ``7,200/h``; NaN -> ``-``."""
    return "-" if math.isnan(amount) else f"{format_number(amount)}/h"


def format_energy(joules: float) -> str:
    """0.4 -> ``0.4J``; three significant digits below a thousand; NaN -> ``-``."""
    return "-" if math.isnan(joules) else f"{format_number(joules)}J"


def format_bytes(size: float) -> str:
    """17179869184 -> ``16Gi``."""
    for unit in ("", "Ki", "Mi", "Gi"):
        if abs(size) < 1024:
            return f"{_significant(size)}{unit}"
        size /= 1024
    return f"{_significant(size)}Ti"
