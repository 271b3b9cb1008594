"""A stage whose parameters are the samples that it was trained on.

It costs what the charged stage costs. What it computes is so little that thousands of runs can be
carried out, and enough to see whether a program is right: the gradient of a micro-batch is one at
each of its samples, hidden states are the numbers of the samples that they are of, and an update
adds the gradient to the parameters. A sample that is trained twice or left out, a message taken for
another and parts of a model that are not of one step all show. Tensor-parallel ranks do the same
with the same samples, and meet in each computation that has collectives inside it: one gathering
stands for them all, in which each says what it is at.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from functools import partial
from itertools import accumulate, pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from antiphon.cost.work import Work
from antiphon.errors import RunError
from antiphon.policy.layout.mesh import Place
from antiphon.policy.pipeline.action import SENDS, Action, Kind, forward, slot_of
from antiphon.program.buffers import Buffers
from antiphon.simulation.charged_stage import ChargedStage
from antiphon.spec.job import Train
from antiphon.spec.plan import Plan
from antiphon.world.protocols import Group, Payload

NOBODY = -1  # in place of a sample, where a buffer has not been filled


class LineageError(AssertionError):
    """A run trained on what it should not have, or its parts do not belong together."""


class SizedArray(np.ndarray):
    """Numbers that are charged as so many bytes."""

    charged_nbytes: int

    @classmethod
    def of(cls, numbers: NDArray[np.float64], nbytes: int) -> SizedArray:
        """Return ``numbers``, in place, with another size."""
        array = numbers.view(cls)
        array.charged_nbytes = nbytes
        return array

    @property
    def nbytes(self) -> int:
        """What it is charged as."""
        return self.charged_nbytes


class RunWorld(Protocol):
    """What a run needs of a world."""

    def reach(self, milestone: str) -> None:
        """Pass a milestone."""

    def meet(self, group: Group, payload: Payload, into: Sequence[Payload]) -> None:
        """Take part in one gathering in place of all collectives that the Work names."""


class CountingStage:
    """What one rank holds; its runs are carried out.

    See ``antiphon.program.stage.Stage`` for what each method is for.
    """

    def __init__(
        self,
        charged: ChargedStage,
        plan: Plan,
        settings: Train,
        place: Place,
        sequences: int,
        world: RunWorld,
    ) -> None:
        """``charged`` says what is charged, and is not changed. ``sequences`` there are.

        Where there are tensor-parallel peers ``regroup`` tells of them before the first run.
        """
        self._charged = copy(charged)
        self.buckets = charged.buckets
        self.trained = np.zeros(sequences)
        """How often each sequence was trained on."""
        self.updates = 0
        self._place = place
        self._file = f"place-{place.pipeline}"
        self._places = plan.pipeline
        self._tensor: Group | None = None  # whom it meets
        self._tensor_ranks = plan.tensor
        self._stages = plan.pipeline * len(charged.works)
        self._global_batch = settings.global_batch
        self._world = world
        self._sums = [
            SizedArray.of(np.zeros(sequences), charged.gradients(bucket).nbytes)
            for bucket in range(sum(charged.buckets))
        ]
        ends = accumulate(charged.buckets, initial=0)
        self._buckets_of = dict(zip(sorted(charged.works), pairwise(ends), strict=True))
        self._tied_sum = SizedArray.of(np.zeros(1), charged.tied_gradient.nbytes)
        self._total = SizedArray.of(np.zeros(2), charged.totals.nbytes)
        self._validated = SizedArray.of(np.zeros(1), charged.validation.nbytes)
        self._microbatches: Sequence[NDArray[np.int64]] = ()
        self._buffers: Buffers[SizedArray] = Buffers(charged.works)
        self._evaluates = False
        self._is_step_new = False
        self._snapshot_content = b""

    def begin(
        self, microbatches: Sequence[NDArray[np.int64]], tokens: int, learning_rate: float
    ) -> None:
        """Take up a step."""
        self._charged.begin(microbatches, tokens, learning_rate)
        self._microbatches = microbatches
        self._evaluates, self._is_step_new = False, True

    def begin_evaluation(self, microbatches: Sequence[NDArray[np.int64]]) -> None:
        """Have forwards evaluate."""
        self._charged.begin_evaluation(microbatches)
        self._microbatches = microbatches
        self._evaluates = True

    def work(self, action: Action) -> Work:
        """Return what ``action`` needs."""
        return self._charged.work(action)

    def regroup(self, tensor: Group) -> None:
        """Meet these from now on."""
        self._tensor = tensor

    def run(self, action: Action) -> Callable[[], None]:
        """Return what carries ``action`` out."""
        if action.kind is Kind.NORM:
            return self._sum_up
        if action.kind is Kind.UPDATE:
            return self._apply
        given = made = None
        if action.kind is not Kind.BACKWARD_WEIGHT:
            is_forward, stage, microbatch = slot_of(action)
            if stage != (0 if is_forward else self._stages - 1):
                given = self._buffers.given(action)
            if stage != (self._stages - 1 if is_forward else 0):
                made = self._buffers.make(action, self._buffer(microbatch))
        samples = self._microbatches[action.microbatch]
        milestones = [name for _, name in self.work(action).milestones]
        return partial(self._compute, action, samples, given, made, milestones, self._evaluates)

    def gradients(self, bucket: int) -> SizedArray:
        """How often each sequence is in the gradients of one bucket."""
        return self._sums[bucket]

    def message(self, action: Action) -> SizedArray:
        """The samples that hidden states are of, or their gradients."""
        if action.kind in SENDS:
            return self._buffers.send(action)
        return self._buffers.receive(action, self._buffer(action.microbatch))

    @property
    def totals(self) -> SizedArray:
        """(samples in the gradients, parts of stages whose ranks summed them)."""
        return self._total

    @property
    def tied_gradient(self) -> SizedArray:
        """Something to be summed."""
        return self._tied_sum

    @property
    def validation(self) -> SizedArray:
        """How many sequences were evaluated."""
        return self._validated

    def read(self, name: str) -> float:
        """Return the samples in the gradients (of ``loss``), or those evaluated."""
        if name == "validation_loss":
            count, self._validated[0] = float(self._validated[0]), 0.0
            return count
        return float(self._total[0])

    def snapshot(self) -> tuple[Work, Callable[[], None]]:
        """Copy the state."""
        work, _ = self._charged.snapshot()

        def run() -> None:
            self._meet((self.updates, *self.trained))
            state = {"updates": self.updates, "trained": self.trained.tolist()}
            self._snapshot_content = json.dumps(state).encode()

        return work, run

    def files(self) -> Mapping[str, memoryview]:
        """The state, in a file for each place in the pipeline: tensor-parallel peers have one."""
        is_first = self._place.tensor == 0
        return {self._file: memoryview(self._snapshot_content)} if is_first else {}

    def restore(
        self, files: Mapping[str, memoryview], digests: Mapping[str, str]
    ) -> tuple[Work, Callable[[], None]]:
        """Take the state of this place, having looked at those of all."""
        work, _ = self._charged.restore(files, digests)

        def run() -> None:
            for name, digest in digests.items():
                if hashlib.sha256(files[name]).hexdigest() != digest:
                    raise RunError(f"{name} of the checkpoint is damaged")
            states = [json.loads(bytes(content)) for content in files.values()]
            if len(states) != self._places or any(state != states[0] for state in states):
                raise LineageError(f"a checkpoint is of several steps: {states}")
            self.updates = states[0]["updates"]
            self.trained[:] = states[0]["trained"]

        return work, run

    def initialise(self) -> tuple[Work, Callable[[], None]]:
        """Have been trained on nothing."""
        work, _ = self._charged.initialise()

        def run() -> None:
            self.updates = 0
            self.trained[:] = 0

        return work, run

    def drop(self) -> tuple[Work, Callable[[], None]]:
        """Forget the messages of a step that was broken off."""
        work, _ = self._charged.drop()

        def run() -> None:
            self._buffers.clear()
            self._validated[0] = 0

        return work, run

    def _compute(
        self,
        action: Action,
        samples: NDArray[np.int64],
        given: SizedArray | None,
        made: SizedArray | None,
        milestones: Sequence[str],
        evaluates: bool,
    ) -> None:
        if action.kind is not Kind.BACKWARD_WEIGHT:
            self._meet((action.stage, action.microbatch, *samples))
        if self._is_step_new and not evaluates:
            self._is_step_new = False
            for gradients in self._sums:
                gradients[:] = 0
        if given is not None and not np.array_equal(given, samples):
            raise LineageError(f"{action} works on {given.tolist()}, not {samples.tolist()}")
        if made is not None:
            made[:] = samples
        if action.kind is Kind.FORWARD:
            if evaluates and made is None and self._place.tensor == 0:  # its peers have the same
                self._validated[0] += len(samples)
            return
        if action.kind is not Kind.BACKWARD_INPUT:
            for bucket in range(*self._buckets_of[action.stage]):
                np.add.at(self._sums[bucket], samples, bucket + 1.0)  # no bucket looks like another
        for milestone in milestones:
            self._world.reach(milestone)

    def _meet(self, told: Iterable[float]) -> None:
        """Be where tensor-parallel peers are in their computation of the same.

        Raises LineageError where they are at something else, or do not hold the other parts.
        """
        if self._tensor_ranks == 1:
            return
        assert self._tensor is not None
        mine = np.array([self._place.tensor, *told], np.float64)
        every = np.full((self._tensor_ranks, len(mine)), float(NOBODY))
        self._world.meet(self._tensor, mine, list(every))
        if (every[:, 1:] != mine[1:]).any() or (every[:, 0] != range(self._tensor_ranks)).any():
            raise LineageError(f"tensor-parallel ranks meet with {every.tolist()}")

    def _sum_up(self) -> None:
        self._meet((self.updates,))
        held = len(self._buckets_of)
        counted = held * float(self._sums[0].sum()) if self._place.tensor == 0 else 0.0
        self._total[:] = [counted, held]

    def _apply(self) -> None:
        gradients = self._sums[0]
        for bucket, others in enumerate(self._sums):
            if not np.array_equal(gradients * (bucket + 1), others):
                raise LineageError("the buckets of one step have gradients of different samples")
        expected = [self._stages * self._global_batch, self._stages * self._tensor_ranks]
        if gradients.sum() != self._global_batch or self._total.tolist() != expected:
            raise LineageError(f"an update of {gradients.sum()} samples, {self._total.tolist()}")
        self.trained += gradients
        self.updates += 1

    def _buffer(self, microbatch: int) -> SizedArray:
        size = len(self._microbatches[microbatch])
        nbytes = self._charged.message(forward(0, microbatch)).nbytes
        return SizedArray.of(np.full(size, float(NOBODY)), nbytes)
