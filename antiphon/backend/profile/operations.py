"""Times of single operations by size: what prices shapes that no block was taken of."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn

from antiphon.backend.gradients import GradientBuckets
from antiphon.backend.model.functions import cross_entropy_sum
from antiphon.backend.model.llama import Transformer
from antiphon.backend.profile.measurer import Measurer
from antiphon.backend.stage import adamw
from antiphon.cost.inventory import UPDATE_PASSES, loss_itemsize

OPERATION_SECONDS = 0.05  # spent on each operation
UPDATE_SECONDS = 0.3
MATMUL_SIZES = (256, 512, 1024)


def measure_operations(measurer: Measurer) -> None:
    """Measure single operations over a few sizes: what prices shapes that no block was taken of."""
    model, dtype = measurer.model, measurer.dtype
    length = measurer.settings.sequence_length
    tokens = 4 * length
    for size in MATMUL_SIZES:
        left, right = torch.randn(tokens, size, dtype=dtype), torch.randn(size, size, dtype=dtype)
        seconds = measurer.seconds(lambda left=left, right=right: left @ right, OPERATION_SECONDS)
        measurer.add_point("matmul", seconds, shape=(1, tokens, size, size))
    shape = (4, model.heads, length, model.head_dim)
    queries, keys, values = (torch.randn(shape, dtype=dtype, requires_grad=True) for _ in range(3))
    forward = measurer.seconds(lambda: _attend(queries, keys, values), OPERATION_SECONDS)
    measurer.add_point("attention", forward, shape=shape)
    attended, grown = _attend(queries, keys, values), torch.randn(shape, dtype=dtype)
    backward = measurer.seconds(
        lambda: torch.autograd.grad(attended, (queries, keys, values), grown, retain_graph=True),
        OPERATION_SECONDS,
    )
    measurer.add_point("attention_backward", backward, shape=shape)
    for elements in (tokens * model.hidden, 4 * tokens * model.hidden):
        source = torch.randn(elements // model.hidden, model.hidden, dtype=dtype)
        target = torch.empty_like(source)
        nbytes = 2 * source.nbytes
        normed = (model.hidden,)
        norm = measurer.seconds(
            lambda source=source, normed=normed: F.rms_norm(source, normed), OPERATION_SECONDS
        )
        measurer.add_point("norm", norm, nbytes=nbytes)
        copy = measurer.seconds(
            lambda source=source, target=target: target.copy_(source), OPERATION_SECONDS
        )
        measurer.add_point("copy", copy, nbytes=nbytes)
    logits = torch.randn(length, model.vocabulary, dtype=dtype)
    targets = torch.zeros(length, dtype=torch.int64)
    seconds = measurer.seconds(lambda: cross_entropy_sum(logits, targets), OPERATION_SECONDS)
    itemsize = logits.itemsize + 3 * loss_itemsize(measurer.precision)
    measurer.add_point("loss", seconds, nbytes=itemsize * logits.numel())


def measure_update(measurer: Measurer) -> None:
    """Measure clipping and AdamW on the model measured, and on one of a single layer."""
    for layers in {measurer.model.layers, 1}:
        model = measurer.model.model_copy(update={"layers": layers})
        transformer, buckets = measurer.built(model, "none")
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

        seconds = measurer.seconds(run, UPDATE_SECONDS)
        nbytes = UPDATE_PASSES * state_itemsize * model.parameters
        measurer.add_point("update", seconds, nbytes=nbytes)


def _attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
