"""Quantities: what people write is read exactly, what is printed is read back, and what is wrong is said."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmperf import units
from pytest_llmperf.errors import UnitError


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (units.parse_duration, "500ms", 0.5),
        (units.parse_duration, "1m30s", 90.0),
        (units.parse_duration, "1h 5m", 3900.0),
        (units.parse_duration, " 2 s ", 2.0),
        (units.parse_duration, "250us", 250e-6),
        (units.parse_duration, "250µs", 250e-6),
        (units.parse_duration, "1.5min", 90.0),
        (units.parse_duration, "1e3s", 1000.0),
        (units.parse_rate, "4/s", 4.0),
        (units.parse_rate, "240/min", 4.0),
        (units.parse_rate, "0.5 / s", 0.5),
        (units.parse_rate, "1,800/h", 0.5),
        (units.parse_fraction, "0.1%", 0.001),
        (units.parse_fraction, 0.25, 0.25),
        (units.parse_fraction, "100%", 1.0),
        (units.parse_bytes, "16Gi", 16 * 2**30),
        (units.parse_bytes, "80G", 80 * 10**9),
        (units.parse_bytes, "79.2Gi", round(79.2 * 2**30)),
        (units.parse_bytes, 1024, 1024),
        (units.parse_count, "8k", 8000.0),
        (units.parse_count, "8.03B", 8.03e9),
        (units.parse_count, "989T", 989e12),
        (units.parse_count, "128_256", 128256.0),
        (units.parse_bandwidth, "3.35TB/s", 3.35e12),
        (units.parse_bandwidth, "864GB/s", 864e9),
        (units.parse_usd_per_hour, "$2.10/h", 2.10),
        (units.parse_usd_per_hour, "$1,000/h", 1000.0),
        (units.parse_usd, "$1.20", 1.20),
        (units.parse_per_hour, "2/s", 7200.0),
        (units.parse_per_hour, "1M/h", 1e6),
        (units.parse_per_hour, "7.2k / min", 432_000.0),
        (units.parse_per_usd, "450k/$", 450_000.0),
        (units.parse_per_usd, "3 / $", 3.0),
        (units.parse_energy, "400mJ", 0.4),
        (units.parse_energy, "2kJ", 2000.0),
    ],
)
def test_reads_what_people_write(parse: Callable[[object], float], text: object, value: float) -> None:
    assert parse(text) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (units.parse_duration, "500", "'500' has no unit; a duration is written like '500ms', '30s' or '1m30s' "),
        (units.parse_duration, "5 sec", "'5 sec' has the unknown unit 'sec'; a duration is written like "),
        (units.parse_duration, "soon", "'soon' is not a duration; write it like '500ms', '30s' or '1m30s'"),
        (units.parse_duration, True, "True is not a duration; write it like "),
        (units.parse_duration, None, "None is not a duration; write it like "),
        (units.parse_duration, "-1s", "'-1s' is not a duration: it must be finite and not negative"),
        (units.parse_duration, "1e999s", "'1e999s' is not a duration: it must be finite and not negative"),
        (units.parse_rate, "4", "'4' is not a rate; write it like '4/s' or '240/min'"),
        (units.parse_rate, "4/day", "'4/day' is not a rate; write it like '4/s' or '240/min'"),
        (units.parse_rate, "-4/s", "'-4/s' is not a rate: it must be finite and not negative"),
        (units.parse_fraction, "5", "'5' is not a fraction between 0 and 1 (0% and 100%)"),
        (units.parse_fraction, "101%", "'101%' is not a fraction between 0 and 1 (0% and 100%)"),
        (units.parse_fraction, "1‰", "'1‰' has the unknown unit '‰'; a fraction is written like '0.1%' or 0.001"),
        (units.parse_bytes, "16GB", "'16GB' has the unknown unit 'GB'; a size in bytes is written like '16Gi' or '80G' "),
        (units.parse_count, "8 dozen", "'8 dozen' has the unknown unit 'dozen'; a count is written like "),
        (units.parse_bandwidth, "3350", "'3350' has no unit; a bandwidth is written like '3.35TB/s' or '864GB/s' "),
        (units.parse_usd_per_hour, "2.10", "'2.10' is not a price; write it like '$2.10/h'"),
        (units.parse_usd_per_hour, "$-2/h", "'$-2/h' is not a price; write it like '$2.10/h'"),
        (units.parse_usd, "1.20", "'1.20' is not an amount of money; write it like '$1.20'"),
        (units.parse_per_hour, "7200", "'7200' is not a number for each hour; write it like '7200/h' or '7.2k/h'"),
        (units.parse_per_hour, "7200/day", "'7200/day' is not a number for each hour; write it like '7200/h' or '7.2k/h'"),
        (units.parse_per_hour, "-1/h", "'-1' is not a count: it must be finite and not negative"),
        (units.parse_per_usd, "450k", "'450k' is not a number for each dollar; write it like '450k/$'"),
        (units.parse_per_usd, "450k/€", "'450k/€' is not a number for each dollar; write it like '450k/$'"),
        (units.parse_energy, "1Wh", "'1Wh' has the unknown unit 'Wh'; an energy is written like '0.4J' or '400mJ'"),
    ],
)
def test_says_what_is_wrong(parse: Callable[[object], float], text: object, message: str) -> None:
    with pytest.raises(UnitError) as caught:
        parse(text)
    assert str(caught.value).startswith(message)


NUMBERS = st.floats(min_value=1e-6, max_value=1e6)


@given(NUMBERS)
def test_durations_are_read_back_to_three_digits(seconds: float) -> None:
    shown = units.format_duration(seconds)
    # A minute and more is shown in whole seconds.
    assert units.parse_duration(shown) == pytest.approx(seconds, rel=6e-3, abs=0.6 if seconds > 59 else 0)


@given(st.floats(min_value=1e-3, max_value=1e6))
def test_rates_are_read_back_to_three_digits(per_s: float) -> None:
    assert units.parse_rate(units.format_rate(per_s)) == pytest.approx(per_s, rel=6e-3)


@given(st.floats(min_value=1e-6, max_value=1))
def test_fractions_are_read_back_to_three_digits(value: float) -> None:
    assert units.parse_fraction(units.format_fraction(value)) == pytest.approx(value, rel=6e-3)


@given(st.integers(min_value=0, max_value=2**49))
def test_sizes_are_read_back_to_three_digits(size: int) -> None:
    assert units.parse_bytes(units.format_bytes(size)) == pytest.approx(size, rel=6e-3)


@given(st.floats(min_value=0, max_value=1e6))
def test_money_is_read_back_to_the_cent(amount: float) -> None:
    assert units.parse_usd(units.format_usd(amount)) == pytest.approx(amount, abs=0.0051)


@given(st.text(max_size=12))
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in (
        units.parse_duration,
        units.parse_rate,
        units.parse_fraction,
        units.parse_bytes,
        units.parse_count,
        units.parse_bandwidth,
        units.parse_usd_per_hour,
        units.parse_usd,
        units.parse_per_hour,
        units.parse_per_usd,
        units.parse_energy,
    ):
        try:
            value = parse(text)
        except UnitError:
            continue
        assert math.isfinite(value)
        assert value >= 0


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (units.format_duration(0.0231), "23.1ms"),
        (units.format_duration(1.5e-6), "1.5us"),
        (units.format_duration(0), "0s"),
        (units.format_duration(0.99951), "1s"),
        (units.format_duration(0.99949), "999ms"),
        (units.format_duration(0.00099951), "1ms"),
        (units.format_duration(90), "1m30s"),
        (units.format_duration(120), "2m"),
        (units.format_duration(math.nan), "-"),
        (units.format_fraction(0.001), "0.1%"),
        (units.format_fraction(math.nan), "-"),
        (units.format_number(1234.5), "1,234"),
        (units.format_number(math.nan), "-"),
        (units.format_rate(4), "4/s"),
        (units.format_usd(1.2), "$1.20"),
        (units.format_usd(math.nan), "-"),
        (units.format_usd(0.0352), "$0.035"),
        (units.format_usd(0.0996), "$0.10"),
        (units.format_usd(0.0), "$0.00"),
        (units.format_per_usd(452_123.4), "452,123/$"),
        (units.format_per_usd(math.nan), "-"),
        (units.format_per_hour(7200.0), "7,200/h"),
        (units.format_per_hour(math.nan), "-"),
        (units.format_energy(0.4), "0.4J"),
        (units.format_energy(math.nan), "-"),
        (units.format_bytes(16 * 2**30), "16Gi"),
        (units.format_bytes(3 * 2**40), "3Ti"),
    ],
)
def test_is_shown_as_people_write_it(shown: str, expected: str) -> None:
    assert shown == expected
