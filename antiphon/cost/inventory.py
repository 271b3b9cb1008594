"""The Work of one micro-batch through each part of a model: flops, bytes moved, shapes.

Counted once, here, for all that prices or checks: attention full, not causal; a matrix product
``2 m n k``; norms, activations and the loss by their bytes alone (no flops). Layers are split over
``tensor`` ranks as Megatron-LM does (Shoeybi et al. 2019, arXiv 1909.08053, section 3): two
all-reduces in a layer's forward and two in its backward; the vocabulary of embedding and head is
split, too. Passes over memory are those of fused kernels; what a device takes for them is a matter
of its profile.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from antiphon.cost.parameters import Amount, vocabulary_of_rank
from antiphon.cost.work import ITEMSIZE, Kind, Operation, Part, Phase, Work, state_itemsize
from antiphon.spec.model import Model
from antiphon.spec.plan import Precision, Recompute

LOSS_ITEMSIZE = 4  # the loss of a 16-bit model is computed in float32

UPDATE_PASSES = 11
"""Over a parameter's four numbers: the norm reads the gradient, clipping reads and writes it, AdamW
reads gradient, parameter and two moments and writes the last three; zeroing writes the gradient."""


@dataclass(frozen=True, slots=True)
class Setting:
    """How parts are computed. With arrays, each row of Work is given for each of their entries."""

    tensor: Amount  # tensor-parallel ranks
    micro_batch: Amount  # sequences
    sequence_length: int
    precision: Precision

    @property
    def tokens(self) -> Amount:
        """In one micro-batch."""
        return self.micro_batch * self.sequence_length


def inventory(
    model: Model, part: Part, phase: Phase, setting: Setting, recompute: Recompute = "none"
) -> Work:
    """Return the Work of one micro-batch through one part (of a layer: one layer) of one rank.

    A backward's milestones name the parameters whose gradients are complete there, those of a layer
    without its number (``self_attn.q_proj.weight``). ``recompute`` adds to the backward of a layer
    what is computed again: norms, rotary embedding and SwiGLU's product (``selective``), or its
    forward (``full``).
    """
    rows = _Rows(part, phase, setting)
    match part, phase:
        case Part.EMBEDDING, Phase.FORWARD:
            _embedding_forward(rows, model)
        case Part.EMBEDDING, Phase.BACKWARD:
            _embedding_backward(rows, model)
        case Part.LAYER, Phase.FORWARD:
            _layer_forward(rows, model)
        case Part.LAYER, Phase.BACKWARD:
            if recompute == "full":
                _layer_forward(rows, model)
            elif recompute == "selective":
                _layer_elementwise(rows, model)
            _layer_backward(rows, model)
        case Part.HEAD, Phase.FORWARD:
            _head_forward(rows, model)
        case Part.HEAD, Phase.BACKWARD:
            _head_backward(rows, model)
        case _:
            raise AssertionError(f"{part.name} has no {phase.name}")
    return rows.work(f"{part.name.lower()} {phase.name.lower()}")


def update_work(parameters: Amount, precision: Precision) -> Work:
    """Return the Work of clipping and AdamW on ``parameters`` numbers held by a rank."""
    rows = _Rows(Part.WHOLE, Phase.UPDATE, Setting(1, 1, 1, precision))
    rows.memory(Kind.UPDATE, UPDATE_PASSES * state_itemsize(precision) * parameters)
    return rows.work("update")


def model_flops_per_token(model: Model, sequence_length: int) -> float:
    """Return the flops of forward and backward that model-FLOPs utilisation counts, a token.

    Six for each number of each matrix product, and attention in full (not causal). Nothing that is
    computed again is counted: with recomputation the hardware does more than this.
    """
    attention = 12 * model.layers * model.heads * model.head_dim * sequence_length
    return float(6 * matmul_parameters(model) + attention)


def matmul_parameters(model: Model) -> int:
    """Return how many numbers take part in matrix products: the head does, an embedding not."""
    qkv = model.hidden * model.head_dim * (model.heads + 2 * model.kv_heads)
    out = model.heads * model.head_dim * model.hidden
    feed_forward = 3 * model.hidden * model.feed_forward
    return model.layers * (qkv + out + feed_forward) + model.hidden * model.vocabulary


@dataclass(slots=True)
class _Rows:
    """Rows of one Work while they are gathered."""

    part: Part
    phase: Phase
    setting: Setting
    kinds: list[Kind] = field(default_factory=list)
    flops: list[Amount] = field(default_factory=list)
    nbytes: list[Amount] = field(default_factory=list)
    shapes: list[tuple[Amount, Amount, Amount, Amount]] = field(default_factory=list)
    milestones: list[tuple[int, str]] = field(default_factory=list)

    @property
    def itemsize(self) -> int:
        return ITEMSIZE[self.setting.precision]

    def add(
        self,
        kind: Kind,
        flops: Amount,
        nbytes: Amount,
        shape: tuple[Amount, Amount, Amount, Amount],
    ) -> None:
        self.kinds.append(kind)
        self.flops.append(flops)
        self.nbytes.append(nbytes)
        self.shapes.append(shape)

    def matmul(self, m: Amount, n: Amount, k: Amount) -> None:
        """A product of (m, k) and (k, n)."""
        nbytes = self.itemsize * (m * k + k * n + m * n)
        self.add(Kind.MATMUL, 2.0 * m * n * k, nbytes, (1, m, n, k))

    def linear_backward(self, m: Amount, n: Amount, k: Amount) -> None:
        """Gradients of the input and of the weight of a product of (m, k) and (k, n)."""
        self.matmul(m, k, n)
        self.matmul(n, k, m)

    def attention(self, model: Model, *, is_backward: bool = False) -> None:
        """Causal attention of all sequences of a micro-batch; counted in full."""
        sequences, length = self.setting.micro_batch, self.setting.sequence_length
        heads, kv_heads = model.heads / self.setting.tensor, model.kv_heads / self.setting.tensor
        flops = 4.0 * sequences * length**2 * heads * model.head_dim
        elements = sequences * length * model.head_dim * (2 * heads + 2 * kv_heads)
        shape = (sequences, heads, length, model.head_dim)
        nbytes = self.itemsize * elements  # q, k, v and the output
        if is_backward:  # reads them with the output's gradient, writes three gradients
            self.add(Kind.ATTENTION_BACKWARD, 2 * flops, 2 * nbytes, shape)
        else:
            self.add(Kind.ATTENTION, flops, nbytes, shape)

    def memory(self, kind: Kind, nbytes: Amount) -> None:
        """A pass over memory."""
        self.add(kind, 0.0, nbytes, (0, 0, 0, 0))

    def passes(self, kind: Kind, number: int, elements: Amount) -> None:
        """As many reads and writes of so many elements."""
        self.memory(kind, number * self.itemsize * elements)

    def all_reduce(self, nbytes: Amount) -> None:
        """A sum over the tensor-parallel ranks, which are neighbours."""
        shape = (Operation.ALL_REDUCE, self.setting.tensor, 1, 0)
        self.add(Kind.COLLECTIVE, 0.0, nbytes, shape)

    def complete(self, *names: str) -> None:
        """Say whose gradients are complete here."""
        self.milestones.extend((len(self.kinds), name) for name in names)

    def work(self, name: str) -> Work:
        """Return what was gathered."""
        several = np.broadcast_shapes(
            np.shape(self.setting.tensor),
            np.shape(self.setting.micro_batch),
            *(np.shape(nbytes) for nbytes in self.nbytes),
        )
        count = len(self.kinds)
        flops = np.empty((count, *several))
        nbytes = np.empty((count, *several))
        shape = np.empty((count, 4, *several), np.int64)
        for row in range(count):
            flops[row] = self.flops[row]
            nbytes[row] = self.nbytes[row]
            for column in range(4):
                shape[row, column] = self.shapes[row][column]
        return Work(
            name=name,
            precision=self.setting.precision,
            part=np.full(count, self.part, np.int8),
            phase=np.full(count, self.phase, np.int8),
            kind=np.array(self.kinds, np.int8),
            flops=flops,
            nbytes=nbytes,
            shape=shape,
            milestones=tuple(self.milestones),
        )


def _layer_forward(rows: _Rows, model: Model) -> None:
    tokens, tensor = rows.setting.tokens, rows.setting.tensor
    hidden, feed_forward = model.hidden, model.feed_forward / tensor
    queries = model.heads * model.head_dim / tensor
    keys = model.kv_heads * model.head_dim / tensor
    rows.passes(Kind.NORM, 2, tokens * hidden)
    rows.matmul(tokens, queries, hidden)
    rows.matmul(tokens, keys, hidden)
    rows.matmul(tokens, keys, hidden)
    if model.query_key_norm:
        rows.passes(Kind.NORM, 2, tokens * (queries + keys))
    rows.passes(Kind.COPY, 2, tokens * (queries + keys))  # rotary embedding
    rows.attention(model)
    rows.matmul(tokens, hidden, queries)
    rows.all_reduce(rows.itemsize * tokens * hidden)
    rows.passes(Kind.COPY, 3, tokens * hidden)  # residual
    rows.passes(Kind.NORM, 2, tokens * hidden)
    rows.matmul(tokens, feed_forward, hidden)
    rows.matmul(tokens, feed_forward, hidden)
    rows.passes(Kind.COPY, 3, tokens * feed_forward)  # silu(gate) * up
    rows.matmul(tokens, hidden, feed_forward)
    rows.all_reduce(rows.itemsize * tokens * hidden)
    rows.passes(Kind.COPY, 3, tokens * hidden)


def _layer_elementwise(rows: _Rows, model: Model) -> None:
    """What ``selective`` recomputes: cheap to compute, large to keep."""
    tokens, tensor = rows.setting.tokens, rows.setting.tensor
    heads = (model.heads + model.kv_heads) * model.head_dim / tensor
    rows.passes(Kind.NORM, 4, tokens * model.hidden)
    if model.query_key_norm:
        rows.passes(Kind.NORM, 2, tokens * heads)
    rows.passes(Kind.COPY, 2, tokens * heads)
    rows.passes(Kind.COPY, 3, tokens * model.feed_forward / tensor)


def _layer_backward(rows: _Rows, model: Model) -> None:
    tokens, tensor = rows.setting.tokens, rows.setting.tensor
    hidden, feed_forward = model.hidden, model.feed_forward / tensor
    queries = model.heads * model.head_dim / tensor
    keys = model.kv_heads * model.head_dim / tensor
    rows.linear_backward(tokens, hidden, feed_forward)
    rows.complete(*_linear("mlp.down_proj", model.feed_forward_bias))
    rows.passes(Kind.COPY, 5, tokens * feed_forward)
    rows.linear_backward(tokens, feed_forward, hidden)
    rows.complete(*_linear("mlp.up_proj", model.feed_forward_bias))
    rows.linear_backward(tokens, feed_forward, hidden)
    rows.complete(*_linear("mlp.gate_proj", model.feed_forward_bias))
    rows.all_reduce(rows.itemsize * tokens * hidden)
    rows.passes(Kind.NORM, 3, tokens * hidden)
    rows.complete("post_attention_layernorm.weight")
    rows.passes(Kind.COPY, 3, tokens * hidden)  # the residual's gradient is added
    rows.linear_backward(tokens, hidden, queries)
    rows.complete(*_linear("self_attn.o_proj", model.output_bias))
    rows.attention(model, is_backward=True)
    rows.passes(Kind.COPY, 2, tokens * (queries + keys))
    if model.query_key_norm:
        rows.passes(Kind.NORM, 3, tokens * (queries + keys))
        rows.complete("self_attn.k_norm.weight", "self_attn.q_norm.weight")
    rows.linear_backward(tokens, keys, hidden)
    rows.complete(*_linear("self_attn.v_proj", model.qkv_bias))
    rows.linear_backward(tokens, keys, hidden)
    rows.complete(*_linear("self_attn.k_proj", model.qkv_bias))
    rows.linear_backward(tokens, queries, hidden)
    rows.complete(*_linear("self_attn.q_proj", model.qkv_bias))
    rows.all_reduce(rows.itemsize * tokens * hidden)
    rows.passes(Kind.NORM, 3, tokens * hidden)
    rows.complete("input_layernorm.weight")
    rows.passes(Kind.COPY, 3, tokens * hidden)


def _embedding_forward(rows: _Rows, model: Model) -> None:
    """A rank whose part of the vocabulary lacks a token gives zeros; the sum is the embedding."""
    rows.passes(Kind.COPY, 2, rows.setting.tokens * model.hidden)
    rows.all_reduce(rows.itemsize * rows.setting.tokens * model.hidden)


def _embedding_backward(rows: _Rows, model: Model) -> None:
    """A dense gradient is written before the tokens' rows are added to it."""
    state = state_itemsize(rows.setting.precision)
    rows.passes(Kind.COPY, 2, rows.setting.tokens * model.hidden)
    rows.memory(Kind.COPY, state * vocabulary_of_rank(model, rows.setting.tensor) * model.hidden)
    rows.complete("model.embed_tokens.weight")


