"""Sums whose order is ruled, so that equal inputs give equal bits on any number of ranks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import iadd
from typing import TypeVar

Array = TypeVar("Array")  # of NumPy or torch


def ordered_sum(parts: Sequence[Array]) -> Array:
    """Add up ``parts``, all of one shape, from the first to the last, into the first."""
    return reduce(iadd, parts)
