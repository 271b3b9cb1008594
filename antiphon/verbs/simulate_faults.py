"""``antiphon simulate --faults`` and ``--fault-schedules``: a plan's training as things break."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from antiphon.cost.price import NANOSECONDS
from antiphon.errors import JobError, Mistake
from antiphon.planner.refine import simulated_plan
from antiphon.policy.recovery.recovery import Outcome, RecoveryRule
from antiphon.registry import find
from antiphon.simulation.fault_schedules import draw
from antiphon.simulation.faulty_training import Trained, train_under
from antiphon.simulation.simulated_plan import SimulatedPlan
from antiphon.spec.faults import Faults
from antiphon.spec.job import Job
from antiphon.spec.plan import Plan
from antiphon.verbs.load import JobLike, load
from antiphon.verbs.profile import kept_profile
from antiphon.verbs.simulate import QUIET_SECONDS, chosen_plan, prepared_plan
from antiphon.verbs.training_faults import training_faults
from antiphon.verbs.watch import Watch, nobody
from antiphon.world.decision import RECOVERY
from antiphon.world.simulated.log import EventLog

SCHEDULE_STEPS = 8  # of a run under a drawn schedule, where no other number is asked for
SCHEDULE_CHECKPOINTS = 4  # of such a run, where the job names no interval
NO_SNAPSHOTS = (
    "snapshots in memory (`train.snapshot_every` = {every}) are not simulated: this run goes back "
    "to checkpoints on disk"
)
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


@dataclass(frozen=True, slots=True)
class SimulatedFaults:
    """What became of one run under faults, beside the same run without any."""

    job: Job
    plan: Plan
    steps: int
    faults: Faults
    schedule: int | None  # its number, where the faults were drawn
    trained: Trained
    undisturbed: Trained
    seconds: float  # that the simulation took

    @property
    def useful_seconds(self) -> float:
        """What the steps that were done take where nothing breaks."""
        done = len(self.trained.step_ends)
        if done == self.steps and self.trained.outcome != "reported":
            return self.undisturbed.seconds
        return self.undisturbed.step_ends[done - 1] if done else 0.0

    @property
    def notes(self) -> tuple[str, ...]:
        """What the job asks for and simulations leave out."""
        every = self.job.train.snapshot_every
        return () if every is None else (NO_SNAPSHOTS.format(every=every),)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object of ``antiphon simulate --faults --json``."""
        trained, useful = self.trained, self.useful_seconds
        return {
            "plan": self.plan.name,
            "axes": self.plan.axes,
            "recovery": self.job.train.recovery,
            "seed": self.job.train.seed,
            "fault_schedule": self.schedule,
            "faults": [fault.model_dump(exclude_defaults=True) for fault in self.faults.fault],
            "outcome": trained.outcome,
            "reason": trained.reason or None,
            "steps": self.steps,
            "steps_done": len(trained.step_ends),
            "steps_repeated": trained.steps_repeated,
            "seconds": trained.seconds,
            "useful_seconds": useful,
            "lost_seconds": trained.seconds - useful,
            "effective_time": useful / trained.seconds if trained.seconds else None,
            "notes": list(self.notes),
            "timeline": _timeline(trained),
            "step_ends": trained.step_ends,
            "event_log_hash": trained.log.hash(),
            "simulation_seconds": self.seconds,
        }


