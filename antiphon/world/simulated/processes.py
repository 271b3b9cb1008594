"""The processes of a simulation: how they start, end, and what ends with them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from antiphon.cost.price import nanoseconds
from antiphon.world.handle import Handle
from antiphon.world.protocols import Fact
from antiphon.world.simulated.log import Did
from antiphon.world.simulated.member import SimWorld
from antiphon.world.simulated.membership import Mesh
from antiphon.world.simulated.queue import Call
from antiphon.world.simulated.ties import key_of, tie
from antiphon.world.task import Task

if TYPE_CHECKING:
    from antiphon.world.simulated.world import Simulation

Program = Callable[[SimWorld], Coroutine[Handle[Any], None, Any]]


class Processes:
    """One for each member that lives."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self.queue = simulation.queue
        self.log = simulation.log
        self.seed = simulation.seed
        self.failures: list[BaseException] = []
        """Of programs, in the order in which they happened."""
        self.running: dict[int, Task[Any]] = {}
        """Programs that go on, by member."""
        self.results: dict[int, Any] = {}
        """Of programs that have returned, by member."""
        self.ended = 0
        """When the last one did, in nanoseconds."""
        self.losses = 0
        """How many have died."""
        self._programs: dict[int, Program] = {}
        self._starting: dict[int, object] = {}  # members, with what is the start's own
        self._unnoticed: dict[int, object] = {}  # those dead of whom nobody knows
        self._bit_key = key_of(simulation.seed + 1)
        self._numbers = 0

    def begin(self, programs: Mapping[int, Program]) -> None:
        """Start those that are there from the start."""
        self._programs = dict(programs)
        for member in programs:
            if member < self._simulation.members:
                self._run(self._simulation.worlds[member])
            else:
                self._simulation.mail.absent(member)

    def is_alive(self, member: int) -> bool:
        """Whether it has a process, or will have one soon."""
        return member in self.running or member in self._starting

    def is_finished(self, member: int) -> bool:
        """Whether its program has returned."""
        return member in self.results

    def alive(self) -> Sequence[int]:
        """Members whose program goes on."""
        return sorted(self.running)

    @property
    def is_starting(self) -> bool:
        """Whether there are some that have not come to their first line."""
        return bool(self._starting)

    @property
    def is_over(self) -> bool:
        """Whether no program goes on, or will as far as these know."""
        return not (self.running or self._starting or self._unnoticed)

    def crash(self, member: int, *, is_noticed: bool = False) -> None:
        """End a process where it is. What it has sent by mail arrives, what was sent to it is lost.

        ``is_noticed``: the supervisor has killed it, and says so at once.
        """
        if not self.is_alive(member):
            return
        simulation = self._simulation
        self.happened("crash", member)
        self.losses += 1
        if self.running.pop(member, None) is None:
            del self._starting[member]  # it had not come to its first line
        else:
            self._end(simulation.worlds[member])
        simulation.supervisor.died(member)
        self._unnoticed[member] = token = object()
        seconds = 0.0 if is_noticed else simulation.supervisor.delays.detection_seconds
        self._at(nanoseconds(seconds), member, self._notice, (member, token))

    def start_again(self, member: int, seconds: float) -> None:
        """Start a process in the place of a dead one, or of one that never was, in so long."""
        assert not self.is_alive(member)
        self._starting[member] = token = object()
        self._at(nanoseconds(seconds), member, self._come, (member, token))

    def dismiss(self) -> None:
        """End the processes that still wait, since there is nothing left to do."""
        for member in self.alive():
            del self.running[member]
            self._simulation.worlds[member].end()
            self.happened("dismissed", member)

    def break_epoch(self, member: int, mesh: Mesh) -> None:
        """Fail all that is open at ``member``."""
        simulation = self._simulation
        simulation.worlds[member].leave(mesh)
        simulation.dropped_old_epoch += simulation.exchanges.fail(member, mesh.broken)
        simulation.collectives.fail(member, mesh.broken)

    def enter(self, member: int, mesh: Mesh) -> None:
        """Have ``member`` compute in a new mesh."""
        self._simulation.worlds[member].enter(mesh)

    def new_epoch(self) -> None:
        """Drop what is left of the old one."""
        simulation = self._simulation
        simulation.dropped_old_epoch += simulation.exchanges.forget()
        simulation.collectives.forget()

    def decided(self, member: int | None, decision: Mapping[str, Fact]) -> None:
        """Log a decision."""
        self._simulation.decided(member, decision)

    def tell(self, member: int, about: int, *, is_lost: bool) -> None:
        """Have ``member`` hear that another is gone, or came."""
        mail = self._simulation.mail
        (mail.tell_lost if is_lost else mail.tell_joined)(member, about)

    def happened(self, what: str, member: int) -> None:
        """Note what became of a member."""
        self._simulation.events.append((self.queue.now, what, member))
        if what != "hang":  # of which nobody knows yet
            self._simulation.hear()

    def _run(self, world: SimWorld) -> None:
        member = world.member
        task = world.tasks.start(self._programs[member](world), f"member {member}")
        self.running[member] = task
        task.on_settled(partial(self._returned, member, task))

    def _returned(self, member: int, task: Task[Any]) -> None:
        del self.running[member]
        if task.error is not None:
            self.failures.append(task.error)
            return
        self.results[member] = task.result()
        self.ended = self.queue.now
        self.happened("finished", member)
        self._simulation.supervisor.finished(member)

    def _end(self, world: SimWorld) -> None:
        """Let all that a process had vanish, whatever its program was about."""
        simulation, member, now = self._simulation, world.member, self.queue.now
        number = world.end()
        self.log.add(now, now, member, number, Did.DEATH, 0)

        def is_kept(other: int, number: int) -> bool:
            return bool(tie(self._bit_key, now, other, number) >> 32 & 1)

        def is_computed(call: Call, _argument: Any) -> bool:
            return getattr(call, "__self__", None) in world.lanes

        simulation.go_on(member)
        self.queue.remove(is_computed)
        if simulation.computing is not None:
            simulation.computing.unwind(member)
        simulation.exchanges.lose(member, is_kept)
        simulation.collectives.lose(member, is_kept)
        simulation.mail.lose(member)

    def _notice(self, death: tuple[int, object]) -> None:
        member, token = death
        if self._unnoticed.get(member) is token:
            del self._unnoticed[member]
            self._simulation.supervisor.judge(member)

    def _come(self, start: tuple[int, object]) -> None:
        member, token = start
        if self._starting.get(member) is not token:
            return
        if member in self._unnoticed:  # as one that starts: the verdict is not to start it again
            self._notice((member, self._unnoticed[member]))
        del self._starting[member]
        simulation = self._simulation
        before = simulation.worlds.get(member)
        world = SimWorld(simulation, member, actions=0 if before is None else before.end())
        world.is_new = True
        simulation.worlds[member] = world
        simulation.equip(world)
        simulation.mail.start(member)
        self.happened("started", member)
        self._run(world)
        simulation.supervisor.came(member)

    def _at(self, late: int, member: int, call: Call, argument: Any) -> None:
        self._numbers -= 1
        self.queue.at(self.queue.now + late, member, self._numbers, call, argument)
