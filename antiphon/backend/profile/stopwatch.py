"""Times of repeated computations, robust to what else the machine does."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

MINIMUM_REPEATS = 3


def repeated_seconds(run: Callable[[], object], budget_seconds: float) -> list[float]:
    """Run once unmeasured, then at least three times and for about ``budget_seconds``."""
    run()
    times: list[float] = []
    end = time.perf_counter() + budget_seconds
    while len(times) < MINIMUM_REPEATS or time.perf_counter() < end:
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return times


def median(times: list[float]) -> float:
    """Return the middle one."""
    return float(np.median(times))


def spread(times: list[float]) -> float:
    """Return (third quartile - first quartile) / median."""
    first, middle, third = np.quantile(times, (0.25, 0.5, 0.75))
    return float((third - first) / middle)
