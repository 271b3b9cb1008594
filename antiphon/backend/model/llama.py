"""The Llama family (Llama 2 and 3, Qwen 2 and 3) in plain torch: one device, nothing of ranks.

Parameters are named as Hugging Face names them, and registered in the order of a forward, so that
state dicts need no renaming and `Model.tensors()` is the list of what is here.

Shapes: B sequences, T tokens of each, H query heads, K key/value heads, D numbers of one head.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn
from torch.utils.checkpoint import (
    checkpoint,
    create_selective_checkpoint_contexts,
    noop_context_fn,
)

from antiphon.backend.model.functions import rms_norm
from antiphon.backend.model.rotary import Rotary, rotary_tables, rotate
from antiphon.spec.model import Model
from antiphon.spec.plan import Recompute

_selective_contexts = partial(
    create_selective_checkpoint_contexts,
    [  # what is dear to compute again, and so is kept
        torch.ops.aten.mm.default,
        torch.ops.aten.addmm.default,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
        torch.ops.aten._scaled_dot_product_flash_attention.default,
        torch.ops.aten._scaled_dot_product_efficient_attention.default,
        torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    ],
)


class Transformer(nn.Module):
    """A decoder-only transformer: tokens (B, T) in, logits (B, T, vocabulary) out.

    ``dtype`` is that of the parameters and so of their gradients; ``compute_dtype`` that of the
    activations and matrix products, to which parameters are cast where they are used. Norms are
    computed in float32 or wider. ``recompute`` says what backward computes again instead of having
    it kept: ``full`` all of a layer, ``selective`` all but matrix products and attention; gradients
    are the same to the bit. Parameters hold nothing yet: see `initial.initialise`.

    ``embed``, ``run_layers`` and ``head`` are the three parts of a forward.
    """

    def __init__(
        self,
        model: Model,
        dtype: torch.dtype = torch.float32,
        *,
        compute_dtype: torch.dtype | None = None,
        recompute: Recompute = "none",
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        self.shape = model
        self.compute_dtype = compute_dtype or dtype
        self.recompute: Recompute = recompute
        with torch.device(device):
            self.model = _Decoder(model, dtype)
            self.lm_head = None
            if not model.tied_embeddings:
                self.lm_head = Linear(model.hidden, model.vocabulary, False, dtype)

    def forward(self, tokens: Tensor, past: Sequence[LayerCache] | None = None) -> Tensor:
        """Return the logits of what follows each of ``tokens``.

        With ``past``, one for each layer, ``tokens`` go on where the cached ones ended.
        """
        return self.head(self.run_layers(self.embed(tokens), past))

    def embed(self, tokens: Tensor) -> Tensor:
        """Return the hidden states (B, T, hidden) that the first layer takes."""
        return F.embedding(tokens, self.model.embed_tokens.weight).to(self.compute_dtype)

    def run_layers(self, hidden: Tensor, past: Sequence[LayerCache] | None = None) -> Tensor:
        """Carry hidden states (B, T, hidden) through the layers held here."""
        start = past[0].length if past else 0
        rotary = rotary_tables(self.shape, start, start + hidden.shape[1], hidden)
        for number, layer in enumerate(self.model.layers):
            if past is not None:
                hidden = layer(hidden, rotary, past[number])
            elif self.recompute == "none" or not torch.is_grad_enabled():
                hidden = layer(hidden, rotary)
            else:
                hidden = self._run_recomputed(layer, hidden, rotary)
        return hidden

    def _run_recomputed(self, layer: nn.Module, hidden: Tensor, rotary: Rotary) -> Tensor:
        selective = self.recompute == "selective"
        output: Tensor = checkpoint(
            layer,
            hidden,
            rotary,
            use_reentrant=False,
            preserve_rng_state=False,  # a layer draws nothing at random
            context_fn=_selective_contexts if selective else noop_context_fn,
        )
        return output

    def head(self, hidden: Tensor) -> Tensor:
        """Return the logits (B, T, vocabulary) of the last layer's hidden states."""
        hidden = self.model.norm(hidden)
        if self.lm_head is None:
            return F.linear(hidden, self.model.embed_tokens.weight.to(hidden.dtype))
        logits: Tensor = self.lm_head(hidden)
        return logits


class LayerCache:
    """Keys and values of the tokens that one layer has seen, (B, K, T, D) each."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    @property
    def length(self) -> int:
        return 0 if self.keys is None else self.keys.shape[2]

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keep those of new tokens; return those of all."""
        if self.keys is not None and self.values is not None:
            keys = torch.cat((self.keys, keys), dim=2)
            values = torch.cat((self.values, values), dim=2)
        self.keys, self.values = keys, values
        return keys, values


