"""Virtual time: what happens next, and when."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from typing import Any

from antiphon.world.simulated.ties import key_of

Call = Callable[[Any], None]
Event = tuple[int, int, int, Call, Any]
"""When, its place among those of that time, a number of its own, what is called, with what."""


class EventQueue:
    """Events in order of time; of those at one time, in the order drawn from the seed."""

    def __init__(self, seed: int) -> None:
        self.now = 0  # nanoseconds
        self.key = key_of(seed)
        self._pushed = 0
        self.heap: list[Event] = []

    def __len__(self) -> int:
        return len(self.heap)

    def at(self, time: int, rank: int, number: int, call: Call, argument: Any) -> None:
        """Have ``call(argument)`` made at ``time``, for action ``number`` of ``rank``."""
        self._pushed = pushed = self._pushed + 1
        tie = hash((self.key, time, rank, number))  # `ties.tie`, without the time of a call
        heappush(self.heap, (time, tie, pushed, call, argument))

    def next(self) -> bool:
        """Let the next event happen; False where there is none."""
        if not self.heap:
            return False
        self.now, _, _, call, argument = heappop(self.heap)
        call(argument)
        return True

    def open(self) -> Iterator[tuple[int, str]]:
        """Yield (member, words) of what is held up: nothing is here."""
        return iter(())

    def letters(self) -> Iterator[str]:
        """Name the letters that are held up: none are here."""
        return iter(())

    def events(self) -> list[Event]:
        """Return all that is to happen, in order; what is held up comes last."""
        return sorted(self.heap)

    def remove(self, is_meant: Callable[[Call, Any], bool]) -> list[Event]:
        """Take out the events that are meant, and return them in their order.

        This looks at every event: it is for what happens seldom.
        """
        removed: list[Event] = []
        left: list[Event] = []
        for event in sorted(self.heap):
            (removed if is_meant(event[3], event[4]) else left).append(event)
        if removed:
            self.heap[:] = left  # whoever goes through it keeps its hold
            heapify(self.heap)
        return removed

    def put_back(self, event: Event, time: int) -> None:
        """Have an event that was taken out happen at ``time``."""
        self._pushed += 1
        heappush(self.heap, (time, event[1], self._pushed, *event[3:]))
