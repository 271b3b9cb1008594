"""How a member that outlived others, or was started anew, comes to train on with the rest.

A loss breaks steps off unevenly. No member updates before all have their gradients (`step`), so
that those who are left are at most one update apart, and whoever is behind has what it needs to
catch up: it rolls forward. Where that is not so, since somebody was started anew or comes back
after a while, all go back to the newest checkpoint. What they agree on goes by mail, for a loss in
the middle of it must leave no trace; then the step that was broken off is taken again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from antiphon.errors import RunError
from antiphon.policy.pipeline.action import Action, Kind
from antiphon.program import checkpoint
from antiphon.program.checkpoint import CheckpointError, Position, TokenStream
from antiphon.program.node_memory.nodes import Share
from antiphon.program.stage import Stage
from antiphon.program.step import Attempt, join_tensor_peers
from antiphon.spec.plan import Plan
from antiphon.world.failure import GroupBroken, PeerLost
from antiphon.world.protocols import (
    Clock,
    Collectives,
    Device,
    Fact,
    Group,
    Journal,
    Mail,
    Membership,
    Mesh,
    Storage,
)
from antiphon.world.task import Scope

CHANNEL = "recovery"
NOTHING = -1  # in place of an epoch


class RecoveryWorld(Clock, Mesh, Device, Collectives, Mail, Membership, Storage, Journal, Protocol):
    """What recovery needs of a world."""


@dataclass(slots=True)
class Progress:
    """What one member has come to. It outlives the meshes in which it came there."""

    members: tuple[int, ...] = ()  # of the mesh, by rank
    position: Position = Position()  # noqa: RUF009 - it never changes
    reached: int = NOTHING  # the epoch in which it came to ``position``; NOTHING: it has no state
    attempt: Attempt | None = None  # at the step after ``position``
    attempted: int = NOTHING  # the epoch of that attempt
    begun: float = 0.0  # when that attempt began, in seconds of the world
    told: int = 0  # the last step that it told of
    validated: int = 0  # the last step after which all validated
    saved: int = 0  # the last step of which a checkpoint is known to be whole, or will be

    def advance(self, global_batch: int) -> None:
        """Be one update further."""
        self.position = self.position.after(global_batch)
        self.reached, self.attempt = self.attempted, None

    def put_back(self, position: Position, epoch: int) -> None:
        """Be at ``position``, which all came to in ``epoch``."""
        self.position, self.reached = position, epoch
        self.told = self.validated = self.saved = position.step


@dataclass(frozen=True, slots=True)
class Held:
    """What one member says of itself: equal ``reached`` and ``step`` mean equal parameters."""

    reached: int
    step: int
    complete: int  # the epoch in which the next step's gradients were summed; NOTHING: they are not
    validated: int


@dataclass(frozen=True, slots=True)
class Course:
    """What all do."""

    goes_back: bool  # to a checkpoint
    step: int = 0  # where all are once those who are behind have rolled forward
    validated: int = 0  # the last step after which all validated
    checkpoints: tuple[str, ...] = ()  # that are there, the newest first

    @property
    def saved(self) -> int:
        """The step of the newest checkpoint; 0: there is none."""
        return max(map(checkpoint.step_of, self.checkpoints), default=0)


def common_course(every: Sequence[Held], checkpoints: Sequence[str]) -> Course:
    """Return what the members of a new mesh do. ``checkpoints`` are names, the newest first.

    The newest parameters are those that were reached in the latest epoch. Gradients lead to them
    if they were summed in that epoch, and are those of the update before them. Where nobody has
    applied gradients that all have, all do: somebody who is not here may have done so.
    """
    reached, step = newest = max((held.reached, held.step) for held in every)
    summed = every[0].complete
    if summed != NOTHING and all(
        (h.reached, h.step, h.complete) == (*newest, summed) for h in every
    ):
        reached, step = newest = (summed, step + 1)
    behind = (reached, step - 1)
    agrees = all(
        (held.reached, held.step) == newest or (held.complete, held.step) == behind
        for held in every
    )
    return Course(
        goes_back=reached == NOTHING or not agrees,
        step=step,
        validated=min(held.validated for held in every),
        checkpoints=tuple(checkpoints),
    )


class MemorySaver(Protocol):
    """Keeps snapshots of one rank in memory, in one mesh."""

    async def save(self, position: Position) -> None:
        """Copy the state, if it is due, and have it kept while training goes on."""

    async def finish(self) -> None:
        """Wait until no snapshot is under way.

        The next update does: no more steps are repeated than lie between two snapshots.
        """


class Memory(Protocol):
    """Snapshots that do not need a disk, since other processes keep them."""

    def saver(self, mesh: Group, members: Sequence[int], share: Share, tasks: Scope) -> MemorySaver:
        """Return what takes snapshots in this mesh, of ``members`` by rank."""

    async def restore(
        self, mesh: Group, members: Sequence[int], *, on_disk: int
    ) -> Position | None:
        """Go back, with all of the mesh, to the newest snapshot that is left; None: there is none.

        It is not older than the newest checkpoint on disk, of the step ``on_disk``.
        """

    async def gone_back(self, mesh: Group, position: Position) -> None:
        """Forget what was taken after ``position``, which all of the mesh went back to on disk."""


class Recovery:
    """Takes one member from mesh to mesh."""

    def __init__(
        self,
        world: RecoveryWorld,
        stage: Stage,
        progress: Progress,
        plan: Plan,
        stream: TokenStream,
        tell: Callable[[Progress], None],
        memory: Memory | None = None,
    ) -> None:
        """``plan`` is that of the first mesh; ``tell`` says what the last update came to."""
        self._memory = memory
        self._world = world
        self._stage = stage
        self._progress = progress
        self._plan = plan
        self._stream = stream
        self._tell = tell

    async def next_mesh(self) -> Plan | None:
        """Enter the next mesh and agree with the others on where to go on; return its plan.

        Returns None where the run is finished. Raises GroupBroken or PeerLost where the mesh breaks
        before that, and GaveUp where there is to be none.
        """
        await self._leave()
        while True:
            formed = await self._world.reform()
            if formed.is_finished:
                return None
            if formed.rank is not None:
                break
        self._progress.members = tuple(formed.members)
        plan = self._plan.model_copy(update=dict(formed.axes))
        mesh = await self._world.group(range(len(formed.members)), "mesh")
        await join_tensor_peers(self._world, plan, self._stage)
        await self._go_on(_Talk(self._world, mesh, formed.members))
        return plan

    async def _leave(self) -> None:
        """Come to rest: know whether the last update was carried out, drop what leads to none."""
        attempt = self._progress.attempt
        if attempt is not None:
            for computation in reversed(attempt.computations):
                computation.cancel()
            if attempt.update is not None:  # it needs nobody, and so it comes to its end
                await attempt.update
                self._progress.advance(self._stream.global_batch)
        while True:
            try:
                await self._world.compute(*self._stage.drop())
            except (GroupBroken, PeerLost):  # of what it was queued behind
                continue
            return

    async def _go_on(self, talk: _Talk) -> None:
        """Come to where all go on from."""
        progress, before = self._progress, self._progress.position
        course = await self._agree(talk)
        if course.goes_back:
            how = await self._go_back(talk, course)
            if progress.position.step < before.step:
                self._world.note("rolled_back", step=before.step, to=progress.position.step)
        elif progress.position.step < course.step:
            how = "rolled forward"
            update = Action(Kind.UPDATE, 0)
            await self._world.compute(self._stage.work(update), self._stage.run(update))
            progress.advance(self._stream.global_batch)
        else:
            how = "repeated"
        if not course.goes_back:
            progress.attempt = None
            progress.validated = course.validated
            progress.saved = course.saved
            if progress.told < progress.position.step:
                self._tell(progress)
        self._world.note("recovered", step=progress.position.step, epoch=talk.epoch, how=how)

    async def _agree(self, talk: _Talk) -> Course:
        progress = self._progress
        is_complete = progress.attempt is not None and progress.attempt.is_complete
        mine = Held(
            reached=progress.reached,
            step=progress.position.step,
            complete=progress.attempted if is_complete else NOTHING,
            validated=progress.validated,
        )
        names: Sequence[str] = ()
        if talk.is_first:
            names = checkpoint.newest_first(await self._world.store("run").list(checkpoint.FOLDER))

        def decide(every: Sequence[Mapping[str, Any]]) -> Mapping[str, Fact]:
            return asdict(common_course([Held(**held) for held in every], names))

        agreed: dict[str, Any] = dict(await talk.decide(asdict(mine), decide))
        return Course(**agreed | {"checkpoints": tuple(agreed["checkpoints"])})

    async def _go_back(self, talk: _Talk, course: Course) -> str:
        """Go back to the newest state that all can restore, in memory or on disk; else begin anew.

        Returns how, in words.
        Raises CheckpointError where there are checkpoints, and nothing can be used.
        """
        progress = self._progress
        progress.reached, progress.attempt = NOTHING, None  # until all are at one place
        reasons = []
        for name in course.checkpoints:
            if await self._went_back_in_memory(talk, checkpoint.step_of(name)):
                return "restored from memory"
            position, reason = Position(), ""
            try:
                position = await checkpoint.restore(self._world, self._stage, name, self._stream)
            except RunError as error:
                reason = error.problem
            answer = await talk.decide({"reason": reason}, _first_reason)
            if not answer["reason"]:
                return await self._went_back(talk, position)
            reasons.append(answer["reason"])
        if await self._went_back_in_memory(talk, 0):
            return "restored from memory"
        if reasons:
            raise CheckpointError(
                f"no checkpoint can be used to go on from: {reasons[0]}",
                "go back to a copy of one, or start anew in another --run-dir",
            )
        await self._world.compute(*self._stage.initialise())
        return await self._went_back(talk, Position())

    async def _went_back_in_memory(self, talk: _Talk, on_disk: int) -> bool:
        """Go back to a snapshot, if there is one that is not older than what is ``on_disk``."""
        if self._memory is None:
            return False
        kept = await self._memory.restore(talk.mesh, talk.members, on_disk=on_disk)
        if kept is not None:
            self._progress.put_back(kept, talk.epoch)
            self._progress.saved = on_disk
        return kept is not None

    async def _went_back(self, talk: _Talk, position: Position) -> str:
        """All have what is on disk, or what a run begins with."""
        if self._memory is not None:
            await self._memory.gone_back(talk.mesh, position)
        self._progress.put_back(position, talk.epoch)
        return "restored"


class _Talk:
    """The members of one mesh, who come to one decision after another by mail.

    A barrier stands between sending and receiving, so that nobody waits for a letter of somebody
    who was lost: beyond the barrier all letters are on their way.
    """

    def __init__(self, world: RecoveryWorld, mesh: Group, members: Sequence[int]) -> None:
        self._world = world
        self.mesh = mesh
        self.members = members
        """By rank."""
        self.epoch = mesh.epoch
        self.is_first = mesh.rank == 0

    async def decide(
        self,
        mine: Mapping[str, Fact],
        decision: Callable[[Sequence[Mapping[str, Any]]], Mapping[str, Fact]],
    ) -> Mapping[str, Any]:
        """Return what the first member decides, given the facts of each, by rank."""
        first, *others = self.members
        if not self.is_first:
            await self._send(first, mine)
            await self._world.barrier(self.mesh)
            await self._world.barrier(self.mesh)
            return await self._receive(first)
        await self._world.barrier(self.mesh)
        decided = decision([mine, *[await self._receive(member) for member in others]])
        for member in others:
            await self._send(member, decided)
        await self._world.barrier(self.mesh)
        return decided

    async def _send(self, member: int, facts: Mapping[str, Fact]) -> None:
        await self._world.send(member, CHANNEL, {"epoch": self.epoch, "says": facts})

    async def _receive(self, member: int) -> Mapping[str, Any]:
        """Return what ``member`` says; what it said in an earlier epoch is dropped."""
        while True:
            letter = await self._world.receive(CHANNEL, member)
            facts: Mapping[str, Any] = letter.facts
            if facts["epoch"] == self.epoch:
                says: Mapping[str, Any] = facts["says"]
                return says


def _first_reason(every: Sequence[Mapping[str, Any]]) -> Mapping[str, Fact]:
    return {"reason": next((held["reason"] for held in every if held["reason"]), "")}
