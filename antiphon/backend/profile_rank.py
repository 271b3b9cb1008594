"""What one worker measures of this machine, while its peers measure the same beside it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn

from antiphon.backend.model.llama import Transformer, initialise, loss
from antiphon.backend.stage import COMPUTE_DTYPES, PARAMETER_DTYPES, GradientBuckets, adamw
from antiphon.backend.stopwatch import median, repeated_seconds, spread
from antiphon.backend.worker import Worker
from antiphon.backend.world import TorchWorld
from antiphon.cost.device_profile import Block, LinkPoint, Point, signature
from antiphon.cost.inventory import UPDATE_PASSES, loss_itemsize
from antiphon.policy.layout.buckets import gradient_buckets
from antiphon.spec.job import Train
from antiphon.spec.model import Model
from antiphon.spec.plan import Plan, Precision, Recompute

OPERATION_SECONDS = 0.05  # spent on each operation
BLOCK_SECONDS = 0.3  # spent on each micro-batch size
MATMUL_SIZES = (256, 512, 1024)
LINK_NBYTES = (4096, 2**18, 2**20, 2**22, 2**24)
LINK_REPEATS = 7


@dataclass(slots=True)
class Measurer:
    """One rank's place, and what it has measured so far."""

    worker: Worker
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
        return self.worker.ranks

    @property
    def dtype(self) -> torch.dtype:
        """Of computations."""
        return COMPUTE_DTYPES[self.precision]

    def together(self) -> None:
        """Wait until every rank has come here, so that all compute at once."""

        async def meet() -> None:
            await self.world.barrier(await self.world.group(range(self.world.ranks), "profile"))

        self.world.run(meet())


def profile_rank(worker: Worker, arguments: dict[str, Any]) -> dict[str, Any]:
    """Measure blocks of the job's model, operations by size, and the links between the ranks."""
    model = Model.model_validate_json(arguments["model"])
    settings = Train.model_validate_json(arguments["settings"])
    world = worker.world(Path(arguments["folder"]))
    try:
        measurer = Measurer(
            worker, world, torch.get_num_threads(), model, settings, arguments["precision"]
        )
        measure_operations(measurer)
        worker.note("profile", {"part": "operations"})
        for recompute in arguments["recomputes"]:
            for micro_batch in arguments["micro_batches"]:
                measure_blocks(measurer, micro_batch, recompute)
                worker.note("profile", {"part": f"micro-batch {micro_batch}, {recompute}"})
        measure_update(measurer)
        if worker.ranks > 1:
            measure_links(measurer)
            worker.note("profile", {"part": "links"})
        return {
            "blocks": [block.model_dump() for block in measurer.blocks],
            "points": [point.model_dump() for point in measurer.points],
            "links": [link.model_dump() for link in measurer.links],
        }
    finally:
        world.close()


def measure_blocks(measurer: Measurer, micro_batch: int, recompute: Recompute) -> None:
    """Measure a forward and a backward as training does them, cut where the parts meet.

    The parts are timed within the whole model, where caches and memory are as they will be.
    """
    transformer, buckets = _model_with_buckets(measurer, recompute)
    length = measurer.settings.sequence_length
    shape = (micro_batch, length + 1)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(measurer.model.vocabulary, shape, generator=generator)
    rows: list[list[float]] = []

    def run() -> None:
        buckets.clear()
        rows.append(_timed_parts(transformer, tokens))

    measurer.together()
    repeated_seconds(run, BLOCK_SECONDS)
    columns = list(np.array(rows[1:]).T)  # the first is the warm-up
    parts = ("embedding", "layer", "head", "head", "layer", "embedding")
    for index, (part, times) in enumerate(zip(parts, columns, strict=True)):
        is_layer = part == "layer"
        if index < 3 and recompute != "none":
            continue  # forwards are measured without
        share = times / measurer.model.layers if is_layer else times
        measurer.blocks.append(
            Block(
                part=part,  # type: ignore[arg-type]  # a literal, through zip
                phase="forward" if index < 3 else "backward",
                signature=signature(measurer.model),
                micro_batch=micro_batch,
                sequence_length=length,
                precision=measurer.precision,
                recompute=recompute if is_layer and index >= 3 else "none",
                processes=measurer.processes,
                threads=measurer.threads,
                seconds=median(list(share)),
                spread=spread(list(share)),
            )
        )


def _timed_parts(transformer: Transformer, tokens: Tensor) -> list[float]:
    """Return the seconds of embedding, layers, head forward, then of the same back again."""
    marks = [time.perf_counter()]

    def mark(_: Tensor | None = None) -> None:
        marks.append(time.perf_counter())

    embedded = transformer.embed(tokens[:, :-1])
    embedded.register_hook(mark)
    mark()
    hidden = transformer.run_layers(embedded)
    hidden.register_hook(mark)
    mark()
    total = loss(transformer.head(hidden), tokens[:, 1:]) / tokens.numel()
    mark()
    total.backward()  # type: ignore[no-untyped-call]
    mark()
    return list(np.diff(marks))


