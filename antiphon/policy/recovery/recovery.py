"""What a recovery rule is told, and what it may decide. The supervisor of either world asks it.

A *member* is a process, by a number that it keeps for as long as it lives: the process that takes
a dead one's place takes its number, too. A *rank* is a place in the mesh of one epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

Outcome = Literal["finished", "recovered", "reported"]
"""Of a run: recovered, to its end, from losses; reported, with why it did not come there."""


@dataclass(frozen=True, slots=True)
class Loss:
    """Members were lost, and the mesh of ``epoch`` is broken."""

    epoch: int
    members: tuple[int, ...]  # of the broken mesh, by rank
    lost: tuple[int, ...]  # members, a subset
    spares: tuple[int, ...]  # members that are alive and had no rank
    axes: Mapping[str, int]  # of the broken mesh: data, tensor, pipeline
    first_axes: Mapping[str, int]  # of the first mesh, in which each member's number was its rank
    losses: int  # of members since the run began, these included
    steps: int  # the most that any member has told to be done
    steps_at_last_loss: int  # what that was when members were lost before; 0 at first
    losses_without_progress: int = 0
    """How often a rule was asked since ``steps`` last grew, this time included: members that are
    lost at once count once."""


@dataclass(frozen=True, slots=True)
class Formation:
    """The mesh of the next epoch."""

    members: tuple[int, ...]  # by rank
    axes: Mapping[str, int]  # their product is the number of members
    restarted: tuple[int, ...] = ()  # of the members those that are started anew
    spares: tuple[int, ...] = ()  # alive, without a rank: they wait


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The run ends here."""

    reason: str


Verdict = Formation | GiveUp


class RecoveryRule(Protocol):
    """A policy of ``policy/recovery/``: a frozen dataclass of its parameters."""

    def decide(self, loss: Loss) -> Verdict:
        """Return what becomes of the run."""


@dataclass(frozen=True, slots=True)
class Reformed:
    """What a member learns of its new epoch."""

    epoch: int
    rank: int | None  # None: a spare, which has nothing to do but to await the next reform
    members: tuple[int, ...] = ()  # by rank
    axes: Mapping[str, int] = field(default_factory=dict)
    is_finished: bool = False  # some member has ended its program: there is nothing left to do
