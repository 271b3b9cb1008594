"""Collectives of the simulated world: they begin when all members are ready, in order of issue."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from antiphon.cost.work import Operation
from antiphon.errors import RunError
from antiphon.kernel.collectives import all_gather, all_reduce, reduce_scatter
from antiphon.world.handle import Handle
from antiphon.world.simulated.log import Did, EventLog
from antiphon.world.simulated.prices import Prices
from antiphon.world.simulated.queue import Call, EventQueue

OPERATIONS = {
    Did.ALL_REDUCE: Operation.ALL_REDUCE,
    Did.ALL_GATHER: Operation.ALL_GATHER,
    Did.REDUCE_SCATTER: Operation.REDUCE_SCATTER,
    Did.BARRIER: Operation.ALL_REDUCE,  # of nothing
}


Buffers = tuple[Any, Any]
"""What a member gives to a collective, and where it wants what comes of it."""


@dataclass(frozen=True, slots=True)
class SimGroup:
    """A group as one of its members sees it."""

    epoch: int
    members: tuple[int, ...]
    rank: int  # place among the members
    shared: SharedGroup = field(repr=False, compare=False)


class Joined(Handle[None]):
    """One member's part in a collective."""

    __slots__ = ("buffers", "is_ready", "member", "number")

    def __init__(self, name: str, member: int, number: int, buffers: Buffers | None) -> None:
        super().__init__(name)
        self.buffers = buffers  # where numbers meet, too
        self.member = member  # its rank in the mesh
        self.number = number
        self.is_ready = False


class Collective:
    """One collective, from the first member that issues it."""

    def __init__(self, did: Did, nbytes: int, inside: str | None) -> None:
        self.did = did
        self.nbytes = nbytes
        self.inside = inside  # which computation, whose time it is part of
        self.joined: list[Joined] = []
        self.began = 0


class SharedGroup:
    """What the members of a group have in common. Its collectives go one after another."""

    def __init__(self, members: tuple[int, ...], purpose: str, present: tuple[int, ...]) -> None:
        self.members = members
        self.ascending = tuple(sorted(members))
        self.is_broken = False  # a member was lost
        self.purpose = purpose
        self.present = present  # the members that are simulated: others do as one of these does
        self.issued = dict.fromkeys(present, 0)  # by member
        self.begun = 0
        self.pending: deque[Collective] = deque()  # issued by some, not begun
        self.free = 0  # when the last one that has begun will have ended


