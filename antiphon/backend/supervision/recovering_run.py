"""A run that goes on when members are lost, as its supervisor sees it.

Whatever looks like a death (a socket at its end, a heartbeat that is late) is made one: the member
is killed before any other is told, so that all of them hear the same and nothing of it comes later.
What a transport fails with is only a report: the death that it stems from shows by itself.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from antiphon.backend.network.link_watch import LinkWatch
from antiphon.backend.network.network import Network
from antiphon.backend.supervision.fault_injector import FaultInjector
from antiphon.backend.supervision.processes import DIED, GRACE_SECONDS, death, still
from antiphon.backend.supervision.roster import Member, Roster
from antiphon.backend.supervision.supervised_mesh import SupervisedMesh
from antiphon.backend.transport.channel import Message
from antiphon.errors import RunError
from antiphon.policy.recovery.recovery import Outcome
from antiphon.world.reach import SILENCE_SECONDS

OnNote = Callable[[str, int, dict[str, Any]], None]  # topic, member, facts


@dataclass(frozen=True, slots=True)
class Heartbeats:
    """How soon a member that stands still is found."""

    beat_seconds: float = 0.1  # between two
    silence_seconds: float = SILENCE_SECONDS  # without any: it is taken for dead, and killed


@dataclass(frozen=True, slots=True)
class Ended:
    """What a run that may lose members came to."""

    outcome: Outcome
    results: Mapping[int, dict[str, Any] | None]  # by member; None: it did not finish
    losses: int  # of members
    reason: str | None = None  # why the recovery rule gave up
    recovery_seconds: tuple[float, ...] = ()  # from noticing a loss to telling the new epoch


class RecoveringRun:
    """One run. ``turn`` until it ``is_over``."""

    def __init__(
        self,
        roster: Roster,
        mesh: SupervisedMesh,
        faults: FaultInjector,
        *,
        network: Network | None = None,
        together: int,
        restarts_others: bool = False,
        heartbeats: Heartbeats,
        timeout_seconds: float,
        on_note: OnNote,
    ) -> None:
        """The first ``together`` members form the first mesh. ``network``: whose links are watched.

        ``restarts_others``: those that are on their own are started anew when they are lost.
        """
        self._roster = roster
        self._mesh = mesh
        self._faults = faults
        self._watch = None
        if network is not None:
            beat, silence = heartbeats.beat_seconds, heartbeats.silence_seconds
            self._watch = LinkWatch(network, beat, silence)
        self._together = together
        self._restarts_others = restarts_others
        self._restarted_at: dict[int, int] = {}  # members on their own: after how many steps
        self._heartbeats = heartbeats
        self._timeout_seconds = timeout_seconds
        self._on_note = on_note
        self._losses = 0  # of members of either kind
        self._losses_of: Counter[bool] = Counter()  # by whether they are of the mesh
        self._report: tuple[float, str] | None = None  # when, and what a transport failed with
        self._now = self._last_word = time.monotonic()

    def begin(self) -> None:
        """Have every member run its program."""
        for member in self._roster:
            self._launch(member, has_mesh=member.number < self._together)
        self._faults.begin()
        self._now = self._last_word = time.monotonic()

    def close(self) -> None:
        """Let go of the network."""
        self._faults.close()
        if self._watch is not None:
            self._watch.close()

    @property
    def is_over(self) -> bool:
        """Whether all members have come to their ends.

        Once the mesh is over, those on their own are not waited for that only wait themselves, for
        letters that nobody will write: for as long as no heartbeat may be late.
        """
        if self._mesh.is_over:
            waited = [member.waited_seconds(self._now) for member in self._roster.alive()]
            waited.append(self._now - self._last_word)  # of one who may have written to others
            return len(waited) == 1 or min(waited) > self._heartbeats.silence_seconds
        is_awaited = self._faults.is_awaited and self._losses > 0
        return not (self._roster.alive() or self._mesh.is_pending or is_awaited)

    @property
    def ended(self) -> Ended:
        """What it came to, once it is over."""
        reason = self._mesh.reason
        outcome: Outcome
        outcome = "reported" if reason is not None else "recovered" if self._losses else "finished"
        results = {member.number: member.result for member in self._roster}
        seconds = tuple(self._mesh.recovery_seconds)
        return Ended(outcome, results, self._losses, reason, seconds)

    def turn(self) -> None:
        """Wait for what happens next, and carry on from it. Raises RunError."""
        patience = min(self._heartbeats.silence_seconds / 10, self._heartbeats.beat_seconds)
        heard = self._roster.hear(min(patience, self._faults.seconds_left))
        self._pass_time()
        self._faults.act()
        gone = set()
        for process, message in heard:
            member = self._roster.of(process)
            if member is None:
                continue  # it was killed, or is not part of this run
            member.heard_seconds = self._now
            if message is not DIED and not self._is_end_of_its_own(member, message):
                self._take(member, message)
            elif member.is_alive:
                gone.add(member)
        gone |= self._silent() | self._cut_off()
        self._lose(sorted(gone, key=lambda member: member.number))
        self._restart_on_their_own()
        for member in self._roster.started():
            self._launch(member, has_mesh=False)
            self._roster.tell_of(member)
        self._mesh.proceed()
        if self._mesh.is_over or self.is_over:
            self._faults.stop()
        self._check_patience()

    def _launch(self, member: Member, has_mesh: bool) -> None:
        place = {
            "rank": member.number,
            "ranks": self._together,
            "epoch": self._mesh.epoch,
            "has_mesh": has_mesh,
            "beat_seconds": self._heartbeats.beat_seconds,
        }
        self._roster.launch(member, place)
        self._faults.equip(member)

    def _lose(self, gone: list[Member]) -> None:
        """Kill members that seem dead, then tell the others."""
        if not gone:
            return
        processes = [member.process for member in gone]
        for member in gone:
            self._roster.end(member)
        self._last_word = self._now
        self._losses += len(gone)
        self._report = None
        if not self._mesh.lose(gone):
            raise death(next(process for process in processes if process is not None))
        for member, process in zip(gone, processes, strict=True):
            host = None if process is None else process.host
            self._roster.tell_all({"kind": "left", "member": member.number, "host": host})
            kind = self._mesh.has(member)
            self._losses_of[kind] += 1
            self._on_note("lost", member.number, {"losses": self._losses_of[kind]})

    def _restart_on_their_own(self) -> None:
        """Start members on their own anew; not twice without a step between, since it may kill."""
        if not self._restarts_others or self._mesh.is_over or self._mesh.reason is not None:
            return
        for member in self._roster:
            has_failed = self._restarted_at.get(member.number, -1) >= self._mesh.steps
            if member.state == "gone" and not self._mesh.has(member) and not has_failed:
                self._restarted_at[member.number] = self._mesh.steps
                self._roster.start(member.number)

    def _pass_time(self) -> None:
        now = time.monotonic()
        if now - self._now > self._heartbeats.silence_seconds / 2:
            for member in self._roster:  # this process stood still: nobody else is to blame
                member.heard_seconds += now - self._now
        self._now = now

    def _take(self, member: Member, message: Message) -> None:
        """Take in what a member says."""
        if message["kind"] == "beat":
            member.beat(message["turns_waiting"], self._now)
            return
        self._last_word = self._now
        match message["kind"]:
            case "note":
                self._mesh.heed(message)
                self._faults.heed(message["topic"], member.number, message["facts"])
                self._on_note(message["topic"], member.number, message["facts"])
            case "reform":
                self._mesh.wait(member)
            case "report" if self._mesh.state == "whole":
                self._report = self._now, f"member {member.number}: {message['problem']}"
            case "result" | "gave up":
                member.state = "finished"
                member.result = message.get("result")
                self._roster.tell_all({"kind": "finished", "member": member.number})
            case "error":
                assert member.process is not None
                raise RunError(
                    f"member {member.number} failed: {message['problem']}",
                    message["help"] or f"its log is {member.process.log}",
                )

    def _is_end_of_its_own(self, member: Member, message: Message) -> bool:
        """Whether the program of a member that others do without has failed: it is lost."""
        is_on_its_own = self._restarts_others and not self._mesh.has(member)
        if message["kind"] != "error" or not is_on_its_own:
            return False
        self._on_note("failed", member.number, {"problem": message["problem"]})
        return True

    def _silent(self) -> set[Member]:
        bound = self._heartbeats.silence_seconds
        return {
            member
            for member in self._roster
            if member.state in ("running", "waiting") and self._now - member.heard_seconds > bound
        }

    def _cut_off(self) -> set[Member]:
        """Return members of the mesh that others of it cannot reach."""
        if self._watch is None:
            return set()
        if self._mesh.state != "whole":
            self._watch.forget()
            return set()
        of = self._roster.members
        processes = {number: of[number].process for number in self._mesh.members}
        workers = {number: each.number for number, each in processes.items() if each is not None}
        lost = self._watch.lost(workers, self._now)
        return {of[number] for number in lost if of[number].is_alive}

    def _check_patience(self) -> None:
        """Raise RunError where nothing will come any more."""
        if self._report is not None and self._mesh.state == "whole":
            since, problem = self._report
            if self._now - since > self._heartbeats.silence_seconds + GRACE_SECONDS:
                raise RunError(f"a transport failed, and no member is lost: {problem}")
        is_starting = any(member.state == "starting" for member in self._roster)
        if is_starting or (self._faults.is_awaited and not self._roster.alive()):
            self._last_word = self._now
        if self._now - self._last_word > self._timeout_seconds:
            processes = [m.process for m in self._roster.alive() if m.process is not None]
            raise still(processes, self._timeout_seconds)