def _head_forward(rows: _Rows, model: Model) -> None:
    tokens = rows.setting.tokens
    vocabulary = vocabulary_of_rank(model, rows.setting.tensor)
    rows.passes(Kind.NORM, 2, tokens * model.hidden)
    rows.matmul(tokens, vocabulary, model.hidden)
    # Cast to the loss's precision, written and read; its softmax, read and written.
    itemsize = loss_itemsize(rows.setting.precision)
    rows.memory(Kind.LOSS, (rows.itemsize + 3 * itemsize) * tokens * vocabulary)
    for _ in range(3):  # greatest logit, sum of exponentials, the target's logit
        rows.all_reduce(itemsize * tokens)


def _head_backward(rows: _Rows, model: Model) -> None:
    tokens, hidden = rows.setting.tokens, model.hidden
    vocabulary = vocabulary_of_rank(model, rows.setting.tensor)
    itemsize = loss_itemsize(rows.setting.precision)
    rows.memory(Kind.LOSS, (rows.itemsize + 3 * itemsize) * tokens * vocabulary)
    rows.linear_backward(tokens, vocabulary, hidden)
    rows.complete("lm_head.weight")
    rows.all_reduce(rows.itemsize * tokens * hidden)
    rows.passes(Kind.NORM, 3, tokens * hidden)
    rows.complete("model.norm.weight")


def loss_itemsize(precision: Precision) -> int:
    """Return the bytes of a logit as the loss sees it."""
    return max(LOSS_ITEMSIZE, ITEMSIZE[precision])


def _linear(name: str, has_bias: bool) -> tuple[str, ...]:
    return (f"{name}.weight", f"{name}.bias") if has_bias else (f"{name}.weight",)
