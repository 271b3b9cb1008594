"""The training program of a plan under faults, in simulated time, and what must hold whatever they
are: every sample of the run's order is trained exactly once, by parts of a model that agree.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from antiphon.cost.price import NANOSECONDS
from antiphon.policy.layout.mesh import place_of
from antiphon.policy.recovery.recovery import Outcome, RecoveryRule
from antiphon.program import checkpoint
from antiphon.program.checkpoint import CheckpointError, Position
from antiphon.program.sampler import Sampler
from antiphon.program.train import Training, train
from antiphon.simulation.counting_stage import CountingStage, LineageError
from antiphon.simulation.isolation import NoIsolation
from antiphon.simulation.simulated_plan import SimulatedPlan
from antiphon.spec.faults import Faults
from antiphon.world.failure import GaveUp
from antiphon.world.random import keyed_generator
from antiphon.world.simulated.log import EventLog
from antiphon.world.simulated.membership import Delays
from antiphon.world.simulated.world import Simulation, SimWorld

TRAINING_SEQUENCES = 24  # few, so that a run is quick and goes through them more than once
VALIDATION_SEQUENCES = 5
DAMAGES = ("torn-write", "bit-flip")
NOWHERE = -1  # the epoch of who has entered none: at its end it has nothing


@dataclass(slots=True)
class Trained:
    """What a run came to."""

    outcome: Outcome = "finished"  # recovered: in spite of losses
    reason: str = ""  # of a run that was reported
    seconds: float = 0.0  # simulated, to its end
    step_ends: list[float] = field(default_factory=list)  # when somebody first told of each step
    steps_repeated: int = 0  # that had been told of
    events: list[tuple[float, str, dict[str, Any]]] = field(default_factory=list)
    log: EventLog = field(default_factory=lambda: EventLog(0))
    decisions: list[str] = field(default_factory=list)

    @property
    def silence_seconds(self) -> float:
        """The longest time in which nothing was told."""
        told = sorted([0.0, *self.step_ends, *(at for at, _, _ in self.events)])
        return max((later - at for at, later in pairwise(told)), default=0.0)


def campaign(
    simulated: SimulatedPlan, schedules: Iterable[Faults], rule: RecoveryRule, *, seed: int = 0
) -> tuple[Counter[Outcome], list[Trained]]:
    """Train under one schedule of faults after another; return how often each outcome was had.

    What a run raises is raised with a note of which one it was.
    """
    runs = []
    for number, faults in enumerate(schedules):
        try:
            runs.append(train_under(simulated, faults, rule, seed=seed))
        except Exception as error:
            error.add_note(f"under schedule {number}, seed {seed}")
            raise
    return Counter(run.outcome for run in runs), runs


def train_under(
    simulated: SimulatedPlan,
    faults: Faults,
    rule: RecoveryRule | None,
    *,
    seed: int = 0,
    has_patience: bool = True,
    on_step: Callable[[int], None] = lambda _: None,
) -> Trained:
    """Train to the last step under ``faults``. ``rule`` None: a loss ends the run.

    ``has_patience``: the run is ended where nothing is told for the settings' ``timeout_seconds``.
    ``on_step`` hears how many steps are done. Raises LineageError where the run trained on what it
    should not have, which no fault may cause.
    """
    patience_seconds = simulated.settings.timeout_seconds if has_patience else None
    return _Run(simulated, faults, rule, seed, patience_seconds, on_step).carry_out()


class _Run:
    """One simulation, and what its members told."""

    def __init__(
        self,
        simulated: SimulatedPlan,
        faults: Faults,
        rule: RecoveryRule | None,
        seed: int,
        patience_seconds: float | None,
        on_step: Callable[[int], None],
    ) -> None:
        self._simulated = simulated
        self._on_step = on_step
        self._faults = faults
        self._training = Training(
            plan=simulated.plan,
            settings=simulated.settings,
            schedule=simulated.schedule,
            training_sequences=TRAINING_SEQUENCES,
            validation_sequences=VALIDATION_SEQUENCES,
            tokens="",
            tied=simulated.model.tied_embeddings,
            recovers=rule is not None,
        )
        self._stages: dict[int, CountingStage] = {}  # by member: of its last program
        self._epochs: dict[int, int] = {}  # by member: the last in which it came to train
        self._ran = Trained()
        self._simulation = Simulation(
            simulated.pricer,
            simulated.plan.ranks,
            seed=seed,
            on_note=self._heed,
            isolation=NoIsolation(),
            faults=faults,
            recover=rule,
            axes=simulated.plan.axes,
            delays=Delays(patience_seconds=patience_seconds),
        )

    def carry_out(self) -> Trained:
        """Run to the end and look at what is left."""
        simulation, ran = self._simulation, self._ran
        programs = dict.fromkeys(range(self._simulated.plan.ranks), self._program)
        try:
            ended = simulation.run(programs)
        except GaveUp as error:
            ran.outcome, ran.reason = "reported", str(error)
        except CheckpointError as error:  # no fault may cause another, as a deadlock
            ran.outcome, ran.reason = "reported", f"{error.problem}: {error.help}"
        else:
            self._check(ended)
            ran.outcome = simulation.outcome
        ran.seconds = simulation.queue.now / NANOSECONDS
        ran.log, ran.decisions = simulation.log, simulation.decisions
        ran.events += [
            (at / NANOSECONDS, what, {"member": member}) for at, what, member in simulation.events
        ]
        return ran

    async def _program(self, world: SimWorld) -> Position:
        simulated = self._simulated
        self._epochs[world.member] = NOWHERE if world.is_new else 0
        self._stages[world.member] = stage = CountingStage(
            simulated.program_of(world.member).stage,
            simulated.plan,
            simulated.settings,
            place_of(simulated.plan, world.member),
            TRAINING_SEQUENCES,
            world,
        )
        return await train(world, stage, self._training)

    def _heed(self, topic: str, member: int, facts: dict[str, Any]) -> None:
        ran, now = self._ran, self._simulation.queue.now / NANOSECONDS
        match topic:
            case "step":
                if facts["step"] > len(ran.step_ends):
                    ran.step_ends.append(now)
                    self._on_step(len(ran.step_ends))
                return
            case "validation" if facts["loss"] != VALIDATION_SEQUENCES:
                raise LineageError(f"{facts['loss']} sequences were validated on")
            case "recovered":
                if facts["epoch"] > max(self._epochs.values(), default=0):
                    ran.steps_repeated += len(ran.step_ends) - facts["step"]
                self._epochs[member] = facts["epoch"]
        ran.events.append((now, topic, {"member": member, **facts}))

    def _check(self, ended: dict[int, Position]) -> None:
        """Look at what those who trained to the end, and the last checkpoint, were trained on."""
        settings = self._simulated.settings
        whole = Position(settings.steps, settings.steps * settings.global_batch)
        if set(ended.values()) != {whole}:
            raise LineageError(f"members ended at {ended}")
        if len(self._ran.step_ends) != settings.steps:
            raise LineageError(f"{len(self._ran.step_ends)} steps were told of")
        last = max(self._epochs.values())
        ends = [member for member in ended if self._epochs[member] == last]
        if not ends:
            raise LineageError("nobody ended in the last mesh")
        expected = self._expected(whole)
        for member in ends:
            trained = self._stages[member].trained
            if not np.array_equal(trained, expected):
                raise LineageError(f"member {member} was trained on {trained}, not {expected}")
        if not any(fault.kind in DAMAGES for fault in self._faults.fault):
            self._check_files(expected)

    def _check_files(self, expected: np.ndarray[Any, Any]) -> None:
        store = self._simulation.stores["run"]
        name = checkpoint.newest(store.list(checkpoint.FOLDER).result())
        if name != checkpoint.name_of(self._simulated.settings.steps):
            raise LineageError(f"the last checkpoint is {name}")
        manifest = checkpoint.read_manifest(
            name, bytes(store.get(f"{name}/{checkpoint.MANIFEST}").result())
        )
        for file, digest in manifest.digests.items():
            content = bytes(store.get(f"{name}/{file}").result())
            is_whole = hashlib.sha256(content).hexdigest() == digest
            if not is_whole or json.loads(content)["trained"] != expected.tolist():
                raise LineageError(f"{file} of the last checkpoint was trained on {content!r}")

    def _expected(self, end: Position) -> np.ndarray[Any, Any]:
        """How often each sequence is in the order of the run, up to its end."""
        seed = self._simulation.seed
        sampler = Sampler(TRAINING_SEQUENCES, lambda n: keyed_generator(seed, "samples", n))
        return np.bincount(sampler.draw(0, end.samples), minlength=TRAINING_SEQUENCES)
