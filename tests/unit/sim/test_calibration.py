"""The simulator against published measurements: the engine is run under each row's load in virtual time."""

from __future__ import annotations

import pytest

from .calibration import ROWS, Row


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_tpot_of_a_measured_row(row: Row) -> None:
    assert row.simulated_tpot_ms() == pytest.approx(row.measured_tpot_ms, rel=row.bound)


def test_mean_absolute_error_is_at_most_ten_percent() -> None:
    errors = {row.name: row.simulated_tpot_ms() / row.measured_tpot_ms - 1 for row in ROWS}
    mean = sum(map(abs, errors.values())) / len(errors)
    for row in ROWS:
        print(f"\n{row.name:46} {row.measured_tpot_ms:7.2f} ms measured, {errors[row.name]:+6.1%}", end="")
    print(f"\n{len(ROWS)} rows: mean absolute TPOT error {mean:.1%}, bias {sum(errors.values()) / len(errors):+.1%}")
    assert mean <= 0.10, "\n".join(f"{name}: {error:+.1%}" for name, error in errors.items())
