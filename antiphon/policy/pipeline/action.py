"""What a rank does in one step: computations, messages, reductions, the update.

A schedule yields computations only; passes add what follows from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What is done. Values are those of torch.distributed.pipelining where it has the kind."""

    FORWARD = "F"
    BACKWARD = "B"  # gradients of inputs and of weights at once
    BACKWARD_INPUT = "I"  # of inputs only; its weights' gradients come later, in BACKWARD_WEIGHT
    BACKWARD_WEIGHT = "W"
    SEND_FORWARD = "SEND_F"  # what the stage made, to the stage after it
    RECEIVE_FORWARD = "RECV_F"  # what the stage works on, from the stage before it
    SEND_BACKWARD = "SEND_B"  # the gradient of the stage's input, to the stage before it
    RECEIVE_BACKWARD = "RECV_B"  # the gradient of the stage's output, from the stage after it
    EXCHANGE = "EXCHANGE"  # opposite messages between two ranks, posted as one
    REDUCE = "R"  # the gradients of one bucket, over the data-parallel ranks
    REDUCE_TIED = "T"  # the tied embedding's gradient, over the first and the last stage
    NORM = "N"  # the gradients' square norm and the loss, over all ranks of one replica
    UPDATE = "U"  # the optimizer's step

    __hash__ = object.__hash__  # a member is one object; Enum's own hash is slow


COMPUTATIONS = (Kind.FORWARD, Kind.BACKWARD, Kind.BACKWARD_INPUT, Kind.BACKWARD_WEIGHT)
SENDS = (Kind.SEND_FORWARD, Kind.SEND_BACKWARD)
RECEIVES = (Kind.RECEIVE_FORWARD, Kind.RECEIVE_BACKWARD)

Slot = tuple[bool, int, int]  # forward or backward, stage, micro-batch

_OF_MICROBATCH = frozenset({*COMPUTATIONS, *SENDS, *RECEIVES})
_FORWARDS = (Kind.FORWARD, Kind.SEND_FORWARD, Kind.RECEIVE_FORWARD)
_ONWARD = (Kind.SEND_FORWARD, Kind.RECEIVE_BACKWARD)  # messages with the stage after


@dataclass(frozen=True, slots=True)
class Action:
    """One entry of a rank's program. A number that the kind does not need is 0.

    ``stage`` counts over the whole pipeline: of a rank that holds several, it says which.
    """

    kind: Kind
    stage: int
    microbatch: int = 0
    bucket: int = 0
    parts: tuple[Action, ...] = ()  # of an EXCHANGE: its sends, then its receives

    def __str__(self) -> str:
        """``3SEND_F5``: stage, kind, micro-batch, as torch.distributed.pipelining writes them."""
        if self.kind is Kind.EXCHANGE:
            return f"({';'.join(map(str, self.parts))}){self.kind.value}"
        if self.kind in _OF_MICROBATCH:
            return f"{self.stage}{self.kind.value}{self.microbatch}"
        bucket = self.bucket if self.kind is Kind.REDUCE else ""
        return f"{self.stage}{self.kind.value}{bucket}"


def slot_of(action: Action) -> Slot:
    """Return what a computation and the messages that it makes or works on have in common."""
    return action.kind in _FORWARDS, action.stage, action.microbatch


def other_stage(message: Action) -> int:
    """Return the stage at the other end of a message."""
    return message.stage + 1 if message.kind in _ONWARD else message.stage - 1


def forward(stage: int, microbatch: int) -> Action:
    """The forward of one micro-batch through a stage."""
    return Action(Kind.FORWARD, stage, microbatch)


def backward(stage: int, microbatch: int) -> Action:
    """The whole backward of one micro-batch: gradients of inputs and of weights."""
    return Action(Kind.BACKWARD, stage, microbatch)


def backward_input(stage: int, microbatch: int) -> Action:
    """The part of a backward that the stage before waits for."""
    return Action(Kind.BACKWARD_INPUT, stage, microbatch)


def backward_weight(stage: int, microbatch: int) -> Action:
    """The part of a backward that nobody waits for: gradients of weights."""
    return Action(Kind.BACKWARD_WEIGHT, stage, microbatch)
