"""A model as numbers: what is needed to count, cost, place and build it."""

from __future__ import annotations

from math import prod
from typing import Literal

from antiphon.errors import Mistake
from antiphon.spec.data import Count, Data, Positive

Family = Literal["llama", "qwen2", "qwen3"]

# What a family's config.json in Hugging Face's form leaves no choice about.
FAMILY_FLAGS: dict[Family, dict[str, bool]] = {
    "llama": {"query_key_norm": False},
    "qwen2": {
        "qkv_bias": True,
        "output_bias": False,
        "feed_forward_bias": False,
        "query_key_norm": False,
    },
    "qwen3": {"feed_forward_bias": False, "query_key_norm": True},
}


class RopeScaling(Data):
    """Rotary frequencies stretched for long contexts, by Llama 3.1's rule."""

    factor: Positive
    low_frequency_factor: Positive
    high_frequency_factor: Positive
    original_context_length: Count


class Model(Data):
    """A decoder-only transformer (RMSNorm, rotary positions, SwiGLU, grouped-query attention)."""

    family: Family = "llama"
    layers: Count
    hidden: Count
    heads: Count
    kv_heads: Count
    head_dim: Count
    feed_forward: Count
    vocabulary: Count
    context_length: Count = 2048
    tied_embeddings: bool = False
    qkv_bias: bool = False
    output_bias: bool = False  # of the attention's output projection
    feed_forward_bias: bool = False
    query_key_norm: bool = False
    norm_epsilon: Positive = 1e-5
    rope_theta: Positive = 10_000.0
    rope_scaling: RopeScaling | None = None

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name (as Hugging Face names it) and shape of every parameter, in the order of a forward.

        A tied head is the embedding, and is named once.
        """
        shapes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (self.vocabulary, self.hidden)
        }
        layer = self._layer_tensors()
        for index in range(self.layers):
            shapes |= {f"model.layers.{index}.{name}": shape for name, shape in layer.items()}
        shapes["model.norm.weight"] = (self.hidden,)
        if not self.tied_embeddings:
            shapes["lm_head.weight"] = (self.vocabulary, self.hidden)
        return shapes

    @property
    def parameters(self) -> int:
        """How many numbers are trained."""
        embeddings = self.vocabulary * self.hidden * (1 if self.tied_embeddings else 2)
        layer = sum(prod(shape) for shape in self._layer_tensors().values())
        return embeddings + self.layers * layer + self.hidden

    def mistakes(self) -> tuple[Mistake, ...]:
        """What keeps this model from being built, or written as a config.json of its family."""
        found = []
        if self.heads % self.kv_heads:
            found.append(
                Mistake(
                    key="kv_heads",
                    problem=f"{self.kv_heads} does not divide the {self.heads} attention heads",
                    help=f"use a divisor of {self.heads}",
                )
            )
        if self.head_dim % 2:
            found.append(
                Mistake(
                    key="head_dim",
                    problem=f"{self.head_dim} is odd, and rotary positions turn pairs",
                    help="use an even number",
                )
            )
        if self.family == "llama" and self.hidden % self.heads:
            found.append(
                Mistake(
                    key="hidden",
                    problem=f"{self.hidden} is not a multiple of the {self.heads} attention heads",
                    help=f"use a multiple of {self.heads}",
                )
            )
        return (*found, *self._flag_mistakes())

    def _flag_mistakes(self) -> list[Mistake]:
        found = [
            Mistake(
                key=flag,
                problem=f"`{str(not only).lower()}` is not what models of family {self.family} are",
                help=f"delete the line: in this family it is always {str(only).lower()}",
            )
            for flag, only in FAMILY_FLAGS[self.family].items()
            if getattr(self, flag) != only
        ]
        if self.family != "qwen2" and self.output_bias != self.qkv_bias:
            found.append(
                Mistake(
                    key="output_bias",
                    problem=f"`{str(self.output_bias).lower()}` differs from `qkv_bias`",
                    help=f"make both equal: family {self.family} has one switch for the two",
                )
            )
        return found

    def _layer_tensors(self) -> dict[str, tuple[int, ...]]:
        hidden, feed_forward = self.hidden, self.feed_forward
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        shapes: dict[str, tuple[int, ...]] = {"input_layernorm.weight": (hidden,)}
        shapes |= _linear("self_attn.q_proj", queries, hidden, self.qkv_bias)
        shapes |= _linear("self_attn.k_proj", keys, hidden, self.qkv_bias)
        shapes |= _linear("self_attn.v_proj", keys, hidden, self.qkv_bias)
        if self.query_key_norm:
            shapes["self_attn.q_norm.weight"] = (self.head_dim,)
            shapes["self_attn.k_norm.weight"] = (self.head_dim,)
        shapes |= _linear("self_attn.o_proj", hidden, queries, self.output_bias)
        shapes["post_attention_layernorm.weight"] = (hidden,)
        shapes |= _linear("mlp.gate_proj", feed_forward, hidden, self.feed_forward_bias)
        shapes |= _linear("mlp.up_proj", feed_forward, hidden, self.feed_forward_bias)
        shapes |= _linear("mlp.down_proj", hidden, feed_forward, self.feed_forward_bias)
        return shapes


def _linear(name: str, outputs: int, inputs: int, bias: bool) -> dict[str, tuple[int, ...]]:
    weight: dict[str, tuple[int, ...]] = {f"{name}.weight": (outputs, inputs)}
    return weight | {f"{name}.bias": (outputs,)} if bias else weight
