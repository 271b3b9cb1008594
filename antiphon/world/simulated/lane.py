"""The compute lane of a rank: computations one after another, slowed by collectives beside them."""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from antiphon.cost.price import Priced
from antiphon.cost.work import Work
from antiphon.world.handle import NO_MILESTONES, Computation
from antiphon.world.simulated.contention import Window, left_at, merged, time_after
from antiphon.world.simulated.log import Did, EventLog, pack
from antiphon.world.simulated.queue import EventQueue

COMPUTED: Final = int(Did.COMPUTE)


class Run(Computation[Any]):
    """One computation on its lane."""

    __slots__ = ("computed", "number", "priced")

    def __init__(self, work: Work, priced: Priced, number: int) -> None:
        if work.milestones:
            Computation.__init__(self, work.name, [name for _, name in work.milestones])
        else:  # the same without a call
            self.name = work.name
            self._waiting = self._error = self._result = None
            self._settled = False
            self._milestones = NO_MILESTONES
        self.priced = priced
        self.number = number
        self.computed: Any = None  # what it yields, where it is carried out


class ComputeLane:
    """Carries out computations in the order in which they were queued."""

    def __init__(self, rank: int, queue: EventQueue, log: EventLog, contention: float) -> None:
        self.rank = rank
        self._queue = queue
        self._advanced = self._advance  # bound once
        self._done = log.columns
        self._contention = contention
        self._waiting: deque[Run] = deque()
        self._windows: list[Window] = []
        self._stopped: int | None = None  # when it stood still
        self._running: Run | None = None
        # Of the one that runs:
        self._began = 0
        self._passed = 0  # milestones behind it
        self._reached = 0  # when it began or passed the last of them
        self._progress = 0  # nanoseconds of work that were done then
        self._plans = 0  # how often what is done next was planned, of all that ever ran

    def submit(self, run: Run) -> None:
        """Queue a computation; it begins at once if the lane is free."""
        if self._running is not None:
            self._waiting.append(run)
            return
        if run._settled:  # it is not wanted any more
            self._drop(run)
            return
        self._running = run
        self._began = self._reached = now = self._queue.now
        self._passed = self._progress = 0
        priced = run.priced
        if priced.milestones or self._windows:
            self._plan(run)
        else:
            self._plans = plan = self._plans + 1
            self._queue.at(now + priced.nanoseconds, self.rank, run.number, self._advanced, plan)

    def contend(self, begin: int, end: int) -> None:
        """Be slowed by a collective that goes on from ``begin``, not earlier than now."""
        if self._contention == 0 or self._stopped is not None:
            return
        run = self._running
        since = self._queue.now if run is None else self._reached
        self._windows = merged(self._windows, (begin, end), since)
        if run is not None:
            self._plan(run)  # what it was to do next comes later now

    def stop(self) -> None:
        """Stand still: do nothing until ``go_on``."""
        self._stopped = now = self._queue.now
        self._queue.remove(lambda call, _: getattr(call, "__self__", None) is self)
        run = self._running
        if run is not None:
            target = self._target(run)
            left = target - self._progress
            left = left_at(now, self._reached, left, self._windows, self._contention)
            self._progress = target - max(0, left)  # each window is rounded
            self._plans += 1

    def go_on(self) -> None:
        """Do what is left; the collectives of this rank have stood still, too."""
        assert self._stopped is not None
        run, now, since = self._running, self._queue.now, self._stopped
        self._windows = [
            (max(begin, since) + now - since, end + now - since)
            for begin, end in self._windows
            if end > since
        ]
        self._stopped = None
        if run is not None:
            self._reached = now
            self._plan(run)

    def _plan(self, run: Run) -> None:
        """Have the next milestone passed, or the computation ended, when it is done so far."""
        left = self._target(run) - self._progress
        time = self._reached + left
        if self._windows:
            time = time_after(self._reached, left, self._windows, self._contention)
        self._plans = plan = self._plans + 1
        self._queue.at(time, self.rank, run.number, self._advanced, plan)

    def _target(self, run: Run) -> int:
        """Return the nanoseconds of work up to what it does next."""
        priced = run.priced
        is_last = self._passed == len(priced.milestones)
        return priced.nanoseconds if is_last else priced.milestones[self._passed][0]

    def _advance(self, plan: int) -> None:
        """Do what was planned for now, unless something else has been since."""
        run = self._running
        if plan != self._plans or run is None:
            return
        milestones = run.priced.milestones
        if not milestones or self._passed == len(milestones):
            entry = pack(self._began, self._queue.now, self.rank, run.number, COMPUTED, 0)
            self._done.frombytes(entry)
            self._running = None
            while self._waiting and self._running is None:
                self.submit(self._waiting.popleft())
            run.settle(run.computed)
            return
        name = milestones[self._passed][1]
        self._reached, self._progress = self._queue.now, self._target(run)
        self._passed += 1
        self._plan(run)
        run.milestone(name).settle(None)

    def _drop(self, run: Run) -> None:
        """Leave out a computation that was cancelled before it began."""
        assert run.error is not None
        for milestone in run.milestones.values():
            milestone.fail(run.error)
