"""The training program of one rank. It knows no tensors and no processes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from antiphon.errors import RunError
from antiphon.policy.layout.mesh import along, place_of
from antiphon.policy.pipeline.passes import evaluation_step, training_step
from antiphon.policy.pipeline.schedule import Schedule, refusal
from antiphon.program import checkpoint
from antiphon.program.checkpoint import Position, TokenStream
from antiphon.program.learning_rate import cosine_with_warmup
from antiphon.program.node_memory.nodes import Share
from antiphon.program.recover import NOTHING, Memory, Progress, Recovery
from antiphon.program.sampler import Sampler, dealt, microbatches
from antiphon.program.stage import Stage
from antiphon.program.step import Attempt, Groups, groups_of, join_tensor_peers, run_actions
from antiphon.spec.job import Train
from antiphon.spec.plan import Plan
from antiphon.world.failure import GroupBroken, PeerLost
from antiphon.world.protocols import (
    Clock,
    Collectives,
    Device,
    Journal,
    Mail,
    Membership,
    Mesh,
    Messages,
    Payload,
    Random,
    Storage,
    Tasks,
)
from antiphon.world.task import Scope, Task


class World(
    Clock,
    Tasks,
    Device,
    Collectives,
    Messages,
    Mail,
    Membership,
    Storage,
    Random,
    Journal,
    Mesh,
    Protocol,
):
    """What training needs of a world."""


@dataclass(frozen=True, slots=True)
class Training:
    """What one run does, the same on every rank."""

    plan: Plan
    settings: Train
    schedule: Schedule  # of one pipeline
    training_sequences: int
    validation_sequences: int
    tokens: str  # digest of the corpus
    tied: bool = False  # whether the model's head is its embedding
    resume_from: str | None = None  # name of a checkpoint
    recovers: bool = False  # whether a loss of members does not end it


async def train(
    world: World, stage: Stage, training: Training, memory: Memory | None = None
) -> Position:
    """Train from the start or from a checkpoint to the last step; return where it ended.

    In a run that recovers ``stage`` keeps its part of the model from mesh to mesh. ``memory`` keeps
    snapshots beside the checkpoints on disk.
    """
    settings = training.settings
    is_broken = training.recovers and world.is_new
    progress = Progress(
        members=tuple(range(training.plan.ranks)),
        reached=NOTHING if is_broken or training.resume_from is not None else 0,
    )
    recovery = Recovery(
        world,
        stage,
        progress,
        training.plan,
        TokenStream.of(settings, training.tokens),
        lambda progress: tell_step(world, stage, progress),
        memory,
    )
    while True:
        try:
            if is_broken:
                plan = await recovery.next_mesh()
                if plan is None:  # others have come to the end
                    return Position(settings.steps, settings.steps * settings.global_batch)
                training = replace(training, plan=plan)
            else:
                await join_tensor_peers(world, training.plan, stage)
            await _train_in_one_mesh(world, stage, training, progress, memory)
        except (GroupBroken, PeerLost):
            if not training.recovers:
                raise
            is_broken = True
        else:
            return progress.position


async def _train_in_one_mesh(
    world: World, stage: Stage, training: Training, progress: Progress, memory: Memory | None
) -> None:
    """Train on from ``progress`` to the last step, unless the mesh breaks."""
    settings = training.settings
    groups = await groups_of(
        world, training.plan, training.schedule, training.tied, training.recovers
    )
    steps = Steps(world, groups, stage, training)
    if progress.reached == NOTHING:
        assert training.resume_from is not None
        progress.put_back(await checkpoint.restore(world, stage, training.resume_from), epoch=0)
    async with world.scope() as tasks:
        saver = Saver(world, stage, tasks, training)
        snapshots = None
        if memory is not None and groups.mesh is not None:
            place = place_of(training.plan, world.rank)
            share = Share(place.pipeline, place.data, training.plan.data)
            snapshots = memory.saver(groups.mesh, progress.members, share, tasks)

        async def follow_up() -> None:
            """Do what is due after the last step, and was not done."""
            step = progress.position.step
            if progress.validated < last_due(step, settings.validation_interval, settings.steps):
                await validate(world, groups, stage, training, step)
                progress.validated = step
            if progress.saved < last_due(step, settings.checkpoint_every, settings.steps):
                await saver.save(progress.position)
                progress.saved = step

        await follow_up()
        while progress.position.step < settings.steps:
            await steps.take(progress, None if snapshots is None else snapshots.finish)
            await follow_up()
            if snapshots is not None:  # a run that goes back there has followed up
                await snapshots.save(progress.position)
        if snapshots is not None:
            await snapshots.finish()
    if groups.mesh is not None:  # nobody is finished before all is done
        await world.barrier(groups.mesh)


class Steps:
    """Takes one training step after another, in one mesh."""

    def __init__(self, world: World, groups: Groups, stage: Stage, training: Training) -> None:
        """Raises RunError where the schedule cannot have the global batch shared out so."""
        self._world = world
        self._groups = groups
        self._stage = stage
        self._training = training
        plan = training.plan
        self._place = place_of(plan, world.rank)
        self._sampler = Sampler(
            training.training_sequences, lambda number: world.random("samples", number)
        )
        self._counts = shared_out(training)
        self._actions = training_step(
            training.schedule,
            self._place.pipeline,
            plan.pipeline,
            self._counts[self._place.data],
            stage.buckets,
            tied=training.tied,
            reduce_every=plan.reduce_every_micro_batch,
        )

    async def take(
        self, progress: Progress, ready: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Train on the next global batch, tell the loss, and note how far that leads.

        No rank updates before all are ``ready``.
        """
        settings, position = self._training.settings, progress.position
        progress.begun = self._world.now()
        samples = self._sampler.draw(position.samples, settings.global_batch)
        self._stage.begin(
            microbatches(samples, self._place.data, self._counts, self._training.plan.micro_batch),
            tokens=settings.global_batch * settings.sequence_length,
            learning_rate=learning_rate(settings, position.step),
        )
        progress.attempt = attempt = Attempt(ready=ready)
        progress.attempted = 0 if self._groups.mesh is None else self._groups.mesh.epoch
        await run_actions(self._world, self._groups, self._stage, self._actions, attempt)
        progress.advance(settings.global_batch)
        tell_step(self._world, self._stage, progress)


