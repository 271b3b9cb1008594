"""What a whole step takes beside its parts, measured by taking steps of the real program."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from antiphon.backend.profile.measurer import Measurer
from antiphon.backend.profile.stopwatch import median
from antiphon.backend.stage import TorchStage
from antiphon.backend.tokens import Split
from antiphon.policy.pipeline.one_forward_one_backward import one_forward_one_backward
from antiphon.policy.pipeline.passes import training_step
from antiphon.program.train import run_actions
from antiphon.spec.plan import Plan

STEPS = 5  # the first is not counted
MICRO_BATCHES = 2


class RandomTokens:
    """Stands in for a corpus: what is computed takes as long whatever the tokens are."""

    def __init__(self, vocabulary: int) -> None:
        self._vocabulary = vocabulary

    @property
    def tokenizer_path(self) -> Path:
        """There is none, as there are no checkpoints."""
        raise NotImplementedError

    def batch(
        self,
        split: Split,  # noqa: ARG002
        indices: Sequence[int],
        sequence_length: int,
    ) -> NDArray[np.int64]:
        """Return tokens (sequences, length + 1), drawn from the sequences' numbers."""
        generator = np.random.default_rng(list(indices))
        return generator.integers(self._vocabulary, size=(len(indices), sequence_length + 1))


def measure_steps(measurer: Measurer, micro_batch: int) -> dict[str, Any]:
    """Take steps alone and, if there are several ranks, with the gradients reduced.

    Returns median ``alone_seconds`` and ``together_seconds`` (None for one rank) of a step of
    ``micro_batches`` micro-batches, and the ``buckets`` that were reduced, in bytes.
    """
    plan = Plan(
        data=measurer.world.ranks,
        micro_batch=micro_batch,
        micro_batches=MICRO_BATCHES,
        precision=measurer.precision,
    )
    model, settings = measurer.model, measurer.settings
    tokens = RandomTokens(model.vocabulary)
    stage = TorchStage(model, plan, settings, tokens, measurer.world.reach)
    everyone = range(measurer.world.ranks)
    together = len(everyone) > 1
    return {
        "micro_batch": micro_batch,
        "micro_batches": MICRO_BATCHES,
        "buckets": [stage.gradients(bucket).nbytes for bucket in range(stage.buckets)],
        "parameters": model.parameters,
        "alone_seconds": _step_seconds(measurer, stage, micro_batch, [measurer.world.rank]),
        "together_seconds": (
            _step_seconds(measurer, stage, micro_batch, everyone) if together else None
        ),
    }


def _step_seconds(
    measurer: Measurer, stage: TorchStage, micro_batch: int, members: Sequence[int]
) -> float:
    world, length = measurer.world, measurer.settings.sequence_length
    actions = training_step(one_forward_one_backward, 0, 1, MICRO_BATCHES, stage.buckets)

    async def steps() -> list[float]:
        group = await world.group(members, "steps")
        times = []
        for step in range(STEPS):
            begin = time.perf_counter()
            samples = np.arange(MICRO_BATCHES * micro_batch) + step
            shares = list(samples.reshape(MICRO_BATCHES, -1))
            stage.begin(shares, tokens=len(samples) * length, learning_rate=0.0)
            await run_actions(world, group, stage, actions)
            times.append(time.perf_counter() - begin)
        return times[1:]

    measurer.together()
    return median(world.run(steps()))
