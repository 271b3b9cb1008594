"""Rounds: a server asks its workers for parts of jobs, and waits until a policy says enough.

A job is one update of one model. In every round the server opens one, sends tasks, waits, and takes
what has come; it decodes jobs and steps their models as soon as the policy says so, be it rounds
after they began. What comes late still counts while its job is open, if the policy wants it.
Workers may be slow, hang or be lost: what the policy does without them is its own affair; where it
can do nothing more, the run ends with a report that says what it waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from antiphon.kernel.gradient_code import NotDecodable
from antiphon.policy.recovery.recovery import Outcome
from antiphon.program.decisions import Decider
from antiphon.program.learner.learner import Contribution, Learner, State
from antiphon.program.letters import tell
from antiphon.program.rounds.ledger import Layout, Ledger, Update
from antiphon.program.rounds.worker import RESULTS, TASKS, World
from antiphon.world.handle import Handle
from antiphon.world.protocols import EVENTS, Fact, Letter
from antiphon.world.task import Scope, Task

ROOM = "sync"

Watch = Callable[[int, float, State], bool | None]
"""Told of each update: its job, the seconds since the run began, the model's new state. Returns
whether that is enough: then no other job begins."""


@dataclass(frozen=True, slots=True)
class Rounds:
    """What is to be done."""

    policy: str
    """Of ``policy/sync/``, one that is asked as ``antiphon.policy.sync.rounds`` says."""
    jobs: int
    samples: int
    """Of each job."""
    parameters: Mapping[str, Fact] = field(default_factory=dict)
    models: int = 1
    """Job j updates model j modulo this, after the job before it of the same model."""
    patience_seconds: float = 60.0
    """After so long without an answer that the policy waits for, the run ends with a report."""
    seconds: float | None = None
    """Of the run, after which no job begins. None: until there are no more."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How it went, as the server saw it."""

    outcome: Outcome
    reason: str  # what was waited for in vain
    updates: int
    rounds: int
    seconds: float
    losses: tuple[float | None, ...]  # of each update, before it
    update_seconds: tuple[float, ...]  # since the run began
    states: tuple[State, ...]  # of the models
    waited_for: tuple[int, ...]  # answers that had come when each round ended
    late: int  # answers that came after their rounds had ended
    duplicates: int  # results that were there already


async def serve_rounds(
    world: World, learner: Learner, rounds: Rounds, watch: Watch | None = None
) -> Ended:
    """Have all other members, which ``work_in_rounds``, do ``rounds``."""
    return await _Server(world, learner, rounds, watch).run()


class _Stuck(Exception):
    """Nothing comes that would let the run go on."""


