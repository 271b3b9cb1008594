"""Tasks and the trampoline that drives them. Both worlds use this; neither uses asyncio.

A task is a coroutine that awaits handles and nothing else. Tasks are structured: whoever starts
one does so in a scope, and leaves the scope only when all its tasks have ended.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, TypeVar

from antiphon.world.handle import Handle

T = TypeVar("T")


class Cancelled(BaseException):  # noqa: N818 - a BaseException, so that `except Exception` lets it by
    """Raised inside a task that its scope gave up on."""


class Task(Handle[T]):
    """A running coroutine; as a handle it settles with what the coroutine returns."""

    __slots__ = ("_awaited", "_coroutine", "_interruption", "_is_ready", "_trampoline")

    def __init__(
        self, coroutine: Coroutine[Handle[Any], None, T], trampoline: Trampoline, name: str
    ) -> None:
        super().__init__(name)
        self._coroutine = coroutine
        self._trampoline = trampoline
        self._awaited: Handle[Any] | None = None
        self._interruption: BaseException | None = None
        self._is_ready = False

    def cancel(self) -> None:
        """Raise ``Cancelled`` where the task waits. A task that has ended is left alone."""
        if not self.is_settled:
            self._awaited = None
            self._interruption = Cancelled()
            self.wake()

    def wake(self) -> None:
        """Let the task go on at the trampoline's next turn."""
        if not self._is_ready:
            self._is_ready = True
            self._trampoline.ready.append(self)

    def advance(self) -> None:
        """Run the coroutine to its next await. Only the trampoline calls this."""
        self._is_ready = False
        interruption, self._interruption = self._interruption, None
        try:
            if interruption is None:
                awaited = self._coroutine.send(None)
            else:
                awaited = self._coroutine.throw(interruption)
        except StopIteration as stop:
            self.settle(stop.value)
        except BaseException as error:  # noqa: BLE001 - it is handed to whoever awaits the task
            self.fail(error)
        else:
            self._awaited = awaited
            awaited.on_settled(lambda: self._wake_from(awaited))

    def _wake_from(self, awaited: Handle[Any]) -> None:
        if self._awaited is awaited:  # else it was cancelled while it waited
            self.wake()


class Trampoline:
    """The tasks that can go on, in the order in which they became able to."""

    def __init__(self) -> None:
        self.ready: deque[Task[Any]] = deque()
        self.current: Task[Any] | None = None

    def start(self, coroutine: Coroutine[Handle[Any], None, T], name: str = "") -> Task[T]:
        """Make a task of ``coroutine``; it begins at the next ``run_ready``."""
        task = Task(coroutine, self, name or getattr(coroutine, "__qualname__", "task"))
        task.wake()
        return task

    def run_ready(self, suspended: Callable[[], None] | None = None) -> None:
        """Run until every task waits; ``suspended`` is called whenever one has stopped to wait."""
        while self.ready:
            self.current = self.ready.popleft()
            self.current.advance()
            self.current = None
            if suspended is not None:
                suspended()


class Scope:
    """``async with Scope(trampoline) as tasks``: ends when all tasks begun in it have ended.

    The first failure, of a task or of the body, cancels the rest, body included, and is raised at
    the end.
    """

    def __init__(self, trampoline: Trampoline) -> None:
        self._trampoline = trampoline
        self._tasks: list[Task[Any]] = []
        self._owner: Task[Any] | None = None  # whose body runs; None once the body has ended
        self._failure: BaseException | None = None
        self._idle: Handle[None] = Handle("scope")

    def start(self, coroutine: Coroutine[Handle[Any], None, T], name: str = "") -> Task[T]:
        """Start a task that may not outlive the scope."""
        task = self._trampoline.start(coroutine, name)
        self._tasks.append(task)
        task.on_settled(lambda: self._ended(task))
        return task

    async def __aenter__(self) -> Scope:
        self._owner = self._trampoline.current
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._owner = None
        if error is not None:
            self._give_up(error)
        while not self._all_ended():
            self._idle = Handle("scope")
            try:
                await self._idle
            except (
                Cancelled
            ) as cancelled:  # from an outer scope: pass it on, then wait all the same
                self._give_up(cancelled)
        if self._failure is not None and self._failure is not error:
            raise self._failure

    def _all_ended(self) -> bool:
        return all(task.is_settled for task in self._tasks)

    def _ended(self, task: Task[Any]) -> None:
        if task.error is not None and not isinstance(task.error, Cancelled):
            self._give_up(task.error)
        if self._all_ended():
            self._idle.settle(None)

    def _give_up(self, error: BaseException) -> None:
        if self._failure is not None:
            return
        self._failure = error
        for task in self._tasks:
            task.cancel()
        if self._owner is not None:
            self._owner.cancel()
