"""Passes: from the computations that a schedule yields to all that one rank does in a step."""

from __future__ import annotations

from antiphon.policy.pipeline.action import Action, Kind, Schedule


def training_step(
    schedule: Schedule, stage: int, stages: int, microbatches: int, buckets: int
) -> tuple[Action, ...]:
    """Return one rank's step: the schedule's computations, reductions of gradients, the update."""
    computations = tuple(schedule(stage, stages, microbatches))
    return (*computations, *reductions(stage, buckets), Action(Kind.UPDATE, stage))


def reductions(stage: int, buckets: int) -> tuple[Action, ...]:
    """Return the reduction of each bucket.

    They stand behind the last backward in the list and are tied to its milestones, so that they
    start inside it: gradients are complete only in the backward that comes last.
    """
    return tuple(Action(Kind.REDUCE, stage, bucket=bucket) for bucket in range(buckets))
