"""What a rank does in one step, and what a pipeline schedule is.

A schedule yields computations only; passes add what follows from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar


class Kind(Enum):
    """What is done."""

    FORWARD = "F"
    BACKWARD = "B"
    REDUCE = "R"  # the gradients of one bucket, over the data-parallel ranks
    UPDATE = "U"  # the optimizer's step


@dataclass(frozen=True, slots=True)
class Action:
    """One entry of a rank's program. A number that the kind does not need is 0."""

    kind: Kind
    stage: int
    microbatch: int = 0
    bucket: int = 0


def forward(stage: int, microbatch: int) -> Action:
    """The forward of one micro-batch through a stage."""
    return Action(Kind.FORWARD, stage, microbatch)


def backward(stage: int, microbatch: int) -> Action:
    """The whole backward of one micro-batch: gradients of inputs and of weights."""
    return Action(Kind.BACKWARD, stage, microbatch)


Schedule = Callable[[int, int, int], Iterator[Action]]
"""``schedule(stage, stages, microbatches)`` yields the computations of one stage in order."""

Held = Callable[[int, int, int], int]
"""``held(stage, stages, microbatches)``: most micro-batches whose activations live at once."""

_held: dict[object, Held] = {}
SomeSchedule = TypeVar("SomeSchedule", bound=Schedule)


def holds(closed_form: Held) -> Callable[[SomeSchedule], SomeSchedule]:
    """State beside a schedule how many micro-batches it holds, so that it need not be counted."""

    def note(schedule: SomeSchedule) -> SomeSchedule:
        _held[schedule] = closed_form
        return schedule

    return note


def held(schedule: Schedule, stage: int, stages: int, microbatches: int) -> int:
    """Return how many micro-batches' activations live at once, at most, on ``stage``."""
    closed_form = _held.get(schedule)
    if closed_form is None:
        return counted_held(schedule, stage, stages, microbatches)
    return closed_form(stage, stages, microbatches)


def counted_held(schedule: Schedule, stage: int, stages: int, microbatches: int) -> int:
    """Return the same by going through the schedule: slow, and right for any."""
    now = most = 0
    for action in schedule(stage, stages, microbatches):
        if action.kind is Kind.FORWARD:
            now += 1
            most = max(most, now)
        elif action.kind is Kind.BACKWARD:
            now -= 1
    return most
