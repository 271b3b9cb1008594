"""Rotary positions (Su et al., RoFormer, arXiv 2104.09864), as Hugging Face's weights expect them.

Number i of a head is paired with number i + D/2, D being how many numbers a head has.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from antiphon.spec.model import Model, RopeScaling

Rotary = tuple[Tensor, Tensor]  # cosines, and sines with the first half negated: (T, 1, D) each


def rotary_tables(model: Model, start: int, end: int, like: Tensor) -> Rotary:
    """Return the rotations of positions ``start`` to ``end``, in the dtype and device of ``like``.

    Angles are float32, as Hugging Face takes them, or float64 in a float64 model.
    """
    wide = torch.promote_types(like.dtype, torch.float32)
    exponent = torch.arange(0, model.head_dim, 2, device=like.device).to(wide) / model.head_dim
    frequency = 1.0 / (model.rope_theta**exponent)
    if model.rope_scaling is not None:
        frequency = _stretched(frequency, model.rope_scaling)
    angle = torch.outer(torch.arange(start, end, device=like.device).to(wide), frequency)
    cosine, sine = angle.cos().to(like.dtype), angle.sin().to(like.dtype)
    return (
        torch.cat((cosine, cosine), dim=-1).unsqueeze(1),
        torch.cat((-sine, sine), dim=-1).unsqueeze(1),
    )


def rotate(heads: Tensor, rotary: Rotary) -> Tensor:
    """Turn every pair of ``heads`` (B, T, heads, D) by the angle of its position."""
    cosine, signed_sine = rotary
    return torch.addcmul(heads * cosine, heads.roll(heads.shape[-1] // 2, dims=-1), signed_sine)


def _stretched(frequency: Tensor, scaling: RopeScaling) -> Tensor:
    """Llama 3.1's rule: few turns in the original context, stretched; many, kept; between, a ramp.

    As `_compute_llama3_parameters` of transformers.
    """
    turns = scaling.original_context_length * frequency / (2 * math.pi)
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    kept = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    return (1 - kept) * frequency / scaling.factor + kept * frequency
