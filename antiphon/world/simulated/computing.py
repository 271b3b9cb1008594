"""Real math in simulated time: computations are carried out while virtual time stands still.

A ``run`` is carried out when its computation begins, from the top of the loop, and its results show
when virtual time has come to its milestones and its end. A run that waits for a collective inside
it parks its thread (see `baton`). Such a collective takes the time that its row of Work has, on
each member by itself: only the numbers meet. Where a member begins so late in virtual time that
another has passed the next milestone, or its end, by then, the other does so late; so it does where
a cut link, or a member that stands still, holds the meeting up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, TypeVar

from antiphon.cost.price import Priced
from antiphon.cost.work import Work
from antiphon.world.failure import GroupBroken
from antiphon.world.handle import Handle
from antiphon.world.simulated.baton import Baton, Unwound
from antiphon.world.simulated.contention import merged
from antiphon.world.simulated.lane import ComputeLane, Run
from antiphon.world.simulated.log import EventLog
from antiphon.world.simulated.queue import EventQueue
from antiphon.world.work_cursor import WorkCursor

T = TypeVar("T")


class Isolation(Protocol):
    """Keeps global state of a library apart, so that each rank computes as in its own process."""

    def call(self, run: Callable[[], T]) -> T:
        """Return what ``run`` returns, with the calling thread's state as in a new process."""

    def enter(self, rank: int) -> None:
        """Put the rank's state in the place of the process's: its run begins or goes on."""

    def leave(self, rank: int) -> None:
        """Keep the rank's state and put the process's back: its run ends or waits."""

    def forget(self, rank: int) -> None:
        """Drop the rank's state: its process has ended, and the next begins anew."""


class Computed(Run):
    """A computation that is carried out."""

    __slots__ = ("cursor", "is_done", "late", "rank", "run")

    def __init__(
        self,
        work: Work,
        priced: Priced,
        number: int,
        rank: int,
        run: Callable[[], Any] | None,
    ) -> None:
        super().__init__(work, priced, number)
        self.rank = rank
        self.run = run
        self.cursor = WorkCursor(work)
        self.is_done = run is None
        self.late: Callable[[], None] | None = None  # what was due before the run came to it


class ComputingLane(ComputeLane):
    """A lane whose computations are carried out."""

    def __init__(
        self,
        rank: int,
        queue: EventQueue,
        log: EventLog,
        contention: float,
        begun: Callable[[Computed, ComputingLane], None],
    ) -> None:
        """``begun`` has a computation carried out."""
        super().__init__(rank, queue, log, contention)
        self._begun = begun

    def contend(self, begin: int, end: int) -> None:
        """Be slowed by a collective, unless the running computation's time is over."""
        run = self._running
        if isinstance(run, Computed) and run.late is not None:
            self._windows = merged(self._windows, (begin, end), self._queue.now)
        else:
            super().contend(begin, end)

    def stop(self) -> None:
        """Stand still; a running computation whose time is over only waits for its run."""
        run = self._running
        if isinstance(run, Computed) and run.late is not None:
            self._stopped = self._queue.now
        else:
            super().stop()

    def go_on(self) -> None:
        """Do what is left, unless the running computation's time is over."""
        run = self._running
        if isinstance(run, Computed) and run.late is not None:
            self._stopped = None
            self.catch_up(run)
        else:
            super().go_on()

    def catch_up(self, run: Computed) -> None:
        """Do what was due before ``run`` came to it."""
        if run.late is not None and not self._is_behind(run):
            self._queue.at(self._queue.now, run.rank, run.number, self._do_late, run)

    def fail(self, run: Computed, error: BaseException) -> None:
        """End a computation that failed, and what was queued behind it: it may build on that."""
        failed = [run, *self._waiting]
        self._running = None
        self._waiting.clear()
        for each in failed:
            assert isinstance(each, Computed)
            for milestone in each.milestones.values():
                milestone.fail(error)
            each.fail(error)

    def _do_late(self, run: Computed) -> None:
        late = run.late
        if late is not None and self._stopped is None:
            run.late = None
            late()

    def submit(self, run: Run) -> None:
        """Queue a computation, or have it carried out."""
        assert isinstance(run, Computed)
        super().submit(run)
        if self._running is run and run.run is not None:
            self._begun(run, self)

    def _advance(self, plan: int) -> None:
        run = self._running
        if plan != self._plans or run is None:
            return
        assert isinstance(run, Computed)
        if self._is_behind(run):
            run.late = partial(self._advance, plan)
        else:
            super()._advance(plan)

    def _is_behind(self, run: Computed) -> bool:
        """Whether the run has not come to what its computation, the one at hand, does next."""
        return not run.is_done and run.cursor.passed <= self._passed


