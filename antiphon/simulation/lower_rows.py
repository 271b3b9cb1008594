"""From a rank's list of actions to rows of integers: ``program.step`` as a static program.

Rows stand for what ``run_actions`` asks of its world, in the same order and with the same numbers,
so that the row engine does what the coroutines do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from antiphon.cost.price import Priced
from antiphon.cost.work import Work
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
from antiphon.program.stage import Stage
from antiphon.world.simulated.rows import NONE, Compute, Post, Reduce, Row, Rows, Settle, Tied

DATA, REPLICA, TIED = range(3)
"""Which group a reduction is of: places in ``RankRows.groups``."""


def lower_rows(
    actions: Sequence[Action],
    stage: Stage,
    price: Callable[[Work], Priced],
    holder: Callable[[int], int],
) -> tuple[Rows, tuple[int, ...]]:
    """Return the rows of one step, and for each of their channels who is at its other end.

    ``holder`` says that of the stages of a pipeline, in whatever terms the caller wants it back.
    """
    lowering = _Lowering(stage, price, holder)
    for position, action in enumerate(actions):
        lowering.add(action, actions, position)
    lowering.rows.append(Settle(is_end=True))
    rows = Rows(tuple(lowering.rows), tuple(lowering.names), tuple(lowering.computations))
    return rows, tuple(lowering.channels)


class _Lowering:
    def __init__(
        self, stage: Stage, price: Callable[[Work], Priced], holder: Callable[[int], int]
    ) -> None:
        self.rows: list[Row] = []
        self.names: list[str] = []
        self.channels: dict[int, int] = {}  # number by who is at the other end
        self._stage = stage
        self._price = price
        self._holder = holder
        self.computations: list[int] = []  # numbers of those of micro-batches
        self._begun = 0  # computations
        self._posts = 0
        self._made: dict[Slot, int] = {}  # computation that makes what is sent
        self._arriving: dict[Slot, int] = {}  # post that a computation waits for

    def add(self, action: Action, actions: Sequence[Action], position: int) -> None:
        """Lower one action."""
        kind = action.kind
        if kind is Kind.REDUCE:
            self._number(str(action))  # its row stands inside its computation's
        elif kind in COMPUTATIONS:
            self._compute(action, actions, position)
        elif kind is Kind.EXCHANGE:
            self._post(action, action.parts)
        elif kind in SENDS or kind in RECEIVES:
            self._post(action, (action,))
        else:
            self.rows.append(Settle(is_end=False))
            self._last(action)

    def _compute(self, action: Action, actions: Sequence[Action], position: int) -> None:
        slot = slot_of(action)
        awaited = NONE
        if action.kind is not Kind.BACKWARD_WEIGHT:
            self._made[slot] = self._begun
            awaited = self._arriving.pop(slot, NONE)
        priced = self._price(self._stage.work(action))
        number = self._number(str(action))
        self.computations.append(number)
        self._begun += 1
        offsets = {name: offset for offset, name in priced.milestones}
        tied = []
        ahead = number
        for following in actions[position + 1 :]:
            if following.kind in COMPUTATIONS:
                break
            ahead += 1
            if following.kind is Kind.REDUCE:
                nbytes = self._stage.gradients(following.bucket).nbytes
                tied.append(Tied(ahead, offsets[f"bucket {following.bucket}"], DATA, nbytes))
        self.rows.append(Compute(number, priced.nanoseconds, awaited, tuple(tied)))

    def _post(self, action: Action, parts: Sequence[Action]) -> None:
        sends = [part for part in parts if part.kind in SENDS]
        sizes: dict[int, tuple[list[int], list[int]]] = {}
        for part in parts:
            holder = self._holder(other_stage(part))
            channel = self.channels.setdefault(holder, len(self.channels))
            both = sizes.setdefault(channel, ([], []))
            both[part.kind in RECEIVES].append(self._stage.message(part).nbytes)
            if part.kind in RECEIVES:
                self._arriving[slot_of(part)] = self._posts
        self.rows.append(
            Post(
                number=self._number(str(action)),
                parts=tuple(
                    (channel, (tuple(sent), tuple(received)))
                    for channel, (sent, received) in sizes.items()
                ),
                maker=max((self._made[slot_of(send)] for send in sends), default=NONE),
                place=self._posts,
                nbytes=sum(sum(sent) for sent, _ in sizes.values()),
            )
        )
        self._posts += 1

    def _last(self, action: Action) -> None:
        """What ends a step: the tied embedding's reduction, the norm and its sum, the update."""
        if action.kind is Kind.REDUCE_TIED:
            nbytes = self._stage.tied_gradient.nbytes
            self.rows.append(Reduce(self._number(str(action)), TIED, nbytes, False))
            return
        priced = self._price(self._stage.work(action))
        number = self._number(str(action))
        self.rows.append(Compute(number, priced.nanoseconds, NONE, ()))
        self._begun += 1
        if action.kind is Kind.NORM:
            nbytes = self._stage.totals.nbytes
            self.rows.append(Reduce(self._number(f"{action} sum"), REPLICA, nbytes, True))

    def _number(self, name: str) -> int:
        """Number the next action, from 1."""
        self.names.append(name)
        return len(self.names)
