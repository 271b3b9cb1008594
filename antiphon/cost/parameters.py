"""How many of a model's numbers a rank holds, part by part.

Matrices are split over the tensor-parallel ranks; norms and the biases of products whose input is
split are held by all of them. The vocabulary is padded to a multiple of the ranks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from antiphon.spec.model import Model

Amount = float | NDArray[Any]
"""A number, or one for each of several layouts."""


def layer_parameters(model: Model, tensor: Amount) -> Amount:
    """Return how many numbers of one layer a rank holds."""
    queries = model.heads * model.head_dim
    keys = model.kv_heads * model.head_dim
    split = 2 * model.hidden * (queries + keys) + 3 * model.hidden * model.feed_forward
    whole = 2 * model.hidden
    if model.qkv_bias:
        split += queries + 2 * keys
    if model.output_bias:
        whole += model.hidden
    if model.feed_forward_bias:
        split += 2 * model.feed_forward
        whole += model.hidden
    if model.query_key_norm:
        whole += 2 * model.head_dim
    return split / tensor + whole


def embedding_parameters(model: Model, tensor: Amount) -> Amount:
    """Return how many numbers of the embedding, or of an untied head, a rank holds."""
    return vocabulary_of_rank(model, tensor) * model.hidden


def head_parameters(model: Model, tensor: Amount, has_embedding: bool) -> Amount:
    """Return the numbers of the last norm and the head that come with the last layer.

    A tied head is the embedding: it is held once where both are on one rank, and is held (and its
    gradient summed with the other's) on both ends of a pipeline.
    """
    if model.tied_embeddings and has_embedding:
        return float(model.hidden)
    return model.hidden + embedding_parameters(model, tensor)


def vocabulary_of_rank(model: Model, tensor: Amount) -> NDArray[np.float64]:
    """Return how many rows of embedding and head a rank holds."""
    return np.ceil(np.asarray(model.vocabulary / tensor, np.float64))
