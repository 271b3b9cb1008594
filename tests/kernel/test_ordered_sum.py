"""Sums in rank order: the same bits in NumPy and torch, on any number of ranks."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from antiphon.kernel.ordered_sum import ordered_sum

floats = st.floats(-1e6, 1e6, width=32)
parts = array_shapes(max_dims=2, max_side=4).flatmap(
    lambda shape: st.lists(arrays(np.float32, shape, elements=floats), min_size=1, max_size=5)
)


@given(parts=parts)
def test_it_is_a_loop_from_the_first_to_the_last(parts: list[NDArray[np.float32]]) -> None:
    expected = parts[0].copy()
    for part in parts[1:]:
        expected = expected + part
    torch_sum = ordered_sum([torch.from_numpy(part.copy()) for part in parts])
    assert torch_sum.numpy().tobytes() == expected.tobytes()
    assert ordered_sum(parts).tobytes() == expected.tobytes()


def test_order_decides_the_bits() -> None:
    values = [np.float32([1e8]), np.float32([1.0]), np.float32([-1e8])]
    assert ordered_sum([value.copy() for value in values]) == 0.0
    assert ordered_sum([values[0], values[2], values[1]]) == 1.0


def test_the_sum_is_taken_in_the_first_part() -> None:
    first = np.ones(3)
    assert ordered_sum([first, np.ones(3)]) is first
