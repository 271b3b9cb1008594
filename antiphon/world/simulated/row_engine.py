"""Static programs carried out over integers: no coroutine, no object for each event.

Where every rank's list of actions is known beforehand and nothing is decided on the way, times
follow from each other: an action's from those of the actions that it waits for. So ranks are worked
through one after another, each as far as what it waits for is known (a network of Kahn, IFIP 1974:
the outcome does not depend on the order), and nothing has to be kept in order of time; the log is
sorted at the end. Times, actions and hash are those of the coroutines in
``antiphon.world.simulated.world``.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from antiphon.cost.work import Operation
from antiphon.world.simulated.contention import Window, merged, time_after
from antiphon.world.simulated.log import Did, EventLog, pack
from antiphon.world.simulated.messages import Arrow
from antiphon.world.simulated.prices import Prices
from antiphon.world.simulated.rows import COMPUTE, POST, REDUCE, Compute, Post, RankRows, Sizes

PENDING: Final = -1
WATCHED_TURNS: Final = 4096
NEVER: Final = 2**63 - 1


class Unfinished(Exception):
    """A program cannot go on, or its messages do not meet. The coroutines say why."""


class RowEngine:
    """Carries out the rows of all ranks."""

    def __init__(
        self,
        prices: Prices,
        programs: Sequence[RankRows],
        *,
        seed: int = 0,
        keep_arrows: bool = False,
        watch: Callable[[int], None] | None = None,
    ) -> None:
        """``watch`` is called now and then with how many actions have ended."""
        self.log = EventLog(seed)
        self.arrows: list[Arrow] | None = [] if keep_arrows else None
        self.ends: dict[int, list[int]] = {program.rank: [] for program in programs}
        """By rank: when each step ended, in nanoseconds."""
        self._prices = prices
        self._contention = prices.contention
        self._watch = watch
        self._steps = 0
        self._channels: dict[tuple[int, int], _Channel] = {}
        self._groups: dict[tuple[int, tuple[int, ...]], _Group] = {}
        present = frozenset(self.ends)
        self._runnable: deque[_Rank] = deque(
            _Rank(
                program,
                [self._channel(program.rank, peer) for peer in program.peers],
                [self._group(key, present) for key in enumerate(program.groups)],
            )
            for program in programs
        )

    def run(self, steps: int = 1) -> None:
        """Carry out so many steps, once. Raises Unfinished where the program cannot end."""
        self._steps = steps
        runnable = self._runnable
        turns = 0
        with _collector_off():
            while runnable:
                self._advance(runnable.popleft())
                turns += 1
                if self._watch is not None and turns % WATCHED_TURNS == 0:
                    self._watch(len(self.log))
        if any(len(ends) < steps for ends in self.ends.values()):
            raise Unfinished

    def _advance(self, rank: _Rank) -> None:
        """Go on with ``rank`` until it waits for what is not known yet, or has ended."""
        rows, add = rank.rows, self.log.columns.frombytes
        while True:
            row: Any = rows[rank.position]
            op = row[-1]
            if op == COMPUTE:
                number, nanoseconds, awaited, tied, _ = row
                if awaited >= 0:
                    arrival = rank.arrivals[awaited]
                    if arrival < 0:
                        rank.is_blocked = True
                        return
                    if arrival > rank.host:
                        rank.host = arrival
                begin = rank.lane
                if rank.host > begin:
                    begin = rank.host
                if not tied and not rank.windows:
                    rank.lane = end = begin + nanoseconds
                    rank.ends.append(end)
                    add(pack(begin, end, rank.rank, rank.base + number, 0, 0))
                elif not self._compute_beside(rank, row, begin):
                    return
            elif op == POST:
                self._post(rank, row)
            elif op == REDUCE:
                ready = rank.host
                if row.is_after_computing:
                    ready = max(ready, rank.lane)
                self._issue(rank, row.group, row.number, row.nbytes, ready)
            elif not self._settle(rank, row.is_end):
                return
            elif row.is_end:
                if self._end_step(rank):
                    return
                continue
            rank.position += 1

    def _compute_beside(self, rank: _Rank, row: Compute, begin: int) -> bool:
        """Compute beside reductions, which may begin inside; False where one is not known yet."""
        if rank.tied == 0:
            rank.reached, rank.progress = begin, 0
        while rank.tied == 0 or self._contention == 0 or rank.reductions[-1].end != PENDING:
            if rank.tied == len(row.tied):
                end = self._time_at(rank, row.nanoseconds)
                self.log.add(begin, end, rank.rank, rank.base + row.number, Did.COMPUTE, 0)
                rank.lane = end
                rank.ends.append(end)
                rank.tied = 0
                if rank.windows and rank.windows[-1][1] <= end:
                    rank.windows = []
                return True
            tied = row.tied[rank.tied]
            rank.reached, rank.progress = self._time_at(rank, tied.offset), tied.offset
            rank.tied += 1
            self._issue(rank, tied.group, tied.number, tied.nbytes, rank.reached)
        rank.is_blocked = True
        return False

    def _time_at(self, rank: _Rank, work: int) -> int:
        """When the computation under way has done so many nanoseconds of its work."""
        left = work - rank.progress
        return time_after(rank.reached, left, rank.windows, self._contention)

    def _post(self, rank: _Rank, row: Post) -> None:
        """Post messages; those whose other end is posted arrive."""
        ready = rank.host
        if row.maker >= 0 and rank.ends[row.maker] > ready:
            ready = rank.ends[row.maker]
        rank.arrivals.append(PENDING)
        if len(row.parts) > 1:
            rank.partial[row.place] = _Partial(NEVER, len(row.parts))
        for local, sizes in row.parts:
            channel = rank.channels[local]
            unmet = channel.unmet
            if not unmet or unmet[0][2] is rank:
                unmet.append((ready, sizes, rank, row))
                continue
            other_ready, other_sizes, other, other_row = unmet.popleft()
            if other_sizes[0] != sizes[1] or other_sizes[1] != sizes[0]:
                raise Unfinished
            begin = channel.free
            if ready > begin:
                begin = ready
            if other_ready > begin:
                begin = other_ready
            end = channel.free = begin + self._duration(channel, rank.rank, other.rank, sizes)
            self._arrive(rank, row, begin, end)
            self._arrive(other, other_row, begin, end)
            if self.arrows is not None:
                self._draw(rank, row, other, other_row, sizes, begin, end)

    def _duration(self, channel: _Channel, source: int, target: int, sizes: Sizes) -> int:
        """How long messages between two ranks take, in both directions at once."""
        known = channel.durations.get((source, sizes))
        if known is None:
            price = self._prices.message
            onward = sum(price(source, target, nbytes) for nbytes in sizes[0])
            back = sum(price(target, source, nbytes) for nbytes in sizes[1])
            known = channel.durations[source, sizes] = max(onward, back)
        return known

    def _arrive(self, rank: _Rank, row: Post, begin: int, end: int) -> None:
        """Take note of when what a post has for one peer has arrived."""
        number, parts, _, place, nbytes, _ = row
        if len(parts) > 1:
            partial = rank.partial[place]
            partial.begin = begin = min(begin, partial.begin)
            partial.end = end = max(end, partial.end)
            partial.missing -= 1
            if partial.missing:
                return
        rank.arrivals[place] = end
        self.log.columns.frombytes(pack(begin, end, rank.rank, rank.base + number, 1, nbytes))
        if rank.is_blocked:
            self._wake(rank)

    def _issue(self, rank: _Rank, local: int, number: int, nbytes: int, ready: int) -> None:
        """Take part in a group's next reduction; the last member to do so begins it."""
        group = rank.groups[local]
        place = rank.issued[local]
        rank.issued[local] += 1
        if place == len(group.collectives):
            group.collectives.append(_Collective(nbytes))
        collective = group.collectives[place]
        if collective.nbytes != nbytes:
            raise Unfinished
        rank.reductions.append(collective)
        collective.joined.append((rank, rank.base + number))
        collective.ready = max(collective.ready, ready)
        if len(collective.joined) < group.present:
            return
        begin = max(collective.ready, group.free)
        end = begin + self._prices.collective(Operation.ALL_REDUCE, group.members, nbytes)
        collective.end = group.free = end
        for member, action in collective.joined:
            self.log.add(begin, end, member.rank, action, Did.ALL_REDUCE, nbytes)
            if self._contention > 0:
                member.windows = merged(member.windows, (begin, end), member.lane)
            if member.is_blocked:
                self._wake(member)

    def _settle(self, rank: _Rank, is_end: bool) -> bool:
        """Wait for computations and reductions, or for all; False where one is not known yet."""
        ends = [collective.end for collective in rank.reductions]
        if is_end:
            ends += rank.arrivals
        if PENDING in ends:
            rank.is_blocked = True
            return False
        rank.host = max(rank.host, rank.lane, *ends)
        rank.reductions.clear()
        return True

    def _end_step(self, rank: _Rank) -> bool:
        """Go on with the next step; True where that was the last."""
        ends = self.ends[rank.rank]
        ends.append(rank.host)
        rank.base += rank.actions
        rank.begin_step()
        return len(ends) == self._steps

    def _wake(self, rank: _Rank) -> None:
        rank.is_blocked = False
        self._runnable.append(rank)

    def _draw(
        self,
        rank: _Rank,
        row: Post,
        other: _Rank,
        other_row: Post,
        sizes: Sizes,
        begin: int,
        end: int,
    ) -> None:
        """Keep an arrow for each direction in which something is sent."""
        assert self.arrows is not None
        one = rank.rank, rank.base + row.number
        two = other.rank, other.base + other_row.number
        for source, target, sent in ((one, two, sizes[0]), (two, one, sizes[1])):
            if sent:
                self.arrows.append((*source, *target, begin, end))

    def _channel(self, rank: int, peer: int) -> _Channel:
        return self._channels.setdefault((min(rank, peer), max(rank, peer)), _Channel())

    def _group(self, key: tuple[int, tuple[int, ...]], present: frozenset[int]) -> _Group:
        if key not in self._groups:
            self._groups[key] = _Group(key[1], len(present.intersection(key[1])))
        return self._groups[key]


