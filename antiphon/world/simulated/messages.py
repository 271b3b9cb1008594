"""Messages of the simulated world: rendezvous, in one order for each pair of ranks and channel.

A message goes when both its ends are posted and ready and the messages before it, between the same
ranks over the same channel, have arrived. What one exchange has for one peer goes at once, in both
directions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

from antiphon.errors import RunError
from antiphon.kernel.collectives import copy
from antiphon.world.handle import Handle
from antiphon.world.protocols import Message
from antiphon.world.simulated.log import Did, EventLog, pack
from antiphon.world.simulated.mail import claim
from antiphon.world.simulated.posts import (
    NEVER,
    Channel,
    Line,
    Meeting,
    Posted,
    Shape,
    Sizes,
    words_of,
)
from antiphon.world.simulated.prices import Prices
from antiphon.world.simulated.queue import Call, EventQueue

EXCHANGE: Final = int(Did.EXCHANGE)

Arrow = tuple[int, int, int, int, int, int]
"""A message: source, number of the action there, target, number there, begin, end (nanoseconds)."""
Contend = Callable[[int, int, int], None]
"""``contend(rank, begin, end)`` slows what a rank computes meanwhile."""


class Exchanges:
    """Everything that is posted, and what becomes of it."""

    def __init__(
        self, queue: EventQueue, log: EventLog, prices: Prices, uses: dict[str, str]
    ) -> None:
        """``uses``: what each channel carries, which mail has a part in."""
        self._queue = queue
        self._key = queue.key
        self._arrived, self._made = self._arrive, self._ready  # bound once
        self._done = log.columns
        self._prices = prices
        self._uses = uses
        self._channels: dict[tuple[int, int, str], Channel] = {}
        self._lines: dict[tuple[int, int, str, Sizes], Line] = {}  # by rank, peer, channel
        self._shapes: dict[tuple[object, ...], Shape] = {}  # by rank, and what its messages are
        self.arrows: list[Arrow] | None = None  # kept where a trace is asked for
        self.contend: Contend | None = None  # set where messages slow what is computed beside them
        self.have_content = False  # whether payloads are buffers, to be copied
        self._stranded: list[Posted] = []  # met by a post of a member that was lost

    def post(
        self,
        rank: int,
        number: int,
        sends: Sequence[Message],
        receives: Sequence[Message],
        after: Handle[Any] | None,
    ) -> Posted:
        """Post one exchange of ``rank``. Raises RunError where it does not meet the other end's."""
        shape = self._usual_shape(rank, sends, receives)
        posted = Posted(rank, number, shape)
        if self.have_content:
            posted.messages = sends, receives
        for line in shape.lines:
            unmet = line.channel.unmet
            if not unmet or unmet[0].rank == rank:
                unmet.append(posted)
            else:
                self._meet(unmet.popleft(), posted, line)
        if after is None:
            self._ready(posted, None)
        else:
            after.on_settled(partial(self._made, posted, after))
        return posted

    def open(self) -> Iterator[tuple[int, str]]:
        """Yield (rank, words) of what is posted and not under way: who waits for whom."""
        for channel in dict.fromkeys(self._channels.values()):  # each stands there twice
            for place, posted in enumerate(channel.unmet, channel.meetings):
                what = words_of(posted.shape.line(channel), place)
                yield posted.rank, f"{what}, which does not post it"
            for first, second, _, place in channel.met:
                for posted, other in ((first, second), (second, first)):
                    if posted.is_ready and not other.is_ready:
                        what = words_of(posted.shape.line(channel), place)
                        yield posted.rank, f"{what}, whose message is not made"

    def lose(self, member: int, is_kept: Callable[[int, int], bool]) -> None:
        """Drop what a member posted that is gone. What is under way between it and another arrives
        there where ``is_kept(member, number)`` says so of the other's action.
        """
        channels = {channel for (one, _, _), channel in self._channels.items() if one == member}

        def is_lost(posted: Posted, channel: Channel) -> bool:
            if channel not in channels:
                return False
            return posted.rank == member or not is_kept(posted.rank, posted.number)

        self._stranded += self._take_out(is_lost)
        for channel in channels:
            self._stranded += [posted for meeting in channel.met for posted in meeting[:2]]
            self._stranded += [posted for posted in channel.unmet if posted.rank == member]
            channel.met.clear()
            channel.unmet = deque(posted for posted in channel.unmet if posted.rank != member)
        for posted in self._stranded:
            if posted.rank == member:
                posted.cancel()  # nobody waits for it, nor for what holds it up

    def fail(self, member: int, error: Callable[[], Exception]) -> int:
        """Fail all that ``member`` has posted; return how many messages to it will not arrive.

        What it has sent stays: it may still meet the other end.
        """
        late = self._take_out(lambda posted, _: posted.rank == member)
        flying = dict.fromkeys(posted for posted in late if not posted.is_settled)
        posts = [*flying, *self._stranded]
        for channel in dict.fromkeys(self._channels.values()):
            posts += [*channel.unmet, *(one for meeting in channel.met for one in meeting[:2])]
        for posted in [each for each in posts if each.rank == member]:
            posted.fail(error())
        return sum(posted.shape.received for posted in flying)

    def forget_prices(self) -> None:
        """Ask for prices again: they have changed."""
        for line in self._lines.values():
            line.duration = -1

    def forget(self) -> int:
        """Begin anew, in a new epoch; return how many messages of the old one are dropped."""
        channels = dict.fromkeys(self._channels.values())
        stale = sum(
            len(posted.shape.line(channel).sizes[0])
            for channel in channels
            for posted in channel.unmet
            if posted.is_ready
        )
        self._channels.clear()
        self._lines.clear()
        self._shapes.clear()
        self._stranded.clear()
        return stale

    def _ready(self, posted: Posted, after: Handle[Any] | None) -> None:
        """Begin what ``posted`` was waited for, now that ``after`` is settled."""
        if after is not None:
            if after._error is not None:
                posted.fail(after._error)
            if posted._settled:
                return
        posted.is_ready = True
        channels = posted.shape.channels
        if not channels:  # nothing is sent or received
            posted.settle(None)
        for channel in channels:
            if channel.met:
                self._start(channel)

    def _channel(self, rank: int, peer: int, name: str) -> Channel:
        """Make a channel, known by both of its ends."""
        assert peer != rank, f"rank {rank} posts a message to itself"
        claim(self._uses, name, "exchanges")
        channel = Channel(name, (min(rank, peer), max(rank, peer)))
        self._channels[rank, peer, name] = self._channels[peer, rank, name] = channel
        return channel

    def _usual_shape(
        self, rank: int, sends: Sequence[Message], receives: Sequence[Message]
    ) -> Shape:
        """Return the one that has been found before, if there is at most one message each way."""
        key: tuple[object, ...]
        if len(sends) == 1 and len(receives) == 1:
            out, back = sends[0], receives[0]  # to index is faster than to unpack or ask by name
            key = rank, out[0], out[1], out[2].nbytes, back[0], back[1], back[2].nbytes
        elif len(sends) + len(receives) == 1:
            message = sends[0] if sends else receives[0]
            key = rank, message[0], message[1], message[2].nbytes, bool(sends)
        else:
            return self._shape(rank, sends, receives)
        shape = self._shapes.get(key)
        if shape is None:
            shape = self._shapes[key] = self._shape(rank, sends, receives)
        return shape

    def _shape(self, rank: int, sends: Sequence[Message], receives: Sequence[Message]) -> Shape:
        found = _by_channel(sends, receives)
        return Shape([self._line(rank, peer, name, sizes) for name, peer, sizes in found])

    def _line(self, rank: int, peer: int, name: str, sizes: Sizes) -> Line:
        key = rank, peer, name, sizes
        line = self._lines.get(key)
        if line is None:
            channel = self._channels.get((rank, peer, name)) or self._channel(rank, peer, name)
            line = self._lines[key] = Line(channel, rank, sizes)
        return line

    def _meet(self, first: Posted, second: Posted, line: Line) -> None:
        """Let the post at one end meet that at the same place of the other's."""
        channel = line.channel
        theirs = line.other
        if theirs is None or theirs not in first.shape.lines:
            theirs = first.shape.line(channel)
            if theirs.sizes != line.sizes[::-1]:
                place = channel.meetings
                raise RunError(
                    f"messages do not meet: {words_of(theirs, place)}; {words_of(line, place)}",
                    "post the same messages in the same order on both ends",
                )
            line.other = theirs
        channel.met.append((first, second, theirs, channel.meetings))
        channel.meetings += 1

    def _start(self, channel: Channel) -> None:
        """Begin what has met and is ready, in order."""
        queue, met = self._queue, channel.met
        while met:
            meeting = met[0]
            one, other, line, _ = meeting
            if not (one.is_ready and other.is_ready):
                return
            met.popleft()
            if self.have_content:
                _deliver(one, other, channel.name)
                _deliver(other, one, channel.name)
            begin = queue.now
            if channel.free > begin:
                begin = channel.free
            duration = line.duration if line.duration >= 0 else self._duration(line)
            end = channel.free = begin + duration
            if begin < one.began:
                one.began = begin
            if begin < other.began:
                other.began = begin
            queue.at(end, one.rank, one.number, self._arrived, meeting)
            if self.contend is not None:
                self.contend(one.rank, begin, end)
                self.contend(other.rank, begin, end)
            if self.arrows is not None:
                self._draw(one, other, line.sizes, begin, end)

    def _duration(self, line: Line) -> int:
        """How long messages between two ranks take, in both directions at once."""
        source, target = line.rank, line.peer
        price = self._prices.message
        onward = sum(price(source, target, nbytes) for nbytes in line.sizes[0])
        back = sum(price(target, source, nbytes) for nbytes in line.sizes[1])
        line.duration = max(onward, back)
        return line.duration

    def _arrive(self, meeting: Meeting) -> None:
        """Let both ends go on, in the order drawn from the seed."""
        one, other, _, _ = meeting
        now = self._queue.now
        is_first = hash((self._key, now, one.rank, one.number)) & 1  # `ties.tie`, without a call
        for posted in (one, other) if is_first else (other, one):
            posted.missing -= 1
            if posted.missing == 0 and not posted._settled:
                nbytes = posted.shape.nbytes
                entry = pack(posted.began, now, posted.rank, posted.number, EXCHANGE, nbytes)
                self._done.frombytes(entry)
                posted.settle(None)

    def _take_out(self, is_meant: Callable[[Posted, Channel], bool]) -> list[Posted]:
        """Have what is under way not arrive at posts that are meant; return these."""
        found: list[Posted] = []
        for _, _, _, call, argument in self._queue.events():
            if call == self._arrived:
                one, other, line, _ = argument
                among = [each for each in (one, other) if not each.is_lost]
                found += [each for each in among if is_meant(each, line.channel)]
        for posted in found:
            posted.missing = NEVER

        def is_over(call: Call, argument: Any) -> bool:
            return call == self._arrived and argument[0].is_lost and argument[1].is_lost

        self._queue.remove(is_over)
        return found

    def _draw(self, one: Posted, other: Posted, sizes: Sizes, begin: int, end: int) -> None:
        """Keep an arrow for each direction in which something is sent."""
        assert self.arrows is not None
        for source, target, sent in ((one, other, sizes[0]), (other, one, sizes[1])):
            if sent:
                ends = (source.rank, source.number, target.rank, target.number)
                self.arrows.append((*ends, begin, end))


def _by_channel(
    sends: Sequence[Message], receives: Sequence[Message]
) -> Sequence[tuple[str, int, Sizes]]:
    """Return (channel, peer, bytes of what goes and comes) of one exchange."""
    found: dict[tuple[str, int], tuple[list[int], list[int]]] = {}
    for way, messages in enumerate((sends, receives)):
        for message in messages:
            both = found.setdefault((message.channel, message.peer), ([], []))
            both[way].append(message.payload.nbytes)
    return [(*key, (tuple(sent), tuple(received))) for key, (sent, received) in found.items()]


def _deliver(source: Posted, target: Posted, channel: str) -> None:
    """Copy what one exchange sends to another over a channel, in order."""
    assert source.messages is not None
    assert target.messages is not None
    if target.is_settled:
        return  # it has failed, and its buffers may be in use for something else
    sends, receives = source.messages[0], target.messages[1]
    leaving = [m.payload for m in sends if (m.peer, m.channel) == (target.rank, channel)]
    arriving = [m.payload for m in receives if (m.peer, m.channel) == (source.rank, channel)]
    for payload, buffer in zip(leaving, arriving, strict=True):
        copy(payload, buffer)
