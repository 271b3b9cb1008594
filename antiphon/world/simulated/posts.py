"""What ranks post: exchanges, what is the same in many of them, and channels where they meet."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from antiphon.world.handle import Handle
from antiphon.world.protocols import Message

NEVER: Final = 2**63 - 1

Ends = tuple[int, int]
Sizes = tuple[tuple[int, ...], tuple[int, ...]]
"""Bytes of the messages that a post sends to one peer, and of those that it receives from it."""


class Posted(Handle[None]):
    """An exchange that a rank has posted."""

    __slots__ = ("began", "is_ready", "messages", "missing", "number", "rank", "shape")
    name = "exchange"

    def __init__(self, rank: int, number: int, shape: Shape) -> None:
        self._waiting = self._error = self._result = None  # `Handle.__init__`, without a call
        self._settled = False
        self.rank = rank
        self.number = number
        self.shape = shape
        self.is_ready = False
        self.missing = shape.count  # parts that have not arrived
        self.began = NEVER  # when its first part began
        self.messages: tuple[Sequence[Message], Sequence[Message]] | None = None  # with content

    @property
    def is_lost(self) -> bool:
        """Whether a part of it will never arrive."""
        return self.missing > self.shape.count


class Line:
    """What a rank has for one peer over one channel."""

    __slots__ = ("channel", "duration", "other", "rank", "sizes")

    def __init__(self, channel: Channel, rank: int, sizes: Sizes) -> None:
        self.channel = channel
        self.rank = rank
        self.sizes = sizes
        self.other: Line | None = None  # of the peer, that it has met
        self.duration = -1  # of the messages, once it has been asked for

    @property
    def peer(self) -> int:
        """The other end."""
        return next(end for end in self.channel.ends if end != self.rank)


class Shape:
    """All that is the same in exchanges that a rank posts again and again."""

    __slots__ = ("channels", "count", "lines", "nbytes", "received")

    def __init__(self, lines: Sequence[Line]) -> None:
        self.lines = lines
        self.count = len(lines)
        self.channels = [line.channel for line in lines]
        self.nbytes = sum(sum(line.sizes[0]) for line in lines)  # sent
        self.received = sum(len(line.sizes[1]) for line in lines)  # messages

    def line(self, channel: Channel) -> Line:
        """Return the one over a channel."""
        return self.lines[self.channels.index(channel)]


Meeting = tuple[Posted, Posted, Line, int]
"""Two exchanges that have something for each other, what the first one has, and at which place
among all between the two ends. The argument of the event of its arrival."""


class Channel:
    """All messages between two ranks over one channel."""

    def __init__(self, name: str, ends: Ends) -> None:
        self.name = name
        self.ends = ends
        self.meetings = 0  # so far
        self.unmet: deque[Posted] = deque()  # at one end alone
        self.met: deque[Meeting] = deque()  # not under way yet
        self.free = 0  # when the last one that is under way has arrived


def words_of(line: Line, place: int) -> str:
    """Say what was posted."""
    directions = [
        f"{what} {line.peer} ({', '.join(map(str, sizes))} bytes)"
        for what, sizes in zip(("sends to", "receives from"), line.sizes, strict=True)
        if sizes
    ]
    return (
        f"rank {line.rank} {' and '.join(directions)} "
        f"on `{line.channel.name}`, its post {place + 1} there"
    )
