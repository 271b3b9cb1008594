"""Hidden states and their gradients on their way from one stage to the next."""

from __future__ import annotations

from collections.abc import Collection
from typing import Generic, TypeVar

from antiphon.policy.pipeline.action import Action, Slot, slot_of

T = TypeVar("T")


class Buffers(Generic[T]):
    """A new buffer for each, so that none is written again before its message has left.

    Used while actions are asked for; the computations themselves fill and read them later.
    """

    def __init__(self, stages: Collection[int]) -> None:
        """``stages`` are those of this rank: between two of them nothing is sent."""
        self._stages = stages
        self._given: dict[Slot, T] = {}  # by the computation that works on it
        self._leaving: dict[Slot, T] = {}  # by the computation that makes it

    def make(self, action: Action, buffer: T) -> T:
        """Keep what the computation ``action`` is to fill for the stage beside it; return it."""
        is_forward, stage, microbatch = slot = slot_of(action)
        neighbour = stage + 1 if is_forward else stage - 1
        if neighbour in self._stages:
            self._given[is_forward, neighbour, microbatch] = buffer
        else:
            self._leaving[slot] = buffer
        return buffer

    def given(self, action: Action) -> T:
        """Return what the computation ``action`` works on."""
        return self._given.pop(slot_of(action))

    def send(self, action: Action) -> T:
        """Return what the message ``action`` takes along."""
        return self._leaving.pop(slot_of(action))

    def receive(self, action: Action, buffer: T) -> T:
        """Keep what the message ``action`` is to fill; return it."""
        self._given[slot_of(action)] = buffer
        return buffer

    def clear(self) -> None:
        """Forget those of a step that was broken off."""
        self._given.clear()
        self._leaving.clear()
