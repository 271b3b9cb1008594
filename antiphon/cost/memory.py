"""Most bytes of tensors that a rank holds at once, for the model of ``backend/model``.

What stays (parameters, gradients in flat buckets, AdamW's moments), what a forward keeps for its
backward, times the micro-batches held, and what is alive only for a moment while the loss, a layer
or the embedding goes backward: the greatest of those moments is the peak. What a forward keeps is
what autograd saves there, tensor by tensor; counted against it in tests/cost/test_memory.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from antiphon.cost.inventory import Setting, loss_itemsize
from antiphon.cost.parameters import Amount, embedding_parameters, vocabulary_of_rank
from antiphon.cost.work import ITEMSIZE, state_itemsize
from antiphon.spec.model import Model
from antiphon.spec.plan import Precision, Recompute

STATE_COPIES = 4  # parameter, gradient, and AdamW's two moments


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes by part and moment, for each of the layouts that a Setting holds. All of one rank."""

    layer_kept: Amount  # by the forward of one layer, until its backward
    embedding_kept: Amount
    head_kept: Amount  # by the last norm, the head and the loss
    loss_working: Amount  # alive only while the loss goes backward
    head_working: Amount  # while the head's product goes backward
    layer_working: Amount  # while one layer goes backward, beside what all layers keep
    embedding_working: Amount
    tied_gradient: Amount  # of a tied embedding, from the head's backward to the embedding's


def state_nbytes(parameters: Amount, precision: Precision) -> Amount:
    """Return the bytes of parameters, gradients and moments of a rank."""
    return STATE_COPIES * state_itemsize(precision) * parameters


def footprint(model: Model, setting: Setting, recompute: Recompute) -> Footprint:
    """Return what one micro-batch needs, part by part."""
    item, wide = ITEMSIZE[setting.precision], loss_itemsize(setting.precision)
    state = state_itemsize(setting.precision)
    tokens, hidden = setting.tokens, model.hidden
    logits = tokens * vocabulary_of_rank(model, setting.tensor)
    embedding = embedding_parameters(model, setting.tensor)
    cast = 0 if item == state else item * embedding  # of the head's weight, and of its gradient
    narrow = 0 if item == wide else item * logits  # the gradient of the logits, cast back
    return Footprint(
        layer_kept=_layer_kept(model, setting, recompute),
        embedding_kept=8 * tokens,  # the tokens, which the embedding's backward looks up again
        head_kept=_norm_kept(setting, hidden) + cast + wide * logits,
        loss_working=wide * logits + narrow,
        head_working=item * (logits + tokens * hidden + embedding)
        + (0 if item == state else state * embedding)
        - wide * logits,
        layer_working=_layer_working(model, setting, recompute),
        embedding_working=state * embedding,
        tied_gradient=state * embedding if model.tied_embeddings else 0 * embedding,
    )


def peak_nbytes(
    footprint: Footprint,
    state: Amount,
    layers: Amount,
    held: Amount,
    *,
    has_embedding: bool,
    has_head: bool,
) -> Amount:
    """Return the most bytes alive on a stage that holds ``held`` micro-batches at once."""
    kept = layers * footprint.layer_kept
    if has_embedding:
        kept = kept + footprint.embedding_kept
    if has_head:
        kept = kept + footprint.head_kept
    others = (held - 1) * kept
    tied = footprint.tied_gradient if has_head and has_embedding else 0
    head = footprint.head_kept if has_head else 0
    moments = [kept - head + tied + footprint.layer_working]
    if has_head:
        moments += [kept + footprint.loss_working, kept + footprint.head_working]
    if has_embedding:
        moments.append(tied + footprint.embedding_working)
    most = moments[0]
    for moment in moments[1:]:
        most = np.maximum(most, moment)
    return state + others + most


def _norm_kept(setting: Setting, hidden: float) -> Amount:
    """A norm's input in float32 or wider, its scale, and its output, which a product keeps."""
    wide = loss_itemsize(setting.precision)
    return setting.tokens * ((wide + ITEMSIZE[setting.precision]) * hidden + wide)


def _layer_kept(model: Model, setting: Setting, recompute: Recompute) -> Amount:
    item, wide = ITEMSIZE[setting.precision], loss_itemsize(setting.precision)
    tokens, tensor, hidden = setting.tokens, setting.tensor, model.hidden
    queries, keys = model.heads * model.head_dim / tensor, model.kv_heads * model.head_dim / tensor
    feed_forward = model.feed_forward / tensor
    log_sums = wide * tokens * model.heads / tensor  # of the attention's exponentials
    if recompute == "full":
        return item * tokens * hidden
    if recompute == "selective":  # the layer's input, and what products and attention gave
        products = queries + 2 * keys + hidden + 2 * feed_forward + hidden
        return item * tokens * (hidden + products + queries) + log_sums
    kept = 2 * _norm_kept(setting, hidden)
    kept = kept + item * tokens * (2 * queries + 2 * keys + 4 * feed_forward) + log_sums
    if model.query_key_norm:
        heads = (model.heads + model.kv_heads) / tensor
        kept = kept + tokens * wide * (queries + keys + heads)
    if item < state_itemsize(setting.precision):  # weights cast for the products
        kept = kept + item * hidden * (2 * queries + 2 * keys + 3 * feed_forward)
    return kept


def _layer_working(model: Model, setting: Setting, recompute: Recompute) -> Amount:
    """The residual's gradient and, at the widest, those inside the feed-forward net."""
    item, state = ITEMSIZE[setting.precision], state_itemsize(setting.precision)
    tokens, hidden = setting.tokens, model.hidden
    feed_forward = model.feed_forward / setting.tensor
    gradients = item * tokens * (hidden + 3 * feed_forward)
    weight = (item + (state if item < state else 0)) * hidden * feed_forward
    working = gradients + weight
    if recompute == "none":
        return working - item * tokens * feed_forward  # down's input is gone by then
    return working + _layer_kept(model, setting, "none")
