"""What every measurement of one rank shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from antiphon.backend.gradients import GradientBuckets
from antiphon.backend.model.initial import initialise
from antiphon.backend.model.llama import Transformer
from antiphon.backend.profile.stopwatch import median, repeated_seconds
from antiphon.backend.stage import COMPUTE_DTYPES, PARAMETER_DTYPES
from antiphon.backend.world import TorchWorld
from antiphon.cost.device_profile import Block, KindName, LinkPoint, Point
from antiphon.policy.layout.buckets import gradient_buckets
from antiphon.spec.job import Train
from antiphon.spec.model import Model
from antiphon.spec.plan import Plan, Precision, Recompute


@dataclass(slots=True)
class Measurer:
    """One rank's place, and what it has measured so far."""

    world: TorchWorld
    threads: int
    model: Model  # of the job, with no more layers than are measured
    settings: Train
    precision: Precision
    blocks: list[Block] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    links: list[LinkPoint] = field(default_factory=list)

    @property
    def processes(self) -> int:
        """How many measure at the same time."""
        return self.world.ranks

    @property
    def dtype(self) -> torch.dtype:
        """Of computations."""
        return COMPUTE_DTYPES[self.precision]

    def together(self) -> None:
        """Wait until every rank has come here, so that all compute at once."""

        async def meet() -> None:
            await self.world.barrier(await self.world.group(range(self.world.ranks), "profile"))

        self.world.run(meet())

    def seconds(self, run: Callable[[], object], budget_seconds: float) -> float:
        """Return the median time of ``run``, which every rank repeats at the same time."""
        self.together()
        return median(repeated_seconds(run, budget_seconds))

    def add_point(
        self,
        kind: KindName,
        seconds: float,
        *,
        shape: tuple[int, int, int, int] = (0, 0, 0, 0),
        nbytes: int = 0,
    ) -> None:
        """Keep what one operation took."""
        self.points.append(
            Point(
                kind=kind,
                shape=shape,
                nbytes=nbytes,
                precision=self.precision,
                processes=self.processes,
                threads=self.threads,
                seconds=seconds,
            )
        )

    def built(self, model: Model, recompute: Recompute) -> tuple[Transformer, GradientBuckets]:
        """Return a model with its gradients in buckets, as a stage has them."""
        dtype = PARAMETER_DTYPES.get(self.precision, torch.float32)
        transformer = Transformer(model, dtype, compute_dtype=self.dtype, recompute=recompute)
        initialise(transformer, model, self.settings.seed)
        nbytes: int = Plan.model_fields["bucket_nbytes"].default
        names = gradient_buckets(model.tensors(), dtype.itemsize, nbytes)
        return transformer, GradientBuckets(transformer, names, lambda _: None)