class Computing:
    """Carries out the runs of all ranks, one at a time."""

    def __init__(self, isolation: Isolation) -> None:
        self._isolation = isolation
        self._due: deque[Callable[[], None]] = deque()
        self._lane: ComputingLane | None = None  # of the run that goes on
        self._baton: Baton | None = None
        self._blocked: dict[Computed, Handle[Any]] = {}  # runs that wait, and for what
        self.current: Computed | None = None
        """The run that goes on; None outside of any."""
        self.failures: list[BaseException] = []
        """Of runs, in the order in which they happened."""

    def begun(self, run: Computed, lane: ComputingLane) -> None:
        """Have ``run`` carried out before anything else happens."""
        self._due.append(partial(self._carry_out, run, lane))

    def soon(self, call: Callable[[], None]) -> None:
        """Have the loop call this before anything else happens, outside of any run."""
        self._due.append(call)

    def drive(self, turn: Callable[[], bool]) -> None:
        """Take turns, and carry out runs between them, until there is no other turn."""

        def next_turn() -> bool:
            if self._due:
                self._due.popleft()()
                return True
            return turn()

        self._baton = Baton(next_turn)
        self._baton.run()

    def reach(self, milestone: str) -> None:
        """Pass a milestone of the run that goes on."""
        run, lane = self.current, self._lane
        assert run is not None, f"milestone {milestone!r} is passed outside of a computation"
        assert lane is not None
        run.cursor.reach(milestone)
        lane.catch_up(run)

    def wait(self, handle: Handle[T]) -> T:
        """Let others go on until ``handle`` is settled; from inside a run."""
        run, lane = self.current, self._lane
        assert run is not None, f"{handle!r} is waited for outside of a computation"
        assert self._baton is not None
        if not handle.is_settled:
            self._leave(run)
            self._blocked[run] = handle
            try:
                self._baton.wait(handle)
            finally:
                del self._blocked[run]
            if isinstance(handle.error, Unwound):
                raise handle.error
            self._enter(run, lane)
        return handle.result()

    def unwind(self, rank: int) -> None:
        """Leave the runs of a rank that wait: its process has ended."""
        for run, handle in list(self._blocked.items()):
            if run.rank == rank:
                handle.fail(Unwound())
        self._isolation.forget(rank)

    def _carry_out(self, run: Computed, lane: ComputingLane) -> None:
        assert run.run is not None
        self._enter(run, lane)
        try:
            run.computed = self._isolation.call(run.run)
            run.cursor.end()
        except Unwound:
            return
        except BaseException as error:  # noqa: BLE001 - it is raised where the handle is awaited
            self._leave(run)
            if not isinstance(error, GroupBroken):  # which says nothing of what it computes
                self.failures.append(error)
            lane.fail(run, error)
        else:
            self._leave(run)
            run.is_done = True
            lane.catch_up(run)

    def _enter(self, run: Computed, lane: ComputingLane | None) -> None:
        self.current, self._lane = run, lane
        self._isolation.enter(run.rank)

    def _leave(self, run: Computed) -> None:
        self._isolation.leave(run.rank)
        self.current = self._lane = None
