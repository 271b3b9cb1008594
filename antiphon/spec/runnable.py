"""What can be planned for but not run yet, on the machine at hand."""

from __future__ import annotations

from collections.abc import Iterator

from antiphon.errors import Mistake
from antiphon.spec.job import PlanPins

RUNNABLE_PRECISIONS = ("float64", "float32", "bfloat16")


def not_runnable(use: str, precision: str | None, pins: PlanPins) -> Iterator[Mistake]:
    """Yield what keeps a job with these keys from being run. Keys are dotted, places unknown."""
    if use != "local":
        yield Mistake(
            "cluster.use",
            f"`{use}` can be planned for, but is not the machine at hand",
            'use "local" to train here, or `antiphon plan` to plan for it',
        )
    if precision is not None and precision not in RUNNABLE_PRECISIONS:
        yield Mistake(
            "train.precision",
            f"`{precision}` can be planned for, but not trained in yet",
            f"use {', '.join(RUNNABLE_PRECISIONS[:-1])} or {RUNNABLE_PRECISIONS[-1]}",
        )
    for key, degree in (("tensor", pins.tensor), ("pipeline", pins.pipeline)):
        if degree is not None and degree > 1:
            yield Mistake(
                f"plan.{key}",
                f"{degree} can be planned for a cluster, but not run yet",
                "use 1, or delete the line: processes train by data parallelism",
            )
