"""Mail of the simulated world: a mailbox for each member and channel.

Letters of one member to another go over one link, each after the one before it, whatever their
channels: a letter takes what a message of its arrays and a small header takes, and the link is free
when it has arrived. Both directions of a pair are links of their own. A letter to oneself takes no
time. Facts go as JSON, so that what could not be sent for real is refused here, too.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from antiphon.errors import RunError
from antiphon.world.failure import DeadlinePassed, PeerLost
from antiphon.world.handle import Handle
from antiphon.world.letter import require_numbers
from antiphon.world.protocols import EVENTS, Fact, Letter, Payload
from antiphon.world.simulated.log import Did, EventLog, pack
from antiphon.world.simulated.prices import Prices
from antiphon.world.simulated.queue import EventQueue

SEND: Final = int(Did.SEND)
RECEIVE: Final = int(Did.RECEIVE)
HEADER_NBYTES = 128
"""What a letter takes beside its arrays. Facts are part of it, however long: how a number is
written must not decide how long it travels."""
NOBODY: Final = -1  # in the log: whose letter came to one whose deadline passed


class Receiving(Handle[Letter]):
    """A letter that is waited for."""

    __slots__ = ("asked", "channel", "member", "number", "order", "source")

    def __init__(
        self, member: int, number: int, channel: str, source: int | None, asked: int
    ) -> None:
        Handle.__init__(self, "receive")
        self.member = member
        self.number = number
        self.channel = channel
        self.source = source
        self.asked = asked  # when
        self.order = 0  # among those that wait at one mailbox


class Arrived:
    """A letter in a mailbox."""

    __slots__ = ("is_taken", "letter")

    def __init__(self, letter: Letter) -> None:
        self.letter = letter
        self.is_taken = False


class Mailbox:
    """Letters to one member over one channel, and who waits for them."""

    def __init__(self) -> None:
        self.waiting: dict[int | None, deque[Receiving]] = {}  # by source; None: any
        self._waited = 0
        self._letters: dict[int | None, deque[Arrived]] = {}  # by source; None: all of them
        self._untaken = 0

    def wait(self, receiving: Receiving) -> None:
        """Have the next letter that suits go to ``receiving``, after those that wait already."""
        self._waited = receiving.order = self._waited + 1
        self.waiting.setdefault(receiving.source, deque()).append(receiving)

    def waits_for(self, source: int) -> Receiving | None:
        """Return who is to have a letter of ``source``: it waits no more."""
        of_source, of_any = self._next_of(source), self._next_of(None)
        if of_source is None or (of_any is not None and of_any.order < of_source.order):
            return None if of_any is None else self.waiting[None].popleft()
        return self.waiting[source].popleft()

    def put(self, letter: Letter) -> None:
        """Keep a letter that nobody waits for."""
        arrived = Arrived(letter)
        self._untaken += 1
        for key in (letter.source, None):
            letters = self._letters.setdefault(key, deque())
            letters.append(arrived)
            if len(letters) > 2 * self._untaken + 16:  # taken ones, behind one that nobody takes
                left = [each for each in letters if not each.is_taken]
                letters.clear()
                letters.extend(left)

    def take(self, source: int | None) -> Letter | None:
        """Return the next letter of ``source``, or of any."""
        letters = self._letters.get(source)
        while letters:
            arrived = letters.popleft()
            if not arrived.is_taken:
                arrived.is_taken = True
                self._untaken -= 1
                return arrived.letter
        return None

    def _next_of(self, source: int | None) -> Receiving | None:
        waiting = self.waiting.get(source)
        while waiting:
            if not waiting[0].is_settled:
                return waiting[0]
            waiting.popleft()
        return None


class Flying:
    """A letter on its way."""

    __slots__ = ("began", "box", "letter", "nanoseconds", "nbytes", "number", "sent")

    def __init__(
        self,
        sent: Handle[None],
        letter: Letter,
        box: Mailbox,
        number: int,
        began: int,
        nanoseconds: int,
        nbytes: int,
    ) -> None:
        self.sent = sent
        self.letter = letter
        self.box = box
        self.number = number  # of the sender's action
        self.began = began
        self.nanoseconds = nanoseconds
        self.nbytes = nbytes


class Link:
    """The way of letters from one member to another."""

    def __init__(self, source: int, target: int) -> None:
        self.source = source
        self.target = target
        self.free = 0  # when the last letter will have arrived
        self.flying: deque[Flying] = deque()
        self.is_ending = False  # the target knows that the source is gone
        self.nanoseconds: dict[int, int] = {}  # that a letter takes, by bytes


class Mail:
    """The mail of all members."""

    def __init__(
        self, queue: EventQueue, log: EventLog, prices: Prices, uses: dict[str, str]
    ) -> None:
        """``uses``: what each channel carries, which exchanges have a part in."""
        self._queue = queue
        self._done = log.columns
        self._prices = prices
        self._uses = uses
        self._links: dict[tuple[int, int], Link] = {}
        self._boxes: dict[tuple[int, str], Mailbox] = {}
        self._dead: set[int] = set()
        self._gone: dict[int, set[int]] = {}  # by member: of whom it knows that they are dead
        self._known: dict[int, set[int]] = {}  # by member that joins: who knows that it has come

    def send(
        self,
        source: int,
        number: int,
        target: int,
        channel: str,
        facts: Mapping[str, Fact] | None,
        arrays: Sequence[Payload],
    ) -> Handle[None]:
        """Have a letter leave ``source``, as its action ``number``."""
        sent: Handle[None] = Handle("send")
        if self._known and source not in self._known.get(target, (source,)):
            sent.fail(PeerLost(target))
            return sent
        if self._dead and target in self._dead:
            if target in self._gone.get(source, ()):
                sent.fail(PeerLost(target))
                return sent
            box = Mailbox()  # nobody's
        else:
            box = self._boxes.get((target, channel)) or self._box(target, channel)
        content = tuple([_as_it_is_now(each) for each in arrays])
        letter = Letter(source, json.loads(json.dumps(facts)) if facts else {}, content)
        link = self._link(source, target)
        nbytes = HEADER_NBYTES
        for payload in arrays:
            nbytes += payload.nbytes
        nanoseconds = self._nanoseconds(link, nbytes)
        begin = max(self._queue.now, link.free)
        link.free = end = begin + nanoseconds
        link.flying.append(Flying(sent, letter, box, number, begin, nanoseconds, nbytes))
        self._queue.at(end, source, number, self._arrive, link)
        return sent

    def receive(
        self, member: int, number: int, channel: str, source: int | None, nanoseconds: int | None
    ) -> Handle[Letter]:
        """Wait for a letter, as action ``number`` of ``member``, at most so long."""
        now = self._queue.now
        receiving = Receiving(member, number, channel, source, now)
        box = self._boxes.get((member, channel)) or self._box(member, channel)
        letter = box.take(source)
        if letter is not None:
            self._receive(receiving, letter)
            return receiving
        if self._gone and source is not None and self._is_over(member, source):
            receiving.fail(PeerLost(source))
            return receiving
        box.wait(receiving)
        if nanoseconds is not None:
            assert nanoseconds >= 0, f"a letter is waited for {nanoseconds} ns"
            self._queue.at(now + nanoseconds, member, number, self._pass_deadline, receiving)
        return receiving

    def absent(self, member: int) -> None:
        """Have nobody reach ``member`` yet, whose process is started in the course of the run."""
        self._known[member] = set()

    def lose(self, member: int) -> None:
        """Let a member die: what is on its way to it is lost, what it has sent will arrive."""
        self._dead.add(member)
        for key in [key for key in self._boxes if key[0] == member]:
            self._boxes.pop(key).waiting.clear()  # letters on their way go there, unseen

    def tell_lost(self, member: int, lost: int) -> None:
        """Let ``member`` know that ``lost`` is dead: it waits for no letter there to arrive."""
        self._gone.setdefault(member, set()).add(lost)
        self._tell(member, lost, "left")
        if (member, lost) in self._links:
            for letter in self._links[member, lost].flying:
                letter.sent.settle(None)
        link = self._link(lost, member)
        link.is_ending = True
        if not link.flying:
            self._fail_waits(member, lost)

    def start(self, member: int) -> None:
        """Give a new process its mail: it has none, and knows who is there and who is dead."""
        self._dead.discard(member)
        self._gone[member] = set(self._dead)
        for joined, knowing in self._known.items():
            if joined == member or joined in knowing:
                knowing.add(member)

    def tell_joined(self, member: int, joined: int) -> None:
        """Let ``member`` know that there is a new process, maybe in a dead one's place."""
        self._gone.get(member, set()).discard(joined)
        self._known.get(joined, set()).add(member)
        self._link(joined, member).is_ending = False
        self._tell(member, joined, "joined")

    def forget_prices(self) -> None:
        """Ask for prices again: they have changed."""
        for link in self._links.values():
            link.nanoseconds.clear()

    def open(self) -> Iterator[tuple[int, str]]:
        """Yield (member, words) of what is waited for."""
        for box in self._boxes.values():
            for waiting in box.waiting.values():
                for one in waiting:
                    if not one.is_settled:
                        source = "anybody" if one.source is None else f"member {one.source}"
                        whose = f"a letter of {source} on `{one.channel}`"
                        yield one.member, f"member {one.member} waits for {whose}"

    def _arrive(self, link: Link) -> None:
        """Let the link's next letter arrive: of several at one time, the one that left first."""
        flying = link.flying.popleft()
        now = self._queue.now
        entry = pack(flying.began, now, link.source, flying.number, SEND, flying.nbytes)
        self._done.frombytes(entry)
        flying.sent.settle(None)
        self._deliver(flying.box, flying.letter)
        if link.is_ending and not link.flying:
            self._fail_waits(link.target, link.source)

    def _is_over(self, member: int, source: int) -> bool:
        """Whether ``member`` knows that no more comes from ``source``."""
        return source in self._gone.get(member, ()) and not self._link(source, member).flying

    def _fail_waits(self, member: int, source: int) -> None:
        for (owner, _), box in self._boxes.items():
            if owner == member:
                for receiving in box.waiting.pop(source, ()):
                    receiving.fail(PeerLost(source))

    def _deliver(self, box: Mailbox, letter: Letter) -> None:
        receiving = box.waits_for(letter.source)
        if receiving is None:
            box.put(letter)
        else:
            self._receive(receiving, letter)

    def _receive(self, receiving: Receiving, letter: Letter) -> None:
        now, member, number = self._queue.now, receiving.member, receiving.number
        self._done.frombytes(pack(receiving.asked, now, member, number, RECEIVE, letter.source))
        receiving.settle(letter)

    def _pass_deadline(self, receiving: Receiving) -> None:
        if not receiving.is_settled:
            now, member, number = self._queue.now, receiving.member, receiving.number
            self._done.frombytes(pack(receiving.asked, now, member, number, RECEIVE, NOBODY))
            receiving.fail(DeadlinePassed(f"no letter came on `{receiving.channel}`"))

    def _nanoseconds(self, link: Link, nbytes: int) -> int:
        known = link.nanoseconds.get(nbytes)
        if known is None:
            if link.source == link.target:
                known = 0
            else:
                known = self._prices.message(link.source, link.target, nbytes)
            link.nanoseconds[nbytes] = known
        return known

    def _tell(self, member: int, about: int, event: str) -> None:
        box = self._boxes.get((member, EVENTS)) or self._box(member, EVENTS)
        self._deliver(box, Letter(about, {"event": event}, ()))

    def _link(self, source: int, target: int) -> Link:
        link = self._links.get((source, target))
        if link is None:
            link = self._links[source, target] = Link(source, target)
        return link

    def _box(self, member: int, channel: str) -> Mailbox:
        claim(self._uses, channel, "mail")
        box = self._boxes[member, channel] = Mailbox()
        return box


def _as_it_is_now(payload: Payload) -> Payload:
    """Return what a letter has of an array: a copy, of a tensor as NumPy's, as a real one would."""
    if isinstance(payload, np.ndarray):
        return require_numbers(payload).copy()
    if hasattr(payload, "detach"):  # torch's, which cannot be named here
        return np.array(payload.detach())
    return payload  # charged: bytes without content


def claim(uses: dict[str, str], channel: str, use: str) -> None:
    """Have a channel carry mail or exchanges. Raises RunError where it carries the other."""
    if uses.setdefault(channel, use) != use:
        raise RunError(
            f"channel `{channel}` is used for mail and for exchanges",
            "a channel carries one of them: use another name for the other",
        )
