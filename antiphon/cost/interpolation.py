"""Times between measured ones. Time is linear in size; in its logarithm it is not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray


def linear(size: NDArray[Any], known: Iterable[tuple[float, float]]) -> NDArray[np.float64]:
    """Return seconds at ``size``, linear between known (size, seconds) and beyond the greatest.

    Below the least known size time stays what it is there; from a single one it is proportional.
    """
    sizes, seconds = (np.array(column, np.float64) for column in zip(*sorted(known), strict=True))
    if len(sizes) == 1:
        return np.asarray(size / sizes[0] * seconds[0])
    slope = max(0.0, (seconds[-1] - seconds[-2]) / (sizes[-1] - sizes[-2]))
    beyond = np.maximum(size - sizes[-1], 0) * slope
    return np.asarray(np.interp(size, sizes, seconds) + beyond)


def nearby(
    sizes: NDArray[Any], known_sizes: NDArray[Any], known: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return a rate at ``sizes`` (..., axes) from known ones, weighted by nearness.

    Shepard's method (1968) on logarithms of sizes and rates: exact at the known sizes, between the
    least and the greatest known rate elsewhere.
    """
    there = np.log2(np.maximum(known_sizes, 1))
    here = np.log2(np.maximum(sizes, 1))
    distance = ((here[..., None, :] - there) ** 2).sum(axis=-1)
    weight = 1 / (distance + 1e-12) ** 2
    return np.asarray(np.exp((weight * np.log(known)).sum(axis=-1) / weight.sum(axis=-1)))
