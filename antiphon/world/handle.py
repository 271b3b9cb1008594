"""A handle: what every action returns. Awaited at once it is a wait, awaited later an overlap."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from functools import partial
from types import FunctionType
from typing import Any, Final, Generic, TypeVar, cast

from antiphon.world.failure import ActionCancelled

T = TypeVar("T")


class Handle(Generic[T]):
    """Pending, then done or failed, once.

    A handle belongs to one loop, and only that loop settles it: a world whose work is done on other
    threads posts the outcome to the loop. Settling twice is ignored, so that a result which comes
    after a cancellation does no harm.
    """

    __slots__ = ("_error", "_result", "_settled", "_waiting", "name")

    def __init__(self, name: str = "") -> None:
        self.name = name
        self._waiting: Callable[[], None] | None = None
        self._error: BaseException | None = None
        self._result: T | None = None
        self._settled = False

    def __init_subclass__(cls) -> None:
        """Give each kind of handle busy methods of its own: some 5% of a simulation's time.

        CPython, from 3.11 on, learns in each place of a function's code which class it meets
        there; where classes take turns it looks everything up again and again.
        """
        super().__init_subclass__()
        for own in (Handle.settle, Handle.on_settled, Handle.__await__):
            if getattr(cls, own.__name__).__qualname__ == own.__qualname__:  # else it is another
                code = own.__code__.replace()
                setattr(cls, own.__name__, FunctionType(code, own.__globals__))

    @property
    def is_settled(self) -> bool:
        """Whether it is done or failed."""
        return self._settled

    @property
    def is_awaited(self) -> bool:
        """Whether it is pending, and somebody waits for it."""
        return self._waiting is not None

    @property
    def error(self) -> BaseException | None:
        """Why it failed; None while it is pending and when it is done."""
        return self._error

    def result(self) -> T:
        """Return what the action yielded, or raise what it failed with."""
        assert self._settled, f"{self!r} is read before it is settled"
        if self._error is not None:
            raise self._error
        return cast(T, self._result)

    def settle(self, result: T) -> None:
        """Mark it done and wake who waits."""
        if not self._settled:
            self._result = result
            self._settled = True
            waiting = self._waiting
            if waiting is not None:
                self._waiting = None
                waiting()

    def fail(self, error: BaseException) -> None:
        """Mark it failed and wake who waits."""
        if not self._settled:
            self._error = error
            self._settled = True
            waiting = self._waiting
            if waiting is not None:
                self._waiting = None
                waiting()

    def cancel(self) -> None:
        """Want it no more: it fails with ActionCancelled, unless it is settled.

        A computation that has not begun is not carried out; one that has goes on to its end.
        """
        self.fail(ActionCancelled(self.name))

    def on_settled(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once this is settled: now, if it is already."""
        if self._settled:
            callback()
        elif self._waiting is None:
            self._waiting = callback
        elif isinstance(self._waiting, _Several):
            self._waiting.append(callback)
        else:
            self._waiting = _Several((self._waiting, callback))

    def __await__(self) -> Generator[Handle[Any], None, T]:
        if not self._settled:
            yield self
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]  # a cast is a call

    def __repr__(self) -> str:
        state = "failed" if self._error else "done" if self._settled else "pending"
        return f"<{type(self).__name__} {self.name!r} {state}>"


class _Several(list[Callable[[], None]]):
    """Callbacks of a handle that several wait for, as one: few have more."""

    def __call__(self) -> None:
        for callback in self:
            callback()


async def all_done(handles: Iterable[Handle[Any]]) -> None:
    """Wait for each in turn. Raises what the first of them that failed did with."""
    for handle in handles:
        if not handle._settled or handle._error is not None:  # to await what is done takes longer
            await handle


async def first_of(count: int, handles: Sequence[Handle[Any]]) -> tuple[int, ...]:
    """Wait until ``count`` of them are done; return their places, in the order in which they were.

    Those that failed do not count: where too few are left, what the first of them failed with is
    raised. The others go on; ``cancel`` what is not wanted.
    """
    assert count <= len(handles)
    done: list[int] = []
    errors: list[BaseException] = []
    enough: Handle[None] = Handle(f"first {count} of {len(handles)}")

    def settled(place: int) -> None:
        error = handles[place].error
        if error is None:
            done.append(place)
        else:
            errors.append(error)
        if len(done) >= count:
            enough.settle(None)
        elif len(handles) - len(errors) < count:
            enough.fail(errors[0])

    for place, handle in enumerate(handles):
        handle.on_settled(partial(settled, place))
    if count > 0:
        await enough
    return tuple(done[:count])


NO_MILESTONES: Final[dict[str, Handle[None]]] = {}  # of all computations without milestones


class Computation(Handle[T]):
    """The handle of a computation, with a handle for each milestone inside it."""

    __slots__ = ("_milestones",)

    def __init__(self, name: str, milestones: Sequence[str]) -> None:
        Handle.__init__(self, name)
        self._milestones = NO_MILESTONES
        if milestones:
            self._milestones = {name: Handle(name) for name in milestones}

    def milestone(self, name: str) -> Handle[None]:
        """Return the handle that settles when the computation passes ``name``."""
        return self._milestones[name]

    @property
    def milestones(self) -> dict[str, Handle[None]]:
        """Every milestone by name, in the order in which they are passed."""
        return self._milestones
