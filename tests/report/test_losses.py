"""The picture of a run's losses shows what fell, and says what it could not show."""

from __future__ import annotations

import io
from math import exp

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console

from antiphon.report.losses import LossCurve

LOSSES = st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")) | st.just(float("inf")), max_size=60)
FALLING = [2 + 5 * exp(-step / 20) for step in range(100)]


def picture(curve: LossCurve, width: int = 60, encoding: str = "utf-8") -> list[str]:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    Console(file=file, width=width).print(curve)
    file.seek(0)
    return file.read().splitlines()


@example([5e-324], 20, "utf-8")
@given(LOSSES, st.integers(20, 200), st.sampled_from(["utf-8", "ascii"]))
def test_any_losses_fit_the_terminal(losses: list[float], width: int, encoding: str) -> None:
    lines = picture(LossCurve(losses), width, encoding)
    assert all(len(line) <= width for line in lines)


def test_a_loss_that_falls_is_drawn_from_top_left_to_bottom_right() -> None:
    lines = picture(LossCurve(FALLING), encoding="ascii")
    columns = [line.index("*") for line in lines if "*" in line and "training" not in line]
    assert len(columns) == 10
    assert columns == sorted(columns)


def test_the_axes_say_which_losses_and_steps_are_shown() -> None:
    text = "\n".join(picture(LossCurve([7.0, 6.0, 5.25], first_step=20)))
    assert "7 ┤" in text
    assert "5.25 ┤" in text
    assert "step 21" in text
    assert "23\n" in text


def test_validation_losses_are_marked_and_explained() -> None:
    text = "\n".join(picture(LossCurve(FALLING, [(50, 3.0), (100, 2.2)])))
    assert text.count("●") == 3  # two in the picture, one in the legend
    assert "● validation" in text
    assert "validation" not in "\n".join(picture(LossCurve(FALLING)))


@pytest.mark.parametrize(("count", "words"), [(1, "1 step had"), (3, "3 steps had")])
def test_losses_that_are_no_numbers_are_counted(count: int, words: str) -> None:
    lines = picture(LossCurve([*FALLING, *[float("nan")] * count]))
    assert lines[-1] == f"{words} a loss that is no finite number"
