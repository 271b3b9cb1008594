"""One training step of one rank: a list of actions, carried out in order.

Computations run one after another; whatever is not awaited at once overlaps with them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, Final, Protocol

from antiphon.policy.layout.mesh import Place, along, place_of, rank_at
from antiphon.policy.pipeline.action import (
    COMPUTATIONS,
    RECEIVES,
    SENDS,
    Action,
    Kind,
    Slot,
    other_stage,
    slot_of,
)
from antiphon.policy.pipeline.schedule import Schedule, shape_of
from antiphon.program.stage import Stage
from antiphon.spec.plan import Plan
from antiphon.world.handle import Computation, Handle, all_done
from antiphon.world.protocols import Collectives, Device, Group, Mesh, Message, Messages

CHANNEL = "pipeline"  # one for both directions, so that their order is checked together
NONE: Final = -1
EXCHANGE: Final = Kind.EXCHANGE  # to ask an enumeration for a member takes long

_COMPUTATIONS, _SENDS, _RECEIVES = map(frozenset, (COMPUTATIONS, SENDS, RECEIVES))
_message: Final = partial(tuple.__new__, Message)  # `Message._make`, without a call of Python's
_LAST_OF_MICROBATCH = (Kind.BACKWARD, Kind.BACKWARD_WEIGHT)


class StepWorld(Device, Collectives, Messages, Protocol):
    """What a step needs of a world."""


class GroupWorld(Collectives, Mesh, Protocol):
    """What making groups needs of a world."""


@dataclass(frozen=True, slots=True)
class Groups:
    """With whom a rank acts in a step, itself included."""

    data: Group  # who hold the same part of the model
    replica: Group  # who hold one model together
    tied: Group | None = None  # who hold the tied embedding of one model
    holders: Sequence[int] = ()  # of one model's stages, in order: the rank
    mesh: Group | None = None  # all ranks, where some may be lost: they update together


@dataclass(slots=True)
class Attempt:
    """How far a step has come on this rank. A loss may break it off anywhere."""

    computations: list[Computation[None]] = field(default_factory=list)  # asked for, but the update
    ready: Callable[[], Awaitable[None]] | None = None  # what the update waits for, too
    is_complete: bool = False  # whether all gradients are summed, on this rank
    update: Computation[None] | None = None


async def groups_of(
    world: GroupWorld, plan: Plan, schedule: Schedule, tied: bool, recovers: bool = False
) -> Groups:
    """Make the groups of this rank. ``tied``: the model's head is its embedding.

    ``recovers``: losses do not end the run.
    """
    place = place_of(plan, world.rank)
    rank_of = shape_of(schedule).rank_of
    stages = plan.pipeline * shape_of(schedule).stages_per_rank

    places = [rank_of(stage, plan.pipeline) for stage in range(stages)]
    holders = [rank_at(plan, Place(place.tensor, place.data, each)) for each in places]
    ends = sorted({holders[0], holders[-1]})
    return Groups(
        data=await world.group(along(plan, world.rank, "data"), "gradients"),
        replica=await world.group(along(plan, world.rank, "tensor", "pipeline"), "replica"),
        tied=await world.group(ends, "tied") if tied and world.rank in ends else None,
        holders=holders,
        mesh=await world.group(range(plan.ranks), "mesh") if recovers else None,
    )


async def join_tensor_peers(world: GroupWorld, plan: Plan, stage: Stage) -> None:
    """Make the group that computations talk to; before the first of them in a mesh."""
    if plan.tensor > 1:
        stage.regroup(await world.group(along(plan, world.rank, "tensor"), "tensor"))


async def run_actions(
    world: StepWorld,
    groups: Groups,
    stage: Stage,
    actions: Iterable[Action],
    attempt: Attempt | None = None,
) -> None:
    """Carry out ``actions``; return once everything that they began has ended.

    A computation first waits for the message that it works on. A message is posted when its turn
    comes and holds nothing up. A reduction is tied to the milestone at which its bucket is
    complete. The tied embedding's reduction, the norm and the update wait for all before them.
    Where ranks may be lost, none updates before all have come so far: then whoever has not, when
    one is lost, has all that it takes to do so. ``attempt`` is told how far this rank has come.
    """
    step = _Step(world, groups, stage, Attempt() if attempt is None else attempt)
    computations, exchanges = step.computations, step.exchanges
    compute, exchange, work, run = world.compute, world.exchange, stage.work, stage.run
    holders, message = groups.holders, stage.message
    for kind, action, needs, sends, receives in _read(_Same(tuple(actions))):
        if kind is EXCHANGE:
            sent: list[Message] = []  # by loops: in CPython 3.11 a comprehension is a call
            received: list[Message] = []
            for peer, part in sends:
                sent.append(_message((holders[peer], CHANNEL, message(part))))
            for peer, part in receives:
                received.append(_message((holders[peer], CHANNEL, message(part))))
            after = computations[needs] if needs >= 0 else None
            exchanges.append(exchange(sent, received, after))
        elif kind in _COMPUTATIONS:
            if needs >= 0:
                await exchanges[needs]
            computations.append(compute(work(action), run(action)))
        elif kind is Kind.REDUCE:
            complete = computations[needs].milestone(f"bucket {action.bucket}")
            step.reduce(groups.data, stage.gradients(action.bucket), complete)
        else:
            await step.carry_out_alone(action)
    await step.end()


class _Step:
    """What is under way."""

    def __init__(self, world: StepWorld, groups: Groups, stage: Stage, attempt: Attempt) -> None:
        self.computations = attempt.computations
        self._attempt = attempt
        self.exchanges: list[Handle[None]] = []
        self._world = world
        self._groups = groups
        self._stage = stage
        self._ended = 0  # how many of the computations are known to have ended
        self._reducing: list[Handle[None]] = []

    async def carry_out_alone(self, action: Action) -> None:
        """Begin what waits for all before it."""
        await self._reduced()
        if action.kind is Kind.REDUCE_TIED:
            assert self._groups.tied is not None, "a tied embedding is reduced where there is none"
            self.reduce(self._groups.tied, self._stage.tied_gradient)
            return
        if action.kind is Kind.UPDATE:
            await self._update(action)
            return
        assert action.kind is Kind.NORM
        computation = self._world.compute(self._stage.work(action), self._stage.run(action))
        self.computations.append(computation)
        self.reduce(self._groups.replica, self._stage.totals, computation)

    async def _update(self, action: Action) -> None:
        """Update once every rank of the mesh can: one that has not by a loss may do so after it."""
        self._attempt.is_complete = True
        if self._attempt.ready is not None:
            await self._attempt.ready()
        if self._groups.mesh is not None:
            await self._world.barrier(self._groups.mesh)
        self._attempt.update = self._world.compute(
            self._stage.work(action), self._stage.run(action)
        )

    def reduce(self, group: Group, payload: Any, after: Handle[Any] | None = None) -> None:
        """Begin a reduction."""
        self._reducing.append(self._world.all_reduce(group, payload, after=after))

    async def end(self) -> None:
        """Wait for all that is under way."""
        await self._reduced()
        if self._attempt.update is not None:
            await self._attempt.update
        await all_done(self.exchanges)

    async def _reduced(self) -> None:
        """Wait for computations and reductions; of those the first, whose failure says more."""
        await all_done(self.computations[self._ended :])
        self._ended = len(self.computations)
        await all_done(self._reducing)
        self._reducing.clear()


_Parts = tuple[tuple[int, Action], ...]  # (stage at the other end, message)
_Planned = tuple[Kind, Action, int, _Parts, _Parts]
"""An action with what it needs: its kind (EXCHANGE of all that is posted, also of one message), of
a computation which exchange it waits for, of others which computation (or NONE), and what is sent
and received."""


class _Same:
    """A list of actions as a key, by identity: a hash of what it holds takes as long as a step."""

    __slots__ = ("actions",)

    def __init__(self, actions: tuple[Action, ...]) -> None:
        self.actions = actions

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.actions is other.actions

    def __hash__(self) -> int:
        return id(self.actions)


@lru_cache(maxsize=128)  # each step takes the same list; in one process there may be many ranks
def _read(same: _Same) -> tuple[_Planned, ...]:
    """Find what each action needs."""
    return tuple(_planned(same.actions))


def _planned(actions: Sequence[Action]) -> Iterator[_Planned]:
    computations = exchanges = 0
    made: dict[Slot, int] = {}  # which computation makes what is sent
    arriving: dict[Slot, int] = {}  # with which exchange, by the slot of the computation that waits
    last: dict[int, int] = {}  # of each stage, the computation that ended a micro-batch
    for action in actions:
        kind = action.kind
        if kind in _COMPUTATIONS:
            needs = NONE
            if kind is not Kind.BACKWARD_WEIGHT:
                slot = slot_of(action)
                made[slot] = computations
                needs = arriving.pop(slot, NONE)
            if kind in _LAST_OF_MICROBATCH:
                last[action.stage] = computations
            yield kind, action, needs, (), ()
            computations += 1
        elif kind is Kind.EXCHANGE or kind in _SENDS or kind in _RECEIVES:
            parts = action.parts if kind is Kind.EXCHANGE else (action,)
            sends = tuple((other_stage(part), part) for part in parts if part.kind in _SENDS)
            receives = tuple((other_stage(part), part) for part in parts if part.kind in _RECEIVES)
            # computations end in their order: the last one that makes what is sent
            needs = max((made[slot_of(part)] for _, part in sends), default=NONE)
            arriving |= {slot_of(part): exchanges for _, part in receives}
            yield Kind.EXCHANGE, action, needs, sends, receives
            exchanges += 1
        else:
            needs = last[action.stage] if kind is Kind.REDUCE else NONE
            yield kind, action, needs, (), ()
            computations += kind in (Kind.NORM, Kind.UPDATE)
