"""Times of the parts of the job's own model, forward and backward."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor

from antiphon.backend.model.functions import cross_entropy_sum
from antiphon.backend.model.llama import Transformer
from antiphon.backend.profile.measurer import Measurer
from antiphon.backend.profile.stopwatch import median, repeated_seconds, spread
from antiphon.cost.device_profile import Block, signature
from antiphon.spec.plan import Recompute

BLOCK_SECONDS = 0.3  # spent on each micro-batch size


def measure_blocks(measurer: Measurer, micro_batch: int, recompute: Recompute) -> None:
    """Measure a forward and a backward as training does them, cut where the parts meet.

    The parts are timed within the whole model, where caches and memory are as they will be.
    """
    transformer, buckets = measurer.built(measurer.model, recompute)
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
        if recompute != "none" and not (is_layer and index >= 3):
            continue  # all but a layer's backward is the same without
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
    embedded.register_hook(mark)  # type: ignore[no-untyped-call]
    mark()
    hidden = transformer.run_layers(embedded)
    hidden.register_hook(mark)  # type: ignore[no-untyped-call]
    mark()
    total = cross_entropy_sum(transformer.head(hidden), tokens[:, 1:]) / tokens.numel()
    mark()
    total.backward()  # type: ignore[no-untyped-call]
    mark()
    return list(np.diff(marks))
