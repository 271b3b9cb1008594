"""The learning rate: up in a line, down half a cosine."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.program.learning_rate import cosine_with_warmup

schedules = st.tuples(st.integers(0, 30), st.integers(2, 200), st.floats(0.0, 1.0))


@given(schedule=schedules)
def test_it_rises_to_its_peak_then_falls_to_its_minimum(
    schedule: tuple[int, int, float],
) -> None:
    warmup, decaying, minimum = schedule
    steps = warmup + decaying
    rates = [cosine_with_warmup(step, steps, warmup, 2.0, minimum) for step in range(steps)]
    rising, falling = rates[:warmup], rates[warmup:]
    assert rising == sorted(rising)
    assert all(rate > 0.0 for rate in rising)
    assert falling == sorted(falling, reverse=True)
    assert falling[0] == pytest.approx(2.0)
    assert falling[-1] == pytest.approx(2.0 * minimum)


def test_warm_up_reaches_the_peak_with_its_last_step() -> None:
    rates = [cosine_with_warmup(step, 100, 4, 1.0, 0.1) for step in range(5)]
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_it_is_half_way_down_in_the_middle() -> None:
    assert cosine_with_warmup(50, 101, 0, 1.0, 0.2) == pytest.approx(0.6)


def test_no_run_is_too_short() -> None:
    assert cosine_with_warmup(0, 1, 0, 3.0, 0.1) == 3.0
    assert cosine_with_warmup(0, 1, 5, 3.0, 0.1) == pytest.approx(0.6)
