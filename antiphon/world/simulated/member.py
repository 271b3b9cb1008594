"""The world of one member of a simulation: what its program awaits."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from antiphon.cost.price import NANOSECONDS, Priced, nanoseconds
from antiphon.cost.work import Operation, Work
from antiphon.errors import RunError
from antiphon.policy.recovery.recovery import Reformed
from antiphon.world.failure import GroupBroken
from antiphon.world.handle import Computation, Handle
from antiphon.world.protocols import COMPUTE, Fact, Group, Letter, Message, Payload, Store
from antiphon.world.random import keyed_generator
from antiphon.world.simulated.collectives import OPERATIONS, Buffers, SimGroup
from antiphon.world.simulated.computing import Computed, ComputingLane
from antiphon.world.simulated.lane import ComputeLane, Run
from antiphon.world.simulated.log import Did
from antiphon.world.simulated.membership import Mesh
from antiphon.world.simulated.process import Crashed, ProcessTasks
from antiphon.world.task import Scope
from antiphon.world.work_cursor import Call

if TYPE_CHECKING:
    from antiphon.world.simulated.world import Simulation

T = TypeVar("T")


class SimWorld:
    """The world of one member. See ``antiphon.world.protocols`` for what each method is for."""

    def __init__(self, simulation: Simulation, member: int, *, actions: int = 0) -> None:
        """``actions``: that processes before it in its place have asked for."""
        self.member = member
        """This process; its rank, too, in the first mesh."""
        self.members = simulation.members
        """How many there were from the start."""
        self.rank = member
        """The place in the mesh, of one that is part of it."""
        self.ranks = len(simulation.together)
        self.is_new = False
        """Whether the program was started anew in the place of one that was lost."""
        self.tasks = ProcessTasks(simulation.trampoline)
        self.is_dead = False
        self._simulation = simulation
        self._computing = simulation.computing
        self._price: Callable[[Work], Priced] = simulation.prices.computation
        self.lane = self._new_lane(simulation.prices.contention)
        self._numbers = count(actions + 1)
        self._next_number: Callable[[], int] = self._numbers.__next__
        """Of the next action that the program asks for."""
        self._lanes = {COMPUTE: self.lane}
        self._ask = simulation.asked.append
        self._post = simulation.exchanges.post
        self._groups: dict[tuple[tuple[int, ...], str], SimGroup] = {}
        self._epoch = 0
        self._mesh = simulation.together  # members by rank
        self._bar: Callable[[], Exception] | None = None  # why it takes part in no mesh
        self._is_together = member in simulation.together or simulation.are_all_together
        if member not in simulation.together:
            self._bar = self._has_no_rank
        self._is_first_mesh = self._bar is None  # in which members are ranks

    # Clock, Tasks, Random, Storage, Journal

    def now(self) -> float:
        """Seconds of virtual time."""
        return self._simulation.queue.now / NANOSECONDS

    def sleep(self, seconds: float) -> Handle[None]:
        """Settle when so much virtual time has passed."""
        return self._simulation.sleep(self.member, self._next_number(), nanoseconds(seconds))

    def scope(self) -> Scope:
        """Open a scope of tasks."""
        return Scope(self.tasks)

    def random(self, purpose: str, *key: int) -> np.random.Generator:
        """A stream for the purpose and key, the same on every member."""
        return keyed_generator(self._simulation.seed, purpose, *key)

    def store(self, tier: str) -> Store:
        """Storage, shared by all members."""
        self.require_life()
        return self._simulation.store(tier, self)

    def note(self, topic: str, **facts: float | int | str | None) -> None:
        """Tell whoever follows the simulation."""
        self.require_life()
        self._simulation.heed(topic, self.member, facts)

    def decided(self, decision: Mapping[str, Fact]) -> None:
        """Keep a decision beside the others of all members."""
        self.require_life()
        self._simulation.decided(self.member, decision)

    # Device

    def compute(
        self,
        work: Work,
        run: Callable[[], T] | None = None,
        *,
        lane: str = COMPUTE,
    ) -> Computation[T]:
        """Queue a computation; it begins when the task next awaits.

        Charged, ``run`` is not called. Communication slows the first lane alone.
        """
        # To call what is not a method, but an attribute, takes CPython 3.11 longer than two steps.
        on = self._lanes.get(lane)
        if on is None:
            on = self._lanes[lane] = self._new_lane(contention=0.0)
        price, next_number, ask = self._price, self._next_number, self._ask
        priced, number = price(work), next_number()
        if self._computing is None:
            computation = Run(work, priced, number)
        else:
            computation = Computed(work, priced, number, self.member, run)
        ask((on, computation))
        return computation

    def reach(self, milestone: str) -> None:
        """Pass a milestone, from inside ``run``; what is tied to it begins when Work says so."""
        assert self._computing is not None, "only a run reaches milestones, and none is called here"
        self._computing.reach(milestone)

    def block_on(self, handle: Handle[T]) -> T:
        """Wait, inside ``run``, for a collective that was started there."""
        assert self._computing is not None, "only a run waits so, and none is called here"
        return self._computing.wait(handle)

    def meet(self, group: Group, payload: Payload, into: Sequence[Payload]) -> None:
        """Take part, inside ``run``, in one gathering in place of all collectives of its Work.

        For runs that compute so little that the others would carry nothing.
        """
        assert self._computing is not None, "only a run meets others, and none is called here"
        run = self._computing.current
        assert run is not None, "a gathering in place of others is asked for outside of a run"
        run.cursor.fold(Call(Operation.ALL_GATHER, len(group.members), payload.nbytes))
        self.block_on(self.all_gather(group, payload, into))

    # Collectives

    async def group(self, members: Sequence[int], purpose: str = "") -> SimGroup:
        """Return the group of ``members``, the same object each time."""
        if self._bar is not None:
            raise self._bar()
        key = (tuple(members), purpose)
        if key not in self._groups:
            simulation, mesh = self._simulation, self._mesh
            numbers = tuple(mesh[rank] for rank in key[0])
            present = tuple(member for member in numbers if member in simulation.worlds)
            shared = simulation.collectives.group(numbers, purpose, present)
            self._groups[key] = SimGroup(self._epoch, key[0], key[0].index(self.rank), shared)
        return self._groups[key]

    def all_reduce(
        self, group: Group, payload: Payload, after: Handle[Any] | None = None
    ) -> Handle[None]:
        """Take part in a sum."""
        return self._join(group, Did.ALL_REDUCE, payload.nbytes, after, (payload, payload))

    def all_gather(self, group: Group, payload: Payload, into: Sequence[Payload]) -> Handle[None]:
        """Take part in a gathering of what each has."""
        assert len(into) == len(group.members)
        return self._join(group, Did.ALL_GATHER, payload.nbytes, None, (payload, into))

    def reduce_scatter(
        self, group: Group, payloads: Sequence[Payload], into: Payload
    ) -> Handle[None]:
        """Take part in a sum of which each keeps a part."""
        assert payloads[group.rank].nbytes == into.nbytes
        nbytes = sum(payload.nbytes for payload in payloads)
        return self._join(group, Did.REDUCE_SCATTER, nbytes, None, (payloads, into))

    def barrier(self, group: Group) -> Handle[None]:
        """Settle once every member has come here."""
        return self._join(group, Did.BARRIER, 0, None, None)

    # Membership

    async def reform(self) -> Reformed:
        """Wait for the next epoch and enter it."""
        if not self._is_together:
            raise self._has_no_rank()
        number = self._next_number()
        return await self._simulation.supervisor.reform(self.member, number)

    def leave(self, mesh: Mesh) -> None:
        """Take no more part in a mesh that is broken."""
        self._bar, self._is_first_mesh = mesh.broken, False

    def enter(self, mesh: Mesh) -> None:
        """Take part in a new mesh."""
        self.rank, self.ranks = mesh.members.index(self.member), len(mesh.members)
        self._epoch, self._bar = mesh.epoch, None
        self._is_first_mesh = False  # of a new process, too
        self._mesh = mesh.members
        self._groups.clear()

    def end(self) -> int:
        """End the process; return a number for its end, as if that were an action."""
        self.is_dead = True
        number, self._next_number = next(self._numbers), _crash
        self.tasks.end()
        return number

    def stop(self) -> None:
        """Stand still: no task goes on, nothing is computed."""
        self.tasks.stop()
        for lane in self.lanes:
            lane.stop()

    def go_on(self) -> None:
        """Go on after that."""
        self.tasks.go_on()
        for lane in self.lanes:
            lane.go_on()

    def price_by(self, price: Callable[[Work], Priced]) -> None:
        """Have computations take what ``price`` says."""
        self._price = price

    def require_life(self) -> None:
        """Raise Crashed once the process has ended."""
        if self.is_dead:
            raise Crashed

    @property
    def lanes(self) -> Collection[ComputeLane]:
        """All lanes."""
        return self._lanes.values()

    # Messages

    def exchange(
        self,
        sends: Sequence[Message],
        receives: Sequence[Message],
        after: Handle[Any] | None = None,
    ) -> Handle[None]:
        """Post messages as one."""
        if not self._is_first_mesh:
            if self._bar is not None:
                return self._barred("exchange")
            mesh = self._mesh
            sends = [each._replace(peer=mesh[each.peer]) for each in sends]
            receives = [each._replace(peer=mesh[each.peer]) for each in receives]
        post, next_number = self._post, self._next_number
        return post(self.member, next_number(), sends, receives, after)

    # Mail

    def send(
        self,
        target: int,
        channel: str,
        facts: Mapping[str, Fact] | None = None,
        arrays: Sequence[Payload] = (),
    ) -> Handle[None]:
        """Put a letter into a mailbox."""
        mail, number = self._simulation.mail, self._next_number()
        return mail.send(self.member, number, target, channel, facts, arrays)

    def receive(
        self, channel: str, source: int | None = None, *, seconds: float | None = None
    ) -> Handle[Letter]:
        """Take the next letter, of ``source`` or of any."""
        mail, number = self._simulation.mail, self._next_number()
        limit = None if seconds is None else nanoseconds(seconds)
        return mail.receive(self.member, number, channel, source, limit)

    def _join(
        self,
        group: Group,
        did: Did,
        nbytes: int,
        after: Handle[Any] | None,
        buffers: Buffers | None,
    ) -> Handle[None]:
        assert isinstance(group, SimGroup)
        if self._bar is not None:
            return self._barred(did.name.lower())
        if group.epoch != self._epoch:
            return _failed(did.name.lower(), GroupBroken(group.epoch, ()))
        issue, computing = self._simulation.collectives.issue, self._computing
        if computing is None:
            return issue(group.shared, did, nbytes, self.member, self._next_number(), after)
        current = computing.current
        if current is None:
            number = self._next_number()
            return issue(group.shared, did, nbytes, self.member, number, after, buffers)
        assert after is None, "a collective inside a computation begins at once"
        if len(group.members) > 1:
            current.cursor.call(Call(OPERATIONS[did], len(group.members), nbytes))
        inside = current.name
        return issue(group.shared, did, nbytes, self.member, current.number, None, buffers, inside)

    def _new_lane(self, contention: float) -> ComputeLane:
        queue, log = self._simulation.queue, self._simulation.log
        if self._computing is None:
            return ComputeLane(self.member, queue, log, contention)
        return ComputingLane(self.member, queue, log, contention, self._computing.begun)

    def _has_no_rank(self) -> Exception:
        return RunError(
            f"member {self.member} posts an exchange or joins a group, but has no rank",
            "members that are not together reach each other by mail; those that are started anew "
            "begin with `await world.reform()`",
        )

    def _barred(self, name: str) -> Handle[None]:
        """Return an action that fails, since this member takes part in no mesh now."""
        assert self._bar is not None
        error = self._bar()
        if isinstance(error, RunError):  # nobody may await it
            raise error
        return _failed(name, error)


def _crash() -> int:
    raise Crashed


def _failed(name: str, error: Exception) -> Handle[None]:
    handle: Handle[None] = Handle(name)
    handle.fail(error)
    return handle