class _Channel:
    """Between two ranks."""

    __slots__ = ("durations", "free", "unmet")

    def __init__(self) -> None:
        self.free = 0  # when the last message has arrived
        self.unmet: deque[tuple[int, Sizes, _Rank, Post]] = deque()  # posted at one end alone
        self.durations: dict[tuple[int, Sizes], int] = {}


class _Collective:
    """One reduction of a group."""

    __slots__ = ("end", "joined", "nbytes", "ready")

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.ready = 0
        self.end = PENDING
        self.joined: list[tuple[_Rank, int]] = []


class _Group:
    """Ranks that reduce together; only those that are simulated take part."""

    __slots__ = ("collectives", "free", "members", "present")

    def __init__(self, members: tuple[int, ...], present: int) -> None:
        self.members = members
        self.present = present
        self.free = 0
        self.collectives: list[_Collective] = []


class _Partial:
    """A post with messages for several peers, of which some have arrived."""

    __slots__ = ("begin", "end", "missing")

    def __init__(self, begin: int, missing: int) -> None:
        self.begin = begin
        self.end = 0
        self.missing = missing


class _Rank:
    """How far one rank has come."""

    def __init__(self, program: RankRows, channels: list[_Channel], groups: list[_Group]) -> None:
        self.rank = program.rank
        self.rows = program.rows.rows
        self.actions = len(program.rows.names)
        self.channels = channels
        self.groups = groups
        self.issued = [0] * len(groups)
        self.base = 0  # number of the last action of the step before
        self.host = 0  # when the program came to its next row
        self.lane = 0  # when the compute lane is free
        self.windows: list[Window] = []  # of reductions
        self.is_blocked = False
        self.begin_step()

    def begin_step(self) -> None:
        """Forget what the step before did."""
        self.position = 0
        self.ends: list[int] = []  # of computations
        self.arrivals: list[int] = []  # of posts; PENDING where it is not known yet
        self.partial: dict[int, _Partial] = {}  # by index of the post
        self.reductions: list[_Collective] = []  # that are not waited for yet
        self.tied = 0  # of the computation under way, reductions that are issued
        self.reached = self.progress = 0  # when it passed its last milestone, and its work by then


@contextmanager
def _collector_off() -> Iterator[None]:
    """Nothing here makes cycles: the collector would look through a growing log again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
