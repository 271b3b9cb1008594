"""Sums whose order is ruled, so that equal inputs give equal bits on any number of ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self, TypeVar


class Summable(Protocol):
    """An array of NumPy or torch, added to in place."""

    def __iadd__(self, other: Self, /) -> Self:
        """Add ``other`` element by element."""


Array = TypeVar("Array", bound=Summable)


def ordered_sum(parts: Sequence[Array]) -> Array:
    """Add up ``parts``, all of one shape, from the first to the last, into the first."""
    total = parts[0]
    for part in parts[1:]:
        total += part
    return total
