"""What was done in a simulation, action by action, and its hash."""

from __future__ import annotations

import hashlib
from array import array
from enum import IntEnum
from struct import Struct
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from antiphon.world.simulated.ties import key_of, tie_column


class Did(IntEnum):
    """What kind of action. Numbers stand in hashes."""

    COMPUTE = 0
    EXCHANGE = 1
    ALL_REDUCE = 2
    ALL_GATHER = 3
    REDUCE_SCATTER = 4
    BARRIER = 5
    SLEEP = 6
    SEND = 7
    RECEIVE = 8
    REFORM = 9
    DEATH = 10


class Entry(NamedTuple):
    """One action of one rank: when it went on, in nanoseconds."""

    begin: int  # of a message or collective: when all its ends were ready
    end: int
    rank: int
    number: int  # of the rank's action, in the order in which its program asked for them
    did: int
    nbytes: int
    """Of the payload. Of a letter received it is the sender, or -1 if none came in time; of a
    reform the epoch; of all else 0."""


WIDTH = len(Entry._fields)
pack: Final = Struct(f"{WIDTH}q").pack
"""An entry's fields as bytes: three times as fast as to extend an array by numbers."""


class EventLog:
    """The actions of a program: not what an engine does to carry them out."""

    def __init__(self, seed: int) -> None:
        self._key = key_of(seed)
        self.columns: array[int] = array("q")
        """Entries one after another, flat, in the order in which they were found out: an engine
        adds what ``pack`` has packed by ``frombytes``."""

    def __len__(self) -> int:
        return len(self.columns) // WIDTH

    def add(self, begin: int, end: int, rank: int, number: int, did: int, nbytes: int) -> None:
        """Record an action."""
        self.columns.frombytes(pack(begin, end, rank, number, did, nbytes))

    def entries(self) -> NDArray[np.int64]:
        """Return (actions, fields of Entry), by end, ties in the order drawn from the seed."""
        table = np.array(self.columns, np.int64).reshape(-1, WIDTH)
        end, rank, number = table[:, 1], table[:, 2], table[:, 3]
        by_end, by_tie = np.argsort(end), np.argsort(tie_column(self._key, end, rank, number))
        ends = end[by_end]
        place = np.empty((2, len(table)), np.int64)
        place[0, by_end] = np.concatenate([[0], np.cumsum(ends[1:] != ends[:-1])])
        place[1, by_tie] = np.arange(len(table))
        return table[np.argsort(place[0] * len(table) + place[1])]

    def hash(self) -> str:
        """Return the SHA-256 of the entries in order, each packed as six 64-bit integers."""
        return hashlib.sha256(self.entries().astype("<i8").tobytes()).hexdigest()