def shared_out(training: Training) -> tuple[int, ...]:
    """Return how many micro-batches of a step each replica takes.

    Where the replicas do not divide them some take more. A schedule that takes them in groups is
    given whole groups. Raises RunError where it cannot be used so.
    """
    plan, schedule = training.plan, training.schedule
    every = training.settings.global_batch // plan.micro_batch
    reasons: list[str] = []
    for unit in (1, plan.pipeline):
        if every % unit == 0 and every // unit >= plan.data:
            counts = dealt(every, plan.data, unit)
            refused = [refusal(schedule, plan.pipeline, count) for count in sorted({*counts})]
            reasons += filter(None, refused)
            if not any(refused):
                return counts
    problem = f"{plan.data} replicas cannot share {every} micro-batches out"
    raise RunError(": ".join([problem, *reasons[:1]]), "use smaller micro-batches")


def tell_step(world: World, stage: Stage, progress: Progress) -> None:
    """Tell the last step's loss, norm and seconds."""
    world.note(
        "step",
        step=progress.position.step,
        loss=stage.read("loss"),
        gradient_norm=stage.read("gradient_norm"),
        seconds=world.now() - progress.begun,
    )
    progress.told = progress.position.step


async def validate(
    world: World, groups: Groups, stage: Stage, training: Training, step: int
) -> None:
    """Note the mean loss over the validation sequences, shared out over the replicas."""
    plan = training.plan
    place = place_of(plan, world.rank)
    count = min(training.validation_sequences, training.settings.validation_sequences)
    mine = np.array_split(np.arange(count), plan.data)[place.data]
    size = plan.micro_batch
    parts = [mine[start : start + size] for start in range(0, len(mine), size)]
    if parts:
        stage.begin_evaluation(parts)
        forwards = evaluation_step(training.schedule, place.pipeline, plan.pipeline, len(parts))
        await run_actions(world, groups, stage, forwards)
    await world.all_reduce(groups.data, stage.validation)
    await world.all_reduce(groups.replica, stage.validation)
    world.note("validation", step=step, loss=stage.read("validation_loss"))


class Saver:
    """Writes checkpoints beside the training, one at a time: each rank of the first replica."""

    def __init__(self, world: World, stage: Stage, tasks: Scope, training: Training) -> None:
        self._world = world
        self._stage = stage
        self._tasks = tasks
        self._plan = training.plan
        self._stream = TokenStream.of(training.settings, training.tokens)
        self._writing: Task[None] | None = None

    async def save(self, position: Position) -> None:
        """Copy the state now and write it while training goes on."""
        if place_of(self._plan, self._world.rank).data != 0:
            return
        if self._writing is not None:
            await self._writing
        await self._world.compute(*self._stage.snapshot())
        writing = self._write(position, self._stage.files())  # others may take snapshots meanwhile
        self._writing = self._tasks.start(writing, "checkpoint")

    async def _write(self, position: Position, files: Mapping[str, Payload]) -> None:
        replica = along(self._plan, self._world.rank, "tensor", "pipeline")
        writers = await self._world.group(replica, "checkpoint")
        try:
            name = await checkpoint.write(self._world, writers, files, position, self._stream)
        except OSError as error:
            problem = f"the checkpoint of step {position.step} cannot be written: {error}"
            help_text = "see to the disk; then go on from the checkpoint before it with --resume"
            raise checkpoint.CheckpointError(problem, help_text) from None
        if writers.rank == 0:
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


def last_due(step: int, interval: int | None, steps: int) -> int:
    """Return the last step, up to ``step``, after which to do what is done every ``interval``.

    That is also done after the last of all ``steps``; 0 where it has not been due.
    """
    if step == steps:
        return steps
    return 0 if interval is None else step - step % interval
