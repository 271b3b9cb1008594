"""The simulated world: computations take the time of their Work.

Charged, nothing is computed. With real math they are carried out, too, while virtual time stands
still, and collectives and messages carry real numbers; all happens at the same times.
All members run in one process, driven by one trampoline, in virtual integer nanoseconds. What
happens at one time is ordered by the seed, so that no program is right by luck.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Mapping, Sequence
from heapq import heappop
from typing import Any, TypeVar, cast

from antiphon.cost.price import NANOSECONDS
from antiphon.errors import RunError
from antiphon.policy.recovery.recovery import Outcome, RecoveryRule
from antiphon.spec.faults import Faults
from antiphon.world.failure import GaveUp
from antiphon.world.handle import Handle
from antiphon.world.protocols import Fact, Store
from antiphon.world.simulated.collectives import CollectiveLane
from antiphon.world.simulated.computing import Computing, Isolation
from antiphon.world.simulated.faults import FaultInjector
from antiphon.world.simulated.lane import ComputeLane, Run
from antiphon.world.simulated.log import Did, EventLog
from antiphon.world.simulated.mail import Mail
from antiphon.world.simulated.member import SimWorld
from antiphon.world.simulated.membership import Delays, Supervisor
from antiphon.world.simulated.messages import Exchanges
from antiphon.world.simulated.obstacles import ObstructedQueue
from antiphon.world.simulated.patience import Patience
from antiphon.world.simulated.prices import Prices
from antiphon.world.simulated.processes import Processes
from antiphon.world.simulated.queue import EventQueue
from antiphon.world.simulated.storage import MemoryStore
from antiphon.world.task import Trampoline

__all__ = ["Delays", "SimWorld", "Simulation"]

T = TypeVar("T")
Program = Callable[[SimWorld], Coroutine[Handle[Any], None, T]]
"""What a member does. A function of its world, so that it can be started again."""
OnNote = Callable[[str, int, dict[str, Any]], None]  # (topic, member, facts)

MOST_NAMED = 8  # members, and letters, that a deadlock's message names


class Simulation:
    """So many members, all of which one process simulates."""

    def __init__(
        self,
        prices: Prices,
        members: int,
        *,
        seed: int = 0,
        together: Sequence[int] | None = None,
        axes: Mapping[str, int] | None = None,
        simulated: Sequence[int] | None = None,
        on_note: OnNote | None = None,
        isolation: Isolation | None = None,
        stores: Mapping[str, Store] | None = None,
        faults: Faults | None = None,
        recover: RecoveryRule | None = None,
        delays: Delays | None = None,
    ) -> None:
        """``together``: the members that form the mesh, from 0 on (None: all of them); the others
        have mail only. ``axes`` of that mesh, by name (None: all of them are along ``data``).
        ``simulated``: those that have a program (None: all); every other one does what some
        simulated one does, so that groups do not wait for it. With ``isolation`` what they compute
        is computed. ``stores`` by tier; of any other tier there is one in memory. ``recover`` says
        what becomes of a mesh that lost members (None: the run ends)."""
        assert isolation is None or simulated is None, "what is computed needs every rank"
        assert faults is None or simulated is None, "what a fault breaks needs every rank"
        obstructed = None if faults is None else ObstructedQueue(seed)
        self.queue = EventQueue(seed) if obstructed is None else obstructed
        self.log = EventLog(seed)
        self.trampoline = Trampoline()
        self.members = members
        self.together = tuple(range(members) if together is None else together)
        assert self.together == tuple(range(len(self.together))), "the first members are together"
        self.are_all_together = len(self.together) == members
        """Then those that join are, too."""
        self.simulated = tuple(range(members)) if simulated is None else tuple(simulated)
        self.seed = seed
        self.prices = prices
        self.computing = None if isolation is None else Computing(isolation)
        self.events: list[tuple[int, str, int]] = []
        """What became of members: when (nanoseconds), what, of whom."""
        self.dropped_old_epoch = 0
        """Messages of a broken epoch, dropped."""
        self.note = on_note or (lambda _topic, _member, _facts: None)
        self.decisions: list[str] = []  # as JSON, in the order in which they were taken
        self.asked: list[tuple[ComputeLane, Run]] = []  # computations, since tasks last went on
        self.stores: dict[str, Store] = dict(stores or {})
        self.processes = Processes(self)
        self.supervisor = Supervisor(
            self.processes, self.together, axes, recover, delays or Delays()
        )
        self._injector: FaultInjector | None = None
        self._patience: Patience | None = None
        if faults is not None and obstructed is not None:
            self._injector = injector = FaultInjector(self, faults, obstructed)
            prices = injector.links
            seconds = self.supervisor.delays.patience_seconds
            if seconds is not None:
                self._patience = Patience(obstructed, self.processes, injector, seconds)
        uses: dict[str, str] = {}
        self.mail = Mail(self.queue, self.log, prices, uses)
        self.exchanges = Exchanges(self.queue, self.log, prices, uses)
        self.exchanges.have_content = isolation is not None
        self.worlds = {member: SimWorld(self, member) for member in self.simulated}
        self.collectives = CollectiveLane(
            self.queue,
            self.log,
            prices,
            lambda member, begin, end: self.worlds[member].lane.contend(begin, end),
            None if self.computing is None else self.computing.soon,
        )

    def run(self, programs: Mapping[int, Program[T]]) -> dict[int, T]:
        """Carry out a program for each simulated member; return what each returns.

        Those of members that are not there from the start begin when they join; the program of one
        that is started anew begins again. Left out are members that died and did not return, and
        those beside the mesh that only wait when its work is over. Raises
        what the first program that fails raises, GaveUp where the supervisor ended the run, and
        RunError where nothing can happen any more and some have not ended.
        """
        processes = self.processes
        for world in self.worlds.values():
            self.equip(world)
        processes.begin(programs)
        if self._injector is not None:
            self._injector.begin()
        self._turn()
        if self.computing is None:
            self._run_charged(processes.failures)
        else:
            self._run_computing(self.computing, processes.failures)
        if not processes.failures:
            self._end_if_stuck()
        failures = processes.failures
        if processes.running and not failures and self.computing is not None:
            failures += self.computing.failures  # which nobody has awaited
        if failures:
            raise failures[0]
        if self.supervisor.reason is not None:
            raise GaveUp(self.supervisor.reason)
        if not self._is_work_over:
            self._require_end()
        processes.dismiss()
        return cast(
            "dict[int, T]",
            {member: processes.results[member] for member in sorted(processes.results)},
        )

    @property
    def outcome(self) -> Outcome:
        """``finished`` without a loss, ``recovered`` from losses, or ``reported``."""
        if self.supervisor.reason is not None:
            return "reported"
        return "recovered" if self.processes.losses else "finished"

    @property
    def seconds(self) -> float:
        """When the last program returned, in virtual time."""
        return self.processes.ended / NANOSECONDS

    def equip(self, world: SimWorld) -> None:
        """Have faults show in the world of a new process."""
        if self._injector is not None:
            self._injector.equip(world)

    def go_on(self, member: int) -> None:
        """Let a member go on that may stand still."""
        if self._injector is not None:
            self._injector.go_on(member)

    def store(self, tier: str, world: SimWorld) -> Store:
        """Return the storage that all members share, as one finds it."""
        store = self.stores.setdefault(tier, MemoryStore())
        return store if self._injector is None else self._injector.store(world, store)

    def hear(self) -> None:
        """Take note of a sign of life."""
        if self._patience is not None:
            self._patience.hear()

    def heed(self, topic: str, member: int, facts: dict[str, Any]) -> None:
        """Take note of what a member tells."""
        self.hear()
        self.supervisor.heed(topic, facts)
        if self._injector is not None:
            self._injector.heed(topic, member, facts)
        self.note(topic, member, facts)

    def sleep(self, member: int, number: int, nanoseconds: int) -> Handle[None]:
        """Return what settles in so many nanoseconds: action ``number`` of ``member``."""
        assert nanoseconds >= 0, f"a sleep of {nanoseconds} ns"
        slept: Handle[None] = Handle("sleep")
        begin = self.queue.now

        def wake(slept: Handle[None]) -> None:
            if not slept.is_settled:
                self.log.add(begin, self.queue.now, member, number, Did.SLEEP, 0)
                slept.settle(None)

        self.queue.at(begin + nanoseconds, member, number, wake, slept)
        return slept

    def decided(self, member: int | None, decision: Mapping[str, Fact]) -> None:
        """Keep a decision of a member, or of the supervisor (None), as JSON: facts may change."""
        seconds = self.queue.now / NANOSECONDS
        entry = {"member": member, "seconds": seconds, **decision}
        self.decisions.append(json.dumps(entry))

    def _run_charged(self, failures: Sequence[BaseException]) -> None:
        queue, asked, injector = self.queue, self.asked, self._injector
        heap, ready, run_ready = queue.heap, self.trampoline.ready, self.trampoline.run_ready
        while heap and not failures:
            queue.now, _, _, call, argument = heappop(heap)  # `queue.next`, without a call
            call(argument)
            while ready:  # `_turn`, without a call
                run_ready()
                for lane, run in asked:
                    lane.submit(run)
                asked.clear()
            if injector is not None:
                self._stop_faults(injector)
                if self._end_if_stuck():
                    return

    def _run_computing(self, computing: Computing, failures: Sequence[BaseException]) -> None:
        def turn() -> bool:
            if failures:
                return False
            if self.trampoline.ready:
                self._turn()
                return True
            if self._injector is not None:
                self._stop_faults(self._injector)
                if self._end_if_stuck():
                    return False
            return self.queue.next()

        computing.drive(turn)

    def _stop_faults(self, injector: FaultInjector) -> None:
        """Have nothing more break once nobody is there whom it could concern."""
        is_over = self.processes.is_over and not self.supervisor.is_pending
        if is_over and (self.processes.results or not injector.is_awaited):
            injector.stop()

    def _end_if_stuck(self) -> bool:
        """End the run where nobody tells anything any more, and its work is not over."""
        patience = self._patience
        if patience is None or self.supervisor.reason is not None or not patience.is_over:
            return False
        if self._is_work_over:
            return False
        self.queue.now = patience.end
        limit = f"{patience.seconds:g} s (`train.timeout_seconds`)"
        self.supervisor.end_run(
            f"no step was done, and nothing told, for {limit}: "
            f"{self._who_waits(self.processes.alive())}; see to that, or allow more, and go on "
            "from the last checkpoint with --resume"
        )
        return True

    @property
    def _is_work_over(self) -> bool:
        """Whether the mesh has come to its end: those beside it may wait for what never comes."""
        is_awaited = any(map(self.supervisor.is_together, self.processes.running))
        return self.supervisor.is_over and not is_awaited

    def _turn(self) -> None:
        """Let tasks go on; what they have asked for begins, or is dropped, which wakes others."""
        while self.trampoline.ready:
            self.trampoline.run_ready()
            for lane, run in self.asked:
                lane.submit(run)
            self.asked.clear()

    def _require_end(self) -> None:
        if self.processes.running:
            raise self._deadlock(self.processes.alive())

    def _deadlock(self, waiting: Sequence[int]) -> RunError:
        seconds = self.queue.now / NANOSECONDS
        return RunError(
            f"deadlock at {seconds:.9f} s of simulated time, {len(waiting)} ranks wait: "
            + self._who_waits(waiting),
            "both ends of a message must post it, and in the same order",
        )

    def _who_waits(self, waiting: Sequence[int]) -> str:
        """Say for whom each waits; first those whom a fault holds up."""
        engines = (self.queue, self.supervisor, self.exchanges, self.collectives, self.mail)
        why: dict[int, str] = {}
        for member, words in (each for engine in engines for each in engine.open()):
            why.setdefault(member, words)
        for member in waiting:
            why.setdefault(member, f"rank {member} waits for no message")
        named = [words for member, words in why.items() if member in waiting]
        letters = list(self.queue.letters())
        held = f"; held up: {_listed(letters)}" if letters else ""
        return _listed(named) + held


def _listed(words: Sequence[str]) -> str:
    more = f"; and {len(words) - MOST_NAMED} more" if len(words) > MOST_NAMED else ""
    return "; ".join(words[:MOST_NAMED]) + more
