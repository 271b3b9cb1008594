"""A stage of which nothing is computed: it knows what actions need, and how large buffers are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from antiphon.cost.mesh_table import TOTALS_NBYTES
from antiphon.cost.rank_work import RankWork, rank_work
from antiphon.cost.work import (
    ITEMSIZE,
    Operation,
    Work,
    collective_work,
    concatenate,
    copy_work,
    state_itemsize,
)
from antiphon.policy.layout.buckets import gradient_buckets
from antiphon.policy.layout.mesh import place_of
from antiphon.policy.layout.stages import layers_of
from antiphon.policy.layout.tensor import held_tensors, shard_shape
from antiphon.policy.pipeline.action import Action, Kind
from antiphon.policy.pipeline.passes import last_microbatches
from antiphon.policy.pipeline.schedule import Schedule, stages_of
from antiphon.simulation.buffer import Buffer
from antiphon.spec.job import Train
from antiphon.spec.model import Model
from antiphon.spec.plan import Plan
from antiphon.world.protocols import Group

STATE_OF_CHECKPOINT = 3  # a parameter and its two moments
VALIDATION_NBYTES = 2 * 8  # two numbers in float64
_FORWARD: Final = Kind.FORWARD  # to ask an enumeration for a member takes long
NO_WORK = copy_work("drop", 0.0)


class ChargedStage:
    """What one rank holds. See ``antiphon.program.stage.Stage`` for what each method is for.

    The same Work object is handed out for the same action in every step.
    """

    def __init__(
        self,
        model: Model,
        plan: Plan,
        settings: Train,
        schedule: Schedule,
        rank: int = 0,
    ) -> None:
        place = place_of(plan, rank)
        layers = layers_of(model, plan, schedule)
        itemsize = state_itemsize(plan.precision)
        self.works: dict[int, RankWork] = {}
        """By stage."""
        self.layers: dict[int, range] = {}
        """By stage: the layers of the model that it holds."""
        self.tensors: dict[str, tuple[int, ...]] = {}
        """Shapes of what the rank holds."""
        # Of the last micro-batch and of others, by kind and stage; with milestones, if they
        # complete buckets.
        self._completing: dict[tuple[Kind, int], Work] = {}
        self._others: dict[tuple[Kind, int], Work] = {}
        self._gradients: list[Buffer] = []
        buckets = []
        for stage in stages_of(schedule, place.pipeline, plan.pipeline):
            held = layers[stage]
            every = held_tensors(model, held, place.tensor, plan.tensor)
            tensors = {name: shape for name, shape in every.items() if name not in self.tensors}
            names = gradient_buckets(tensors, itemsize, plan.bucket_nbytes)
            work = rank_work(model, plan, settings, names, held, len(self._gradients))
            self.works[stage] = work
            completes = plan.reduce_every_micro_batch
            for kind, each in _by_kind(work).items():
                self._completing[kind, stage] = each
                self._others[kind, stage] = each if completes else replace(each, milestones=())
            buckets.append(len(names))
            self.layers[stage] = held
            self.tensors |= tensors
            self._gradients += [
                Buffer(itemsize * sum(math.prod(tensors[name]) for name in bucket))
                for bucket in names
            ]
        loss = Buffer(self._gradients[-1].nbytes + itemsize)  # it rides along in the last one
        self._gradients[-1] = loss
        self.buckets = tuple(buckets)
        works = self.works.values()
        self._update = concatenate("update", [work.update for work in works])
        norm = concatenate("norm", [work.norm for work in works])
        self._whole = {Kind.NORM: norm, Kind.UPDATE: self._update}  # of all stages together
        tokens = settings.sequence_length // plan.tensor  # of a sequence, the rank's own
        self._sequence_nbytes = ITEMSIZE[plan.precision] * tokens * model.hidden
        self._sequences: list[int] = []  # in each micro-batch
        self._messages: list[Buffer] = []  # of each micro-batch
        self._take_up([plan.micro_batch] * plan.micro_batches)
        self._tied = Buffer(itemsize * math.prod(_embedding(model, place.tensor, plan.tensor)))
        state = Buffer(STATE_OF_CHECKPOINT * itemsize * self.parameters)
        self._files = {f"rank-{rank}": state}
        self._snapshot = self._snapshot_work(model, plan, 2 * state.nbytes)
        self._last_of = partial(last_microbatches, schedule, place.pipeline, plan.pipeline)
        self._last = self._last_of(plan.micro_batches)
        self._evaluates = False
        self._facts = model, plan, settings
        self._evaluations: dict[tuple[int, int], Work] = {}  # by stage, sequences

    @property
    def parameters(self) -> int:
        """How many numbers the rank holds."""
        return sum(map(math.prod, self.tensors.values()))

    def begin(
        self,
        microbatches: Sequence[NDArray[np.int64]],
        tokens: int,  # noqa: ARG002 - nothing is computed
        learning_rate: float,  # noqa: ARG002
    ) -> None:
        """Take up a step of so many micro-batches."""
        self._take_up(list(map(len, microbatches)))
        self._last = self._last_of(len(microbatches))
        self._evaluates = False

    def begin_evaluation(self, microbatches: Sequence[NDArray[np.int64]]) -> None:
        """Have forwards evaluate."""
        self._take_up(list(map(len, microbatches)))
        self._evaluates = True

    def work(self, action: Action) -> Work:
        """Return what ``action`` needs; the last backward completes buckets, or every one does."""
        kind, stage = action.kind, action.stage
        if self._evaluates and kind is _FORWARD:
            return self._evaluation(action)
        is_last = action.microbatch == self._last.get(stage)
        work = (self._completing if is_last else self._others).get((kind, stage))
        return self._whole[kind] if work is None else work

    def run(self, action: Action) -> None:
        """Nothing is carried out."""

    def gradients(self, bucket: int) -> Buffer:
        """The gradients of one bucket; the last carries the loss."""
        return self._gradients[bucket]

    def message(self, action: Action) -> Buffer:
        """Hidden states of a micro-batch, or their gradients."""
        return self._messages[action.microbatch]

    @property
    def totals(self) -> Buffer:
        """(square norm of gradients, loss)."""
        return Buffer(TOTALS_NBYTES)

    @property
    def tied_gradient(self) -> Buffer:
        """The gradient of a tied embedding."""
        return self._tied

    @property
    def validation(self) -> Buffer:
        """(sum of losses, tokens)."""
        return Buffer(VALIDATION_NBYTES)

    def read(self, name: str) -> float:  # noqa: ARG002
        """Nothing is computed: not a number."""
        return math.nan

    def snapshot(self) -> tuple[Work, None]:
        """What copies the state: it is read and written."""
        return self._snapshot, None

    def files(self) -> Mapping[str, Buffer]:
        """What this rank has of a checkpoint: one file of everything it holds."""
        return self._files

    def restore(
        self,
        files: Mapping[str, memoryview],  # noqa: ARG002
        digests: Mapping[str, str],  # noqa: ARG002
    ) -> tuple[Work, None]:
        """What puts a snapshot back."""
        return replace(self._update, name="restore"), None

    def initialise(self) -> tuple[Work, None]:
        """What makes the first state again: all of it is written."""
        return replace(self._update, name="initialise"), None

    def drop(self) -> tuple[Work, None]:
        """Nothing is kept that would have to be freed."""
        return NO_WORK, None

    def regroup(self, tensor: Group) -> None:
        """Nothing is computed that would talk to anybody."""

    def _take_up(self, sequences: list[int]) -> None:
        """Have micro-batches of so many sequences."""
        if sequences != self._sequences:
            self._sequences = sequences
            self._messages = [Buffer(count * self._sequence_nbytes) for count in sequences]

    def _evaluation(self, action: Action) -> Work:
        """What the forward of a micro-batch needs, which may be smaller than others."""
        key = action.stage, self._sequences[action.microbatch]
        if key not in self._evaluations:
            model, plan, settings = self._facts
            smaller = plan.model_copy(update={"micro_batch": key[1]})
            work = rank_work(model, smaller, settings, (), self.layers[action.stage])
            self._evaluations[key] = work.evaluate
        return self._evaluations[key]

    def _snapshot_work(self, model: Model, plan: Plan, nbytes: float) -> Work:
        """What copies the state; tensor-parallel ranks hand each other what goes into files.

        A tied embedding goes there with the first stage that has it.
        """
        if plan.tensor == 1:
            return copy_work("snapshot", nbytes)
        shapes = model.tensors()
        elsewhere = () if 0 in self.layers else (model.embedding_name,)
        names = [name for name in self.tensors if name not in elsewhere]
        shares = [
            sum(math.prod(shard_shape(name, shapes[name], rank, plan.tensor)) for name in names)
            for rank in range(plan.tensor)
        ]
        gathered = state_itemsize(plan.precision) * max(shares)
        rows = [(Operation.ALL_GATHER, plan.tensor, gathered)] * STATE_OF_CHECKPOINT
        return collective_work("snapshot", plan.precision, nbytes, rows)


def _by_kind(work: RankWork) -> Mapping[Kind, Work]:
    return {
        Kind.FORWARD: work.forward,
        Kind.BACKWARD: work.backward,
        Kind.BACKWARD_INPUT: work.backward_input,
        Kind.BACKWARD_WEIGHT: work.backward_weight,
    }


def _embedding(model: Model, rank: int, ranks: int) -> tuple[int, ...]:
    """Shape of a rank's part of the embedding, which comes first in a forward."""
    return next(iter(held_tensors(model, range(1), rank, ranks).values()))