class CollectiveLane:
    """Carries out the collectives of all groups."""

    def __init__(
        self,
        queue: EventQueue,
        log: EventLog,
        prices: Prices,
        contend: Callable[[int, int, int], None],
        soon: Callable[[Callable[[], None]], None] | None = None,
    ) -> None:
        """``contend(rank, begin, end)`` slows what a rank computes meanwhile. ``soon`` has the loop
        call something once the computation under way waits: needed where any has collectives."""
        self._queue = queue
        self._log = log
        self._prices = prices
        self._contend = contend
        self._soon = soon
        self._groups: dict[tuple[tuple[int, ...], str], SharedGroup] = {}
        self._stranded: list[Joined] = []  # in what a lost member had joined

    def group(
        self, members: tuple[int, ...], purpose: str, present: tuple[int, ...]
    ) -> SharedGroup:
        """Return the one group of these members and this purpose."""
        key = (members, purpose)
        if key not in self._groups:
            self._groups[key] = SharedGroup(members, purpose, present)
        return self._groups[key]

    def issue(
        self,
        group: SharedGroup,
        did: Did,
        nbytes: int,
        rank: int,
        number: int,
        after: Handle[Any] | None,
        buffers: Buffers | None = None,
        inside: str | None = None,
    ) -> Joined:
        """Take part in the group's next collective. Raises RunError where others issue another.

        One that is ``inside`` a computation takes no time of its own and is not logged.
        """
        place = group.issued[rank] - group.begun
        group.issued[rank] += 1
        if place == len(group.pending):
            group.pending.append(Collective(did, nbytes, inside))
        collective = group.pending[place]
        theirs, ours = (collective.did, collective.nbytes, collective.inside), (did, nbytes, inside)
        if theirs != ours:
            first = collective.joined[0].member
            raise RunError(
                f"collectives of group `{group.purpose}` do not meet: rank {first} issues "
                f"{words(*theirs)} where rank {rank} issues {words(*ours)}",
                "issue the same collectives in the same order on every member",
            )
        joined = Joined(did.name.lower(), rank, number, buffers)
        collective.joined.append(joined)
        if after is None:
            joined.is_ready = True
            if inside is None:
                self._start(group)
            else:  # numbers meet outside, lest a computation see what others' sums take
                assert self._soon is not None
                self._soon(lambda: self._start(group))
        else:
            after.on_settled(lambda: self._after(after, joined, group))
        return joined

    def lose(self, member: int, is_kept: Callable[[int, int], bool]) -> None:
        """Break the groups of a member that is gone. What is under way in them ends for another
        member where ``is_kept(member, number)`` says so of its action.
        """
        for group in self._groups.values():
            group.is_broken = group.is_broken or member in group.members

        def is_lost(call: Call, done: tuple[Collective, Joined]) -> bool:
            if call != self._end or all(one.member != member for one in done[0].joined):
                return False
            return done[1].member == member or not is_kept(done[1].member, done[1].number)

        self._stranded += [event[4][1] for event in self._queue.remove(is_lost)]
        for joined in self._stranded:
            if joined.member == member:
                joined.cancel()  # nobody waits for it, nor for what holds it up

    def fail(self, member: int, error: Callable[[], Exception]) -> None:
        """Fail all collectives of ``member`` that have not ended; it takes part in no more."""
        for group in self._groups.values():
            group.is_broken = group.is_broken or member in group.members
        late = self._queue.remove(lambda call, done: call == self._end and done[1].member == member)
        pending = [
            joined
            for group in self._groups.values()
            for collective in group.pending
            for joined in collective.joined
        ]
        parts = (*(event[4][1] for event in late), *self._stranded, *pending)
        for joined in [each for each in parts if each.member == member]:
            joined.fail(error())

    def forget(self) -> None:
        """Begin anew, in a new epoch: no group of the old one does anything any more."""
        for group in self._groups.values():
            group.is_broken = True
        self._groups.clear()
        self._stranded.clear()

    def open(self) -> Iterator[tuple[int, str]]:
        """Yield (rank, words) of what was issued and has not begun."""
        for group in self._groups.values():
            for collective in group.pending:
                ready = {joined.member for joined in collective.joined if joined.is_ready}
                missing = [member for member in group.present if member not in ready]
                what = words(collective.did, collective.nbytes, collective.inside)
                for member in ready:
                    yield (
                        member,
                        f"rank {member} waits in {what} of group `{group.purpose}` "
                        f"for ranks {missing}",
                    )

    def _after(self, after: Handle[Any], joined: Joined, group: SharedGroup) -> None:
        if after.error is not None:
            joined.fail(after.error)
        else:
            joined.is_ready = True
            self._start(group)

    def _start(self, group: SharedGroup) -> None:
        while group.pending and not group.is_broken:
            collective = group.pending[0]
            joined = collective.joined
            if len(joined) < len(group.present) or not all(one.is_ready for one in joined):
                return
            group.pending.popleft()
            group.begun += 1
            _let_meet(collective, group)
            begin = end = max(self._queue.now, group.free)
            if collective.inside is None:
                operation = OPERATIONS[collective.did]
                end += self._prices.collective(operation, group.ascending, collective.nbytes)
            collective.began, group.free = begin, end
            for one in joined:
                if collective.inside is None:
                    self._contend(one.member, begin, end)
                done = (collective, one)
                self._queue.at(end, one.member, one.number, self._end, done)

    def _end(self, done: tuple[Collective, Joined]) -> None:
        collective, joined = done
        began, did, nbytes = collective.began, collective.did, collective.nbytes
        if collective.inside is None:
            self._log.add(began, self._queue.now, joined.member, joined.number, did, nbytes)
        joined.settle(None)


def words(did: Did, nbytes: int, inside: str | None) -> str:
    """Say what a collective is."""
    where = "" if inside is None else f" inside `{inside}`"
    return f"{did.name.lower()} of {nbytes} bytes{where}"


def _let_meet(collective: Collective, group: SharedGroup) -> None:
    """Leave what comes of a collective in its members' buffers, where there are any."""
    by_member = {one.member: one.buffers for one in collective.joined}
    buffers = [found for member in group.members if (found := by_member.get(member)) is not None]
    if not buffers:
        return
    given, into = zip(*buffers, strict=True)
    match collective.did:
        case Did.ALL_REDUCE:
            all_reduce(given)
        case Did.ALL_GATHER:
            all_gather(given, into)
        case Did.REDUCE_SCATTER:
            reduce_scatter(given, into)
