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

MOST_AWAITS = 100  # that an abandoned task is closed out of, one inside the other


class Cancelled(BaseException):
    """Raised inside a task that its scope gave up on. ``except Exception`` lets it by."""


class Task(Handle[T]):
    """A running coroutine; as a handle it settles with what the coroutine returns."""

    __slots__ = (
        "_awaited",
        "_coroutine",
        "_interruption",
        "_is_ready",
        "_trampoline",
        "is_cancelled",
        "scope",
    )

    def __init__(
        self, coroutine: Coroutine[Handle[Any], None, T], trampoline: Trampoline, name: str
    ) -> None:
        super().__init__(name)
        self._coroutine = coroutine
        self._trampoline = trampoline
        self._awaited: Handle[Any] | None = None
        self._interruption: BaseException | None = None
        self._is_ready = False
        self.is_cancelled = False
        self.scope: Scope | None = None  # the innermost whose body it is in

    def cancel(self) -> None:
        """Have it end with ``Cancelled``, raised where it waits. An ended task is left alone."""
        if not self.is_settled:
            self.is_cancelled = True
            self.interrupt()

    def interrupt(self) -> None:
        """Raise ``Cancelled`` where it waits: a scope that gave up gets its body back so."""
        self._awaited = None
        self._interruption = Cancelled()
        self.wake()

    def abandon(self) -> None:
        """End it where it waits and tell nobody: the process that it belonged to is gone."""
        self._settled = True
        self._awaited = None
        self._waiting = None
        for _ in range(MOST_AWAITS):
            try:
                self._coroutine.close()
            except BaseException:  # noqa: BLE001 - the end of the dead is nobody's affair
                continue
            return

    def wake(self) -> None:
        """Let the task go on at the trampoline's next turn."""
        if not self._is_ready:
            self._is_ready = True
            self._trampoline.ready.append(self)

    def advance(self) -> None:
        """Run the coroutine to its next await. Only the trampoline calls this."""
        self._is_ready = False
        if self._settled:  # abandoned
            return
        interruption = self._interruption
        self._awaited = None
        try:
            if interruption is None:
                awaited = self._coroutine.send(None)
            else:
                self._interruption = None
                awaited = self._coroutine.throw(interruption)
        except StopIteration as stop:
            self.settle(stop.value)
        except BaseException as error:  # noqa: BLE001 - it is handed to whoever awaits the task
            self.fail(error)
        else:
            self._awaited = awaited
            awaited.on_settled(self._resume)

    def _resume(self) -> None:
        """Go on if what is awaited is settled; it may be something that was awaited before."""
        awaited = self._awaited
        if awaited is not None and awaited._settled and not self._is_ready:
            self._is_ready = True  # `wake`, without a call
            self._trampoline.ready.append(self)


class Trampoline:
    """The tasks that can go on, in the order in which they became able to."""

    def __init__(self, driver: Trampoline | None = None) -> None:
        """``driver``: the one whose turns these tasks take part in; None: this one."""
        self._driver = driver or self
        self._current: Task[Any] | None = None
        self.ready: deque[Task[Any]] = deque() if driver is None else driver.ready

    @property
    def current(self) -> Task[Any] | None:
        """The task that goes on."""
        return self._driver._current

    def start(self, coroutine: Coroutine[Handle[Any], None, T], name: str = "") -> Task[T]:
        """Make a task of ``coroutine``; it begins at the next ``run_ready``."""
        task = Task(coroutine, self, name or getattr(coroutine, "__qualname__", "task"))
        task.wake()
        return task

    def run_ready(self, suspended: Callable[[], None] | None = None) -> None:
        """Run until every task waits; ``suspended`` is called whenever one has stopped to wait."""
        ready = self.ready
        while ready:
            self._current = task = ready.popleft()
            task.advance()
            if suspended is not None:
                self._current = None
                suspended()
        self._current = None


class Scope:
    """``async with Scope(trampoline) as tasks``: ends when all tasks begun in it have ended.

    The first failure, of a task or of the body, cancels the rest, body included, and is raised at
    the end; unless an outer scope has given up, too: then the body goes on to leave that one.
    """

    def __init__(self, trampoline: Trampoline) -> None:
        self._trampoline = trampoline
        self._tasks: list[Task[Any]] = []  # that have not ended
        self._owner: Task[Any] | None = None  # whose body this is
        self._outer: Scope | None = None  # in the same body
        self._is_in_body = False
        self._failure: BaseException | None = None
        self._idle: Handle[None] = Handle("scope")
        self._has_ended = False

    def start(self, coroutine: Coroutine[Handle[Any], None, T], name: str = "") -> Task[T]:
        """Start a task that may not outlive the scope; one that gave up cancels it at once."""
        assert not self._has_ended, "a task is started in a scope that has ended"
        task = self._trampoline.start(coroutine, name)
        self._tasks.append(task)
        task.on_settled(lambda: self._task_ended(task))
        if self._failure is not None:
            task.cancel()
        return task

    async def __aenter__(self) -> Scope:
        owner = self._trampoline.current
        assert owner is not None, "a scope is opened outside of a task"
        self._owner, self._outer, owner.scope = owner, owner.scope, self
        self._is_in_body = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._owner is not None
        if kind is GeneratorExit:
            return  # the program is dropped, with the loop that would have driven its tasks
        self._is_in_body = False
        self._owner.scope = self._outer
        if error is not None:
            self._give_up(error)
        while self._tasks:
            self._idle = Handle("scope")
            try:
                await self._idle
            except Cancelled as cancelled:  # by an outer scope: pass it on, wait all the same
                self._give_up(cancelled)
        self._has_ended = True
        if self._is_cancelled(self._owner):
            raise Cancelled
        if self._failure is not None and self._failure is not error:
            raise self._failure

    def _is_cancelled(self, owner: Task[Any]) -> bool:
        """Whether the body is to leave more than this scope, which may have hidden it from it."""
        outer = self._outer
        while outer is not None:
            if outer._failure is not None:
                return True
            outer = outer._outer
        return owner.is_cancelled

    def _task_ended(self, task: Task[Any]) -> None:
        self._tasks.remove(task)
        is_as_asked = task.is_cancelled and isinstance(task.error, Cancelled)
        if task.error is not None and not is_as_asked:
            self._give_up(task.error)
        if not self._tasks:
            self._idle.settle(None)

    def _give_up(self, error: BaseException) -> None:
        if self._failure is not None:
            return
        self._failure = error
        for task in self._tasks:
            task.cancel()
        if self._is_in_body and self._owner is not None:
            self._owner.interrupt()
