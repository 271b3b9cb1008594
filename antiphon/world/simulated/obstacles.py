"""What holds things up: links that are cut, and members that stand still.

What is under way between members that an obstacle keeps apart, or begins meanwhile, is held: it
takes the time that it had left once the obstacle is gone. A collective is held where any two of its
members are apart, whatever links its algorithm would use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from antiphon.world.handle import Handle
from antiphon.world.simulated.collectives import CollectiveLane
from antiphon.world.simulated.mail import Link
from antiphon.world.simulated.messages import Exchanges
from antiphon.world.simulated.posts import Meeting, Posted
from antiphon.world.simulated.queue import Call, Event, EventQueue
from antiphon.world.simulated.ties import tie


class Obstacle:
    """Keeps the members on one side from those on the other, or one member from everything."""

    def __init__(self, side: frozenset[int], other: frozenset[int] | None) -> None:
        """``other`` None: everybody else."""
        self._side = side
        self._other = other
        self.held: list[tuple[int, Event]] = []  # with the nanoseconds that it had left

    @property
    def is_standstill(self) -> bool:
        """Whether a member stands still; else links are cut."""
        return self._side == self._other

    @property
    def words(self) -> str:
        """Say what it is."""
        return "one stands still" if self.is_standstill else "a link is cut"

    def is_between(self, members: Sequence[int]) -> bool:
        """Whether it stands in the way of what these members do together, or one alone."""
        if not any(member in self._side for member in members):
            return False
        if self._other is None:
            return any(member not in self._side for member in members)
        return any(member in self._other for member in members)


def standstill(member: int) -> Obstacle:
    """Return what keeps a member from taking part in anything."""
    return Obstacle(frozenset({member}), frozenset({member}))


class ObstructedQueue(EventQueue):
    """Events, some of which are held up."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.obstacles: list[Obstacle] = []
        self.on_held: Callable[[Sequence[int], Handle[Any]], None] = lambda _members, _handle: None
        """Told of each exchange, collective and letter that a cut link holds up."""

    def at(self, time: int, rank: int, number: int, call: Call, argument: Any) -> None:
        """Have ``call(argument)`` made at ``time``, or later if it is held up."""
        assert time >= self.now, f"{time} ns has passed: it is {self.now} ns"
        obstacle = self._between(call, argument) if self.obstacles else None
        if obstacle is None:
            super().at(time, rank, number, call, argument)
        else:
            self._pushed += 1
            place = tie(self.key, time, rank, number)
            self._hold(obstacle, time - self.now, (time, place, self._pushed, call, argument))

    def obstruct(self, obstacle: Obstacle) -> None:
        """Hold up what ``obstacle`` stands in the way of, from now on."""
        self.obstacles.append(obstacle)
        for event in super().remove(lambda call, it: obstacle.is_between(parties(call, it))):
            self._hold(obstacle, event[0] - self.now, event)

    def clear(self, obstacle: Obstacle) -> None:
        """Let what it held go on, unless something else stands in the way."""
        self.obstacles.remove(obstacle)
        for left, event in obstacle.held:
            another = self._between(event[3], event[4])
            if another is None:
                self.put_back(event, self.now + left)
            else:
                self._hold(another, left, event)

    def events(self) -> list[Event]:
        """Return all that is to happen, and then what is held up."""
        held = [event for obstacle in self.obstacles for _, event in obstacle.held]
        return [*super().events(), *held]

    def remove(self, is_meant: Callable[[Call, Any], bool]) -> list[Event]:
        """Take out the events that are meant, held ones too."""
        removed = super().remove(is_meant)
        for obstacle in self.obstacles:
            left = []
            for one in obstacle.held:
                if is_meant(one[1][3], one[1][4]):
                    removed.append(one[1])
                else:
                    left.append(one)
            obstacle.held = left
        return removed

    @property
    def is_holding(self) -> bool:
        """Whether anything is held up."""
        return any(obstacle.held for obstacle in self.obstacles)

    def open(self) -> Iterator[tuple[int, str]]:
        """Yield (member, words) of what is held up: who waits for whom.

        Whoever is to have a letter waits for it in its mailbox, if it does (``Mail.open``).
        """
        for obstacle in self.obstacles:
            for _, (_, _, _, call, argument) in obstacle.held:
                for member, what in _waiting(call, argument):
                    yield member, f"member {member} waits for {what}: {obstacle.words}"

    def letters(self) -> Iterator[str]:
        """Name the letters that are held up while those who sent them do something else."""
        for obstacle in self.obstacles:
            links = {event[4] for _, event in obstacle.held if isinstance(event[4], Link)}
            for link in sorted(links, key=lambda link: (link.source, link.target)):
                if not _is_awaited(link):
                    ends = f"member {link.source} to member {link.target}"
                    yield f"a letter of {ends} ({obstacle.words})"

    def _between(self, call: Call, argument: Any) -> Obstacle | None:
        members = parties(call, argument)
        if not members:
            return None
        return next((each for each in self.obstacles if each.is_between(members)), None)

    def _hold(self, obstacle: Obstacle, left: int, event: Event) -> None:
        obstacle.held.append((left, event))
        if obstacle.is_standstill:
            return
        _, _, _, call, argument = event
        if _is_meeting(call):
            for posted in _ends(argument):
                self.on_held(parties(call, argument), posted)
        elif isinstance(argument, Link):
            self.on_held(parties(call, argument), argument.flying[-1].sent)
        elif isinstance(argument, tuple):
            self.on_held(parties(call, argument), argument[1])


def _waiting(call: Call, argument: Any) -> Iterator[tuple[int, str]]:
    """Yield who waits for an event that is held up, and for what."""
    if isinstance(argument, Link):
        if _is_awaited(argument):
            yield argument.source, f"its letter to member {argument.target} to arrive"
        return
    if _is_meeting(call):
        waiting = [(posted.rank, posted.name) for posted in _ends(argument)]
    else:
        waiting = [(argument[1].member, argument[1].name)]
    for member, name in waiting:
        yield member, f"members {sorted({*parties(call, argument)} - {member})} ({name})"


def _ends(meeting: Meeting) -> list[Posted]:
    """Return those of its ends that it matters to: one may be of a member that died."""
    return [posted for posted in meeting[:2] if not posted.is_settled]


def _is_meeting(call: Call) -> bool:
    return isinstance(getattr(call, "__self__", None), Exchanges)


def _is_awaited(link: Link) -> bool:
    """Whether its source waits until a letter on it has arrived."""
    return any(letter.sent.is_awaited for letter in link.flying)


def parties(call: Call, argument: Any) -> Sequence[int]:
    """Return the members that an event needs; none where nothing can hold it up."""
    engine = getattr(call, "__self__", None)
    if isinstance(engine, Exchanges):
        one, other, _, _ = argument
        return one.rank, other.rank
    if isinstance(engine, CollectiveLane):
        return [joined.member for joined in argument[0].joined]
    return (argument.source, argument.target) if isinstance(argument, Link) else ()