@dataclass(frozen=True, slots=True)
class SimulatedSchedules:
    """What became of a run under many schedules of faults."""

    job: Job
    plan: Plan
    steps: int
    outcomes: Counter[Outcome]
    failed: tuple[tuple[int, str], ...]  # (number of the schedule, why)
    digest: str
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object of ``antiphon simulate --fault-schedules --json``."""
        return {
            "plan": self.plan.name,
            "axes": self.plan.axes,
            "recovery": self.job.train.recovery,
            "seed": self.job.train.seed,
            "steps": self.steps,
            "schedules": self.outcomes.total() + len(self.failed),
            "outcomes": {outcome: self.outcomes[outcome] for outcome in OUTCOMES},
            "failed": [{"fault_schedule": n, "problem": problem} for n, problem in self.failed],
            "event_log_hash": self.digest,
            "simulation_seconds": self.seconds,
        }


def simulate_faults(
    job: JobLike,
    faults: Faults | str | Path,
    *,
    overrides: Sequence[str] = (),
    seed: int | None = None,
    plan: Plan | str | Path | None = None,
    steps: int | None = None,
    watch: Watch = nobody,
) -> SimulatedFaults:
    """Simulate ``steps`` (None: all) of ``plan`` (None: the best), with what breaks in ``faults``.

    Nothing is computed, and no torch imported. The job's rule of recovery (``train.recovery``) says
    what becomes of the run. Raises JobError for mistakes in the job, the plan or the faults.
    """
    setup = _Setup(job, overrides, seed, plan, steps)
    setup.watch = watch
    return setup.simulate(training_faults(faults, setup.simulated.plan), None)


def simulate_schedule(
    job: JobLike,
    number: int,
    *,
    overrides: Sequence[str] = (),
    seed: int | None = None,
    plan: Plan | str | Path | None = None,
    steps: int | None = None,
) -> SimulatedFaults:
    """Simulate the job under one of the schedules of ``simulate_schedules``."""
    setup = _Setup(job, overrides, seed, plan, steps, is_short=True)
    return setup.simulate(setup.schedule(number), number)


def simulate_schedules(
    job: JobLike,
    count: int,
    *,
    overrides: Sequence[str] = (),
    seed: int | None = None,
    plan: Plan | str | Path | None = None,
    steps: int | None = None,
    watch: Watch = nobody,
) -> SimulatedSchedules:
    """Simulate the job under schedules 0 to ``count``, and count what becomes of the runs.

    A run that does anything but finish, recover or say why it ended has failed: whatever it raises
    is kept beside the number of its schedule.
    """
    assert count > 0
    setup = _Setup(job, overrides, seed, plan, steps, is_short=True)
    outcomes: Counter[Outcome] = Counter()
    failed: list[tuple[int, str]] = []
    digest = hashlib.sha256()
    for number in range(count):
        try:
            trained = setup.train(setup.schedule(number))
        except JobError:
            raise  # a mistake in the job is none of antiphon's
        except Exception as error:  # noqa: BLE001 - to find these is what it is for
            failed.append((number, f"{type(error).__name__}: {error}"))
        else:
            outcomes[trained.outcome] += 1
            digest.update(trained.log.hash().encode())
        text = f"schedules of faults, {len(failed)} failed" if failed else "schedules of faults"
        watch("simulate", {"text": text, "done": number + 1, "total": count})
    return SimulatedSchedules(
        job=setup.job,
        plan=setup.simulated.plan,
        steps=setup.simulated.settings.steps,
        outcomes=outcomes,
        failed=tuple(failed),
        digest=digest.hexdigest(),
        seconds=time.perf_counter() - setup.began,
    )


class _Setup:
    """A job, planned and lowered, to be trained under one schedule of faults after another."""

    def __init__(
        self,
        job: JobLike,
        overrides: Sequence[str],
        seed: int | None,
        plan: Plan | str | Path | None,
        steps: int | None,
        *,
        is_short: bool = False,
    ) -> None:
        self.began = time.perf_counter()
        self.watch: Watch = nobody  # of single steps
        self.job = job = load(job, overrides, seed)
        kept = kept_profile(job) if job.is_local else None
        profile = None if kept is None else kept.profile
        chosen = chosen_plan(job, profile, plan)
        every = job.train.checkpoint_every
        if is_short:
            steps = steps or min(job.train.steps, SCHEDULE_STEPS)
            every = every or max(1, steps // SCHEDULE_CHECKPOINTS)
        steps = steps or job.train.steps
        train = job.train.model_copy(update={"steps": steps, "checkpoint_every": every})
        prepared = prepared_plan(job, chosen, profile)
        self.simulated: SimulatedPlan = simulated_plan(
            job.model_copy(update={"train": train}), prepared, chosen
        )
        self.rule: RecoveryRule = find(RECOVERY, job.train.recovery)()
        self._undisturbed: Trained | None = None

    @property
    def undisturbed(self) -> Trained:
        """The run without faults. Raises JobError where it is too slow for the job's patience."""
        if self._undisturbed is None:
            self._undisturbed = self.train(Faults(), has_patience=False)
            _require_patience(self.job.train.timeout_seconds, self._undisturbed)
        return self._undisturbed

    def schedule(self, number: int) -> Faults:
        """Return a schedule of faults, drawn over what happens in the run without any."""
        events = event_seconds(self.undisturbed.log)
        return draw(number, self.job.train.seed, events, self.simulated.plan.ranks)

    def train(self, faults: Faults, *, has_patience: bool = True) -> Trained:
        total = self.simulated.settings.steps
        what = "steps" if faults.fault else "steps without faults"

        def told(done: int) -> None:
            if time.perf_counter() - self.began > QUIET_SECONDS:
                self.watch("simulate", {"text": what, "done": done, "total": total})

        return train_under(
            self.simulated,
            faults,
            self.rule,
            seed=self.job.train.seed,
            has_patience=has_patience,
            on_step=told,
        )

    def simulate(self, faults: Faults, number: int | None) -> SimulatedFaults:
        undisturbed, trained = self.undisturbed, self.train(faults)
        return SimulatedFaults(
            job=self.job,
            plan=self.simulated.plan,
            steps=self.simulated.settings.steps,
            faults=faults,
            schedule=number,
            trained=trained,
            undisturbed=undisturbed,
            seconds=time.perf_counter() - self.began,
        )


def _require_patience(timeout_seconds: float, undisturbed: Trained) -> None:
    """Raise JobError where a run is to be ended in which nothing breaks."""
    silence = undisturbed.silence_seconds
    if silence > timeout_seconds:
        step = float(np.diff([0.0, *undisturbed.step_ends]).max())
        raise JobError(
            Mistake(
                key="train.timeout_seconds",
                problem=f"a run in which nothing is told for {timeout_seconds:g} s is ended, and "
                f"where nothing breaks nothing is told for up to {silence:.6g} s: a step takes up "
                f"to {step:.6g} s",
                help=f"allow more than {max(step, silence):.6g}, and what recovery takes besides",
            )
        )


def event_seconds(log: EventLog) -> tuple[float, ...]:
    """The different times at which anything ended, in order."""
    ends = np.unique(log.entries()[:, 1])
    return tuple(float(end) / NANOSECONDS for end in ends)


def _timeline(trained: Trained) -> list[dict[str, Any]]:
    """What happened, and what the supervisor decided, in order."""
    told = [
        {"seconds": seconds, "topic": topic, "facts": dict(facts)}
        for seconds, topic, facts in trained.events
    ]
    for line in trained.decisions:
        entry = json.loads(line)
        if entry["room"] == RECOVERY:
            facts = {"lost": entry["facts"]["lost"], **entry["outcome"]}
            told.append({"seconds": entry["seconds"], "topic": "verdict", "facts": facts})
    return sorted(told, key=lambda each: each["seconds"])