class _Server:
    """The one that asks."""

    def __init__(
        self, world: World, learner: Learner, rounds: Rounds, watch: Watch | None = None
    ) -> None:
        self._world = world
        self._learner = learner
        self._rounds = rounds
        self._watch = watch
        self._members = [member for member in range(world.members) if member != world.member]
        self._worker_of = {member: worker for worker, member in enumerate(self._members)}
        self._decider = Decider(world, ROOM, rounds.policy, rounds.parameters)
        workers, samples = len(self._members), rounds.samples
        facts: dict[str, Fact] = {"ask": "layout", "workers": workers, "samples": samples}
        answer = self._decider.decide(facts)
        self._layout = Layout(answer, workers, samples)
        self._takes_late = bool(answer["late"])
        self._ledger = Ledger(self._layout)
        self._began = world.now()
        self._alive = set(range(len(self._members)))
        self._known: list[set[int] | None] = [None] * len(self._members)  # jobs whose state it has
        self._models: list[State] = []
        self._stepping: dict[int, Task[None]] = {}  # by model
        self._updated: dict[str, Fact] | None = None
        self._losses: list[float | None] = []
        self._update_seconds: list[float] = []
        self._has_lost = False
        self._is_enough = False
        # of the round
        self._round = -1
        self._begins: list[float] = []
        self._tasks: dict[int, list[list[int]]] = {}
        self._answered: list[list[float]] = []
        self._who: set[int] = set()  # has answered
        self._late: list[list[float]] = []
        self._waited_for: list[int] = []
        self._late_count = 0
        self._enough = 0
        self._last_answer = 0.0
        self._awake: Handle[None] = Handle("round")

    async def run(self) -> Ended:
        """Carry the rounds out."""
        world = self._world
        reason = ""
        try:
            if world.is_new:
                raise _Stuck("the server was lost, and the models with it")
            async with world.scope() as tasks:
                readers = tasks.start(self._read_results()), tasks.start(self._read_events())
                await self._begin_models()
                await self._run_rounds(tasks)
                for reader in readers:
                    reader.cancel()
        except (_Stuck, NotDecodable) as stuck:
            reason = str(stuck)
        await self._dismiss()
        return self._ended(reason)

    def _ended(self, reason: str) -> Ended:
        return Ended(
            outcome="reported" if reason else "recovered" if self._has_lost else "finished",
            reason=reason,
            updates=len(self._losses),
            rounds=len(self._waited_for),
            seconds=self._seconds(),
            losses=tuple(self._losses),
            update_seconds=tuple(self._update_seconds),
            states=tuple(self._models),
            waited_for=tuple(self._waited_for),
            late=self._late_count,
            duplicates=self._ledger.duplicates,
        )

    # Rounds

    async def _begin_models(self) -> None:
        for model in range(self._rounds.models):
            random = self._world.random("initial", model)
            work = self._learner.combine_work(0)
            made = await self._world.compute(work, partial(self._learner.initial, random))
            self._models.append(self._learner.blank_state() if made is None else made)

    async def _run_rounds(self, tasks: Scope) -> None:
        job, state = 0, None
        while True:
            is_free = await self._is_free(job % self._rounds.models)
            opened = job if is_free and self._has_more(job) else None
            if opened is not None:
                self._ledger.begin(opened, self._round + 1)
                job += 1
            elif not self._ledger.open:
                break
            answer = self._begin_round(opened, state)
            while (wait := answer["wait"]) is not None:
                answer = self._ask(answer["state"], await self._until(*wait))
            state = answer["state"]
            self._waited_for.append(len(self._answered))
            for finished in answer["finish"]:
                self._step(finished, tasks)
        for step in self._stepping.values():
            await step

    def _has_more(self, job: int) -> bool:
        until = self._rounds.seconds
        is_over = self._is_enough or (until is not None and self._seconds() >= until)
        return job < self._rounds.jobs and not is_over

    async def _is_free(self, model: int) -> bool:
        """Whether a job of ``model`` may begin; where its update is under way, it is awaited."""
        if any(job % self._rounds.models == model for job in self._ledger.open):
            return False
        if model in self._stepping:
            await self._stepping.pop(model)
        return True

    def _begin_round(self, opened: int | None, state: Any) -> dict[str, Any]:
        self._round += 1
        answer: dict[str, Any] = self._decider.decide(
            {
                "ask": "begin",
                "round": self._round,
                "workers": len(self._members),
                "alive": sorted(self._alive),
                "opened": opened,
                **self._ledger.facts(self._round),
                "updated": self._updated,
                "late": self._late,
                "state": state,
            }
        )
        self._late, self._answered, self._who = [], [], set()
        self._begins.append(self._world.now())
        self._last_answer = self._begins[-1]
        self._tasks = dict(answer["tasks"])
        for worker in self._tasks:
            self._send(worker)
        return answer

    def _ask(self, state: Any, seconds: float) -> dict[str, Any]:
        """Ask the policy whether this was enough, so many seconds after the round began."""
        answer: dict[str, Any] = self._decider.decide(
            {
                "ask": "wait",
                "round": self._round,
                "workers": len(self._members),
                "seconds": seconds,
                "asked": list(self._tasks),
                "answered": self._answered,
                "alive": sorted(self._alive),
                **self._ledger.facts(self._round),
                "state": state,
            }
        )
        return answer

    async def _until(self, count: int, seconds: float | None) -> float:
        """Wait for so many answers, or until so many seconds of the round; or for a loss.

        Returns the seconds that the round has lasted. Raises _Stuck where nothing comes.
        """
        world, begin, patience = self._world, self._begins[-1], self._rounds.patience_seconds
        self._enough = count
        while len(self._answered) < count:
            last = self._last_answer
            due = last + patience if seconds is None else begin + seconds
            self._awake = Handle("round")
            timer = world.sleep(max(0.0, due - world.now()))
            timer.on_settled(partial(self._awake.settle, None))
            await self._awake
            if not timer.is_settled:  # enough has come, or somebody was lost
                timer.cancel()
                break
            if seconds is not None:
                return max(world.now() - begin, seconds)  # less by a rounding asks for no time
            if last == self._last_answer:
                raise _Stuck(self._in_vain())
        return world.now() - begin

    def _in_vain(self) -> str:
        missing = [worker for worker in self._tasks if worker not in self._who]
        named = ", ".join(
            f"{self._members[worker]}{'' if worker in self._alive else ' (lost)'}"
            for worker in missing
        )
        return (
            f"round {self._round}: no answer in {self._rounds.patience_seconds:g} s of member "
            f"{named or 'any'}, and {self._rounds.policy} cannot go on with {len(self._who)}"
        )

    # Jobs

    def _step(self, job: int, tasks: Scope) -> None:
        """End a job and have its model step, beside the rounds that follow."""
        model = job % self._rounds.models
        arrived = self._ledger.end(job)
        self._stepping[model] = tasks.start(self._update(job, model, arrived))

    async def _update(self, job: int, model: int, arrived: Mapping[int, Contribution]) -> None:
        state = self._models[model]
        run = partial(self._ledger.update, self._learner, state, arrived)
        made = await self._world.compute(self._learner.combine_work(len(arrived)), run)
        update = made or Update(self._learner.blank_state(), None, 0.0, None)
        self._models[model] = update.state
        self._updated = {
            "job": job,
            "count": len(arrived),
            "loss": update.loss,
            "squared_norm": update.squared_norm,
            "variance": update.variance,
        }
        self._losses.append(update.loss)
        self._update_seconds.append(self._seconds())
        self._world.note("step", step=len(self._losses), job=job, model=model, loss=update.loss)
        if self._watch is not None:
            self._is_enough |= bool(self._watch(job, self._seconds(), update.state))

    # Letters

    def _send(self, worker: int) -> None:
        """Send a worker its task, with the states of jobs that it does not have yet.

        That it is lost is told on another channel, and what is on its way to it is then lost.
        """
        if worker not in self._alive:
            return
        known, layout = self._known[worker], None
        if known is None:
            own = self._layout.own(worker)
            known, layout = set(), {"samples": self._layout.samples, "own": own}
        parts = self._tasks[worker]
        states = sorted({job for job, _ in parts} - known)
        self._known[worker] = (known | set(states)) & set(self._ledger.open)
        facts: dict[str, Any] = {
            "round": self._round,
            "parts": parts,
            "states": states,
            "oldest": min(self._ledger.open, default=0),
            "layout": layout,
        }
        arrays = [array for job in states for array in self._models[job % self._rounds.models]]
        self._world.send(self._members[worker], TASKS, facts, arrays)

    async def _read_results(self) -> None:
        while True:
            letter = await self._world.receive(RESULTS)
            worker = self._worker_of.get(letter.source)
            if worker is not None:
                self._take(worker, letter)

    def _take(self, worker: int, letter: Letter) -> None:
        facts: Mapping[str, Any] = letter.facts
        number, now = facts["round"], self._world.now()
        is_now = number == self._round and self._is_under_way
        if is_now and worker in self._who:
            self._ledger.duplicates += 1
            return
        if not is_now:
            self._late_count += 1
            self._late.append([number, worker, now - self._begins[number]])
        if is_now or self._takes_late:
            each = len(letter.arrays) // len(facts["parts"])
            for place, (job, part) in enumerate(facts["parts"]):
                arrays = letter.arrays[place * each : (place + 1) * each]
                loss = {"loss": facts["losses"][place]}
                self._ledger.add(job, part, Contribution(arrays, loss))
        if is_now:
            self._answered.append([worker, now - self._begins[-1]])
            self._who.add(worker)
            self._last_answer = now
            if len(self._answered) >= self._enough:
                self._awake.settle(None)

    async def _read_events(self) -> None:
        while True:
            letter = await self._world.receive(EVENTS)
            worker = self._worker_of.get(letter.source)
            if worker is None:
                continue
            match letter.facts["event"]:
                case "left":
                    self._has_lost = True
                    self._alive.discard(worker)
                    self._awake.settle(None)
                case "joined":
                    self._alive.add(worker)
                    self._known[worker] = None
                    if self._is_under_way and worker in self._tasks and worker not in self._who:
                        self._send(worker)

    async def _dismiss(self) -> None:
        """Tell the workers that there is nothing more to do."""
        for worker in sorted(self._alive):
            if not await tell(self._world, self._members[worker], TASKS, {"stop": True}):
                self._alive.discard(worker)

    @property
    def _is_under_way(self) -> bool:
        """Whether a round has begun and not ended."""
        return len(self._waited_for) == self._round

    def _seconds(self) -> float:
        return self._world.now() - self._began