def measure_update(measurer: Measurer) -> None:
    """Measure clipping and AdamW on the model measured, and on one of a single layer."""
    for layers in {measurer.model.layers, 1}:
        model = measurer.model.model_copy(update={"layers": layers})
        part = Measurer(
            measurer.worker,
            measurer.world,
            measurer.threads,
            model,
            measurer.settings,
            measurer.precision,
        )
        transformer, buckets = _model_with_buckets(part, "none")
        optimizer = adamw(transformer, measurer.settings)
        state_itemsize = buckets.flat[0].itemsize

        def run(
            transformer: Transformer = transformer,
            optimizer: torch.optim.Optimizer = optimizer,
            buckets: GradientBuckets = buckets,
        ) -> None:
            buckets.clear()
            nn.utils.clip_grad_norm_(transformer.parameters(), 1.0)
            optimizer.step()

        measurer.together()
        seconds = median(repeated_seconds(run, BLOCK_SECONDS))
        nbytes = UPDATE_PASSES * state_itemsize * model.parameters
        _add(measurer, "update", seconds, nbytes=nbytes)


def measure_operations(measurer: Measurer) -> None:
    """Measure single operations over a few sizes: what prices shapes that no block was taken of."""
    model, dtype = measurer.model, measurer.dtype
    length = measurer.settings.sequence_length
    tokens = 4 * length
    for size in MATMUL_SIZES:
        left, right = torch.randn(tokens, size, dtype=dtype), torch.randn(size, size, dtype=dtype)
        seconds = _time(measurer, lambda left=left, right=right: left @ right)
        _add(measurer, "matmul", seconds, shape=(1, tokens, size, size))
    shape = (4, model.heads, length, model.head_dim)
    queries, keys, values = (torch.randn(shape, dtype=dtype, requires_grad=True) for _ in range(3))
    forward = _time(measurer, lambda: _attend(queries, keys, values))
    _add(measurer, "attention", forward, shape=shape)
    attended, grown = _attend(queries, keys, values), torch.randn(shape, dtype=dtype)
    backward = _time(
        measurer,
        lambda: torch.autograd.grad(attended, (queries, keys, values), grown, retain_graph=True),
    )
    _add(measurer, "attention_backward", backward, shape=shape)
    for elements in (tokens * model.hidden, 4 * tokens * model.hidden):
        source = torch.randn(elements // model.hidden, model.hidden, dtype=dtype)
        target = torch.empty_like(source)
        nbytes = 2 * source.nbytes
        normed = (model.hidden,)
        norm = _time(measurer, lambda source=source, normed=normed: F.rms_norm(source, normed))
        _add(measurer, "norm", norm, nbytes=nbytes)
        copy = _time(measurer, lambda source=source, target=target: target.copy_(source))
        _add(measurer, "copy", copy, nbytes=nbytes)
    logits = torch.randn(length, model.vocabulary, dtype=dtype)
    targets = torch.zeros(length, dtype=torch.int64)
    seconds = _time(measurer, lambda: loss(logits, targets))
    itemsize = logits.itemsize + 3 * loss_itemsize(measurer.precision)
    _add(measurer, "loss", seconds, nbytes=itemsize * logits.numel())


def measure_links(measurer: Measurer) -> None:
    """Measure sums over all ranks by size, each alone, while nothing is computed."""
    world = measurer.world

    async def reduce_all(payload: Tensor) -> list[float]:
        group = await world.group(range(world.ranks), "profile")
        times = []
        for _ in range(1 + LINK_REPEATS):
            await world.barrier(group)
            begin = time.perf_counter()
            await world.all_reduce(group, payload)
            times.append(time.perf_counter() - begin)
        return times[1:]

    for nbytes in LINK_NBYTES:
        seconds = median(world.run(reduce_all(torch.zeros(nbytes // 4))))
        measurer.links.append(
            LinkPoint(
                operation="all_reduce", processes=world.ranks, nbytes=nbytes, seconds=seconds
            )
        )


def _model_with_buckets(
    measurer: Measurer, recompute: Recompute
) -> tuple[Transformer, GradientBuckets]:
    model = measurer.model
    dtype = PARAMETER_DTYPES.get(measurer.precision, torch.float32)
    transformer = Transformer(model, dtype, compute_dtype=measurer.dtype, recompute=recompute)
    initialise(transformer, measurer.settings.seed)
    nbytes: int = Plan.model_fields["bucket_nbytes"].default
    names = gradient_buckets(model.tensors(), dtype.itemsize, nbytes)
    return transformer, GradientBuckets(transformer, names, lambda _: None)


def _attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(queries, keys, values, is_causal=True)


def _time(measurer: Measurer, run: Callable[[], object]) -> float:
    measurer.together()
    return median(repeated_seconds(run, OPERATION_SECONDS))


def _add(
    measurer: Measurer,
    kind: Any,
    seconds: float,
    *,
    shape: tuple[int, int, int, int] = (0, 0, 0, 0),
    nbytes: int = 0,
) -> None:
    measurer.points.append(
        Point(
            kind=kind,
            shape=shape,
            nbytes=nbytes,
            precision=measurer.precision,
            processes=measurer.processes,
            threads=measurer.threads,
            seconds=seconds,
        )
    )