class _Decoder(nn.Module):
    """What Hugging Face's names hold under ``model.``."""

    def __init__(self, model: Model, dtype: torch.dtype) -> None:
        super().__init__()
        self.embed_tokens = Embedding(model.vocabulary, model.hidden, dtype)
        self.layers = nn.ModuleList(Layer(model, dtype) for _ in range(model.layers))
        self.norm = RMSNorm(model.hidden, model.norm_epsilon, dtype)


class Layer(nn.Module):
    """Attention, then the feed-forward net, each normed before and added to the residual stream."""

    def __init__(self, model: Model, dtype: torch.dtype) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(model.hidden, model.norm_epsilon, dtype)
        self.self_attn = Attention(model, dtype)
        self.post_attention_layernorm = RMSNorm(model.hidden, model.norm_epsilon, dtype)
        self.mlp = FeedForward(model, dtype)

    def forward(self, hidden: Tensor, rotary: Rotary, past: LayerCache | None = None) -> Tensor:
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), rotary, past)
        added: Tensor = self.mlp(self.post_attention_layernorm(hidden))
        return hidden + added


class Attention(nn.Module):
    """Causal attention with K key/value heads, each shared by H / K query heads."""

    def __init__(self, model: Model, dtype: torch.dtype) -> None:
        super().__init__()
        self.head_dim = model.head_dim
        queries, keys = model.heads * model.head_dim, model.kv_heads * model.head_dim
        self.q_proj = Linear(model.hidden, queries, model.qkv_bias, dtype)
        self.k_proj = Linear(model.hidden, keys, model.qkv_bias, dtype)
        self.v_proj = Linear(model.hidden, keys, model.qkv_bias, dtype)
        self.q_norm = self.k_norm = None
        if model.query_key_norm:
            self.q_norm = RMSNorm(model.head_dim, model.norm_epsilon, dtype)
            self.k_norm = RMSNorm(model.head_dim, model.norm_epsilon, dtype)
        self.o_proj = Linear(queries, model.hidden, model.output_bias, dtype)

    def forward(self, hidden: Tensor, rotary: Rotary, past: LayerCache | None = None) -> Tensor:
        queries = self.q_proj(hidden).unflatten(-1, (-1, self.head_dim))
        keys = self.k_proj(hidden).unflatten(-1, (-1, self.head_dim))
        values = self.v_proj(hidden).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        if self.q_norm is not None and self.k_norm is not None:
            queries, keys = self.q_norm(queries), self.k_norm(keys)
        queries = rotate(queries, rotary).transpose(1, 2)
        keys = rotate(keys, rotary).transpose(1, 2)
        if past is not None:
            assert past.length == 0 or queries.shape[2] == 1, "a cache goes on one token at a time"
            keys, values = past.append(keys, values)
        attended = F.scaled_dot_product_attention(
            queries, keys, values, is_causal=queries.shape[2] > 1, enable_gqa=True
        )
        output: Tensor = self.o_proj(attended.transpose(1, 2).flatten(-2))
        return output


class FeedForward(nn.Module):
    """SwiGLU (Shazeer, arXiv 2002.05202)."""

    def __init__(self, model: Model, dtype: torch.dtype) -> None:
        super().__init__()
        self.gate_proj = Linear(model.hidden, model.feed_forward, model.feed_forward_bias, dtype)
        self.up_proj = Linear(model.hidden, model.feed_forward, model.feed_forward_bias, dtype)
        self.down_proj = Linear(model.feed_forward, model.hidden, model.feed_forward_bias, dtype)

    def forward(self, hidden: Tensor) -> Tensor:
        output: Tensor = self.down_proj(F.silu(self.gate_proj(hidden)) * self.up_proj(hidden))
        return output


class Embedding(nn.Module):
    """A table with one row for each token."""

    def __init__(self, vocabulary: int, hidden: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocabulary, hidden, dtype=dtype))


class Linear(nn.Module):
    """A matrix product in the dtype of what comes in, whatever the weight is kept in."""

    def __init__(self, inputs: int, outputs: int, bias: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(outputs, dtype=dtype)) if bias else None

    def forward(self, hidden: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(hidden.dtype)
        return F.linear(hidden, self.weight.to(hidden.dtype), bias)


class RMSNorm(nn.Module):
    """Division by the root mean square, with a learned scale."""

    def __init__(self, size: int, epsilon: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.empty(size, dtype=dtype))

    def forward(self, hidden: Tensor) -> Tensor:
        return rms_norm(hidden, self.weight, self.epsilon)
