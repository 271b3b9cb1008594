"""The training program of one rank.

It knows no tensors and no processes. What a step does is a list of actions; an action that is not
awaited at once overlaps with what follows: this is how gradients are reduced during backward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from antiphon.policy.pipeline.action import Action, Kind
from antiphon.program import checkpoint
from antiphon.program.checkpoint import Position
from antiphon.program.learning_rate import cosine_with_warmup
from antiphon.program.sampler import Sampler, microbatches
from antiphon.program.stage import Stage
from antiphon.spec.job import Train
from antiphon.spec.plan import Plan
from antiphon.world.handle import Computation, Handle
from antiphon.world.protocols import (
    Clock,
    Collectives,
    Device,
    Group,
    Journal,
    Mesh,
    Random,
    Storage,
    Tasks,
)
from antiphon.world.task import Scope, Task


class World(Clock, Tasks, Device, Collectives, Storage, Random, Journal, Mesh, Protocol):
    """What training needs of a world."""


@dataclass(frozen=True, slots=True)
class Training:
    """What one run does, the same on every rank."""

    plan: Plan
    settings: Train
    actions: tuple[Action, ...]  # of one step of this rank
    training_sequences: int
    validation_sequences: int
    resume_from: str | None = None  # name of a checkpoint


async def train(world: World, stage: Stage, training: Training) -> Position:
    """Train from the start or from a checkpoint to the last step; return where it ended."""
    settings, plan = training.settings, training.plan
    group = await world.group(range(plan.data), "gradients")
    sampler = Sampler(training.training_sequences, lambda number: world.random("samples", number))
    position = Position()
    if training.resume_from is not None:
        position = await checkpoint.restore(world, stage, training.resume_from)
    async with world.scope() as tasks:
        saver = Saver(world, stage, tasks, settings.seed)
        while position.step < settings.steps:
            started = world.now()
            samples = sampler.draw(position.samples, settings.global_batch)
            stage.begin(
                microbatches(samples, group.rank, plan.data, plan.micro_batch),
                tokens=settings.global_batch * settings.sequence_length,
                learning_rate=learning_rate(settings, position.step),
            )
            await run_actions(world, group, stage, training.actions)
            position = Position(position.step + 1, position.samples + settings.global_batch)
            world.note(
                "step",
                step=position.step,
                loss=stage.read("loss"),
                gradient_norm=stage.read("gradient_norm"),
                seconds=world.now() - started,
            )
            if is_due(position.step, settings.validation_interval, settings.steps):
                await validate(world, group, stage, training, position.step)
            if is_due(position.step, settings.checkpoint_every, settings.steps):
                await saver.save(position)
    return position


async def run_actions(world: World, group: Group, stage: Stage, actions: Sequence[Action]) -> None:
    """Carry out the actions of one step, in order.

    A reduction is tied to the milestone of the last backward at which its bucket is complete; the
    update waits for all of them.
    """
    reductions: list[Handle[None]] = []
    backward: Computation[None] | None = None
    for action in actions:
        match action.kind:
            case Kind.FORWARD:
                world.compute(stage.work(action), stage.run(action))
            case Kind.BACKWARD:
                backward = world.compute(stage.work(action), stage.run(action))
            case Kind.REDUCE:
                assert backward is not None, "the lowering reduces before it computes"
                complete = backward.milestone(f"bucket {action.bucket}")
                reductions.append(
                    world.all_reduce(group, stage.gradients(action.bucket), after=complete)
                )
            case Kind.UPDATE:
                assert backward is not None
                await backward
                for reduction in reductions:
                    await reduction
                await world.compute(stage.work(action), stage.run(action))


async def validate(world: World, group: Group, stage: Stage, training: Training, step: int) -> None:
    """Note the mean loss over the validation sequences, shared out over the ranks."""
    count = min(training.validation_sequences, training.settings.validation_sequences)
    mine = np.array_split(np.arange(count), training.plan.data)[group.rank]
    size = training.plan.micro_batch
    parts = [mine[start : start + size] for start in range(0, len(mine), size)]
    for evaluated in [world.compute(*stage.evaluate(part)) for part in parts]:
        await evaluated
    await world.all_reduce(group, stage.validation)
    world.note("validation", step=step, loss=stage.read("validation_loss"))


class Saver:
    """Writes checkpoints beside the training, one at a time, on the first rank."""

    def __init__(self, world: World, stage: Stage, tasks: Scope, seed: int) -> None:
        self._world = world
        self._stage = stage
        self._tasks = tasks
        self._seed = seed
        self._writing: Task[None] | None = None

    async def save(self, position: Position) -> None:
        """Copy the state now and write it while training goes on."""
        if self._world.rank != 0:
            return
        if self._writing is not None:
            await self._writing
        await self._world.compute(*self._stage.snapshot())
        self._writing = self._tasks.start(self._write(position), "checkpoint")

    async def _write(self, position: Position) -> None:
        store = self._world.store("run")
        name = await checkpoint.write(store, self._stage, position, self._seed)
        self._world.note("checkpoint", step=position.step, name=name)


def learning_rate(settings: Train, step: int) -> float:
    """Return the rate that the job asks for at ``step``, counted from 0."""
    return cosine_with_warmup(
        step,
        settings.steps,
        settings.warmup,
        settings.learning_rate,
        settings.minimum_learning_rate,
    )


def is_due(step: int, interval: int | None, steps: int) -> bool:
    """Whether something done every ``interval`` steps, and at the end, is to be done now."""
    return step == steps or (interval is not None and step % interval == 0)
