"""The inventory: what a micro-batch needs, counted against closed forms."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis.strategies import booleans, integers, sampled_from

from antiphon.cost.inventory import (
    Setting,
    inventory,
    matmul_parameters,
    model_flops_per_token,
    update_work,
)
from antiphon.cost.parameters import (
    embedding_parameters,
    head_parameters,
    layer_parameters,
)
from antiphon.cost.work import Kind, Part, Phase
from antiphon.spec.model import Model
from antiphon.spec.plan import Recompute

PARTS = (Part.EMBEDDING, Part.LAYER, Part.HEAD)


def drawn_model(layers: int, heads: int, groups: int, is_qwen: bool, tied: bool) -> Model:
    return Model(
        family="qwen3" if is_qwen else "llama",
        layers=layers,
        hidden=16 * heads * groups,
        heads=heads * groups,
        kv_heads=groups,
        head_dim=16,
        feed_forward=48 * groups,
        vocabulary=300,
        tied_embeddings=tied,
        query_key_norm=is_qwen,
    )


MODELS = {
    "layers": integers(1, 5),
    "heads": integers(1, 4),
    "groups": sampled_from([1, 2, 4]),
    "is_qwen": booleans(),
    "tied": booleans(),
}


def step_flops(model: Model, setting: Setting, recompute: Recompute = "none") -> float:
    """Of one micro-batch forward and backward through the whole model, on one rank."""
    total = 0.0
    for part in PARTS:
        times = model.layers if part is Part.LAYER else 1
        for phase in (Phase.FORWARD, Phase.BACKWARD):
            total += times * inventory(model, part, phase, setting, recompute).flops.sum()
    return total


@given(micro_batch=integers(1, 8), length=integers(1, 64), **MODELS)
def test_flops_are_six_for_each_matrix_number_and_token_plus_attention(
    micro_batch: int, length: int, **shape: int
) -> None:
    model = drawn_model(**shape)
    tokens = micro_batch * length
    attention = 12 * model.layers * length * model.heads * model.head_dim
    expected = tokens * (6 * matmul_parameters(model) + attention)
    flops = step_flops(model, Setting(1, micro_batch, length, "float32"))
    assert flops == pytest.approx(expected, rel=1e-12)
    assert tokens * model_flops_per_token(model, length) == pytest.approx(expected, rel=1e-12)


@given(**MODELS)
def test_matrix_numbers_are_those_of_the_models_matrices(**shape: int) -> None:
    model = drawn_model(**shape)
    tensors = model.tensors()
    matrices = sum(prod(s) for s in tensors.values() if len(s) == 2)
    embedding = prod(tensors["model.embed_tokens.weight"])
    assert matmul_parameters(model) == matrices - (0 if model.tied_embeddings else embedding)


@given(tensor=sampled_from([1, 2, 4]), **MODELS)
def test_tensor_parallel_ranks_share_the_flops_evenly(tensor: int, **shape: int) -> None:
    model = drawn_model(**(shape | {"groups": 4}))
    whole = step_flops(model, Setting(1, 2, 16, "float32"))
    part = step_flops(model, Setting(tensor, 2, 16, "float32"))
    assert tensor * part == pytest.approx(whole, rel=1e-12)


def test_a_layer_reduces_twice_forward_and_twice_backward(make_model: Callable[..., Model]) -> None:
    model = make_model()
    setting = Setting(2, 3, 8, "bfloat16")
    for phase in (Phase.FORWARD, Phase.BACKWARD):
        work = inventory(model, Part.LAYER, phase, setting)
        payloads = work.nbytes[work.kind == Kind.COLLECTIVE]
        assert payloads.tolist() == [2 * 3 * 8 * model.hidden] * 2


def test_full_recomputation_adds_the_forward_and_selective_no_matrix_product(
    make_model: Callable[..., Model],
) -> None:
    model, setting = make_model(), Setting(1, 2, 16, "float32")
    forward = inventory(model, Part.LAYER, Phase.FORWARD, setting)
    plain = inventory(model, Part.LAYER, Phase.BACKWARD, setting)
    full = inventory(model, Part.LAYER, Phase.BACKWARD, setting, "full")
    selective = inventory(model, Part.LAYER, Phase.BACKWARD, setting, "selective")
    assert full.flops.sum() == forward.flops.sum() + plain.flops.sum()
    assert full.nbytes.sum() == forward.nbytes.sum() + plain.nbytes.sum()
    assert selective.flops.sum() == plain.flops.sum()
    assert plain.nbytes.sum() < selective.nbytes.sum() < full.nbytes.sum()


def test_layouts_in_arrays_are_those_one_by_one(make_model: Callable[..., Model]) -> None:
    model = make_model(kv_heads=4)
    tensor, micro_batch = np.array([1, 2, 4]), np.array([4, 2, 1])
    for part in PARTS:
        for phase in (Phase.FORWARD, Phase.BACKWARD):
            together = inventory(model, part, phase, Setting(tensor, micro_batch, 16, "float32"))
            for column in range(3):
                setting = Setting(int(tensor[column]), int(micro_batch[column]), 16, "float32")
                alone = inventory(model, part, phase, setting)
                assert together.flops[:, column].tolist() == alone.flops.tolist()
                assert together.nbytes[:, column].tolist() == alone.nbytes.tolist()
                assert together.shape[..., column].tolist() == alone.shape.tolist()


@given(**MODELS)
def test_a_rank_alone_holds_exactly_the_models_parameters(**shape: int) -> None:
    model = drawn_model(**shape)
    held = (
        model.layers * layer_parameters(model, 1)
        + embedding_parameters(model, 1)
        + head_parameters(model, 1, has_embedding=True)
    )
    assert held == model.parameters


def test_biases_are_counted(make_model: Callable[..., Model]) -> None:
    model = make_model(qkv_bias=True, output_bias=True, feed_forward_bias=True)
    layer = (model.parameters - make_model().parameters) / model.layers
    assert layer_parameters(model, 1) - layer_parameters(make_model(), 1) == layer


def test_both_ends_of_a_pipeline_hold_a_tied_embedding(make_model: Callable[..., Model]) -> None:
    model = make_model(tied_embeddings=True)
    apart = embedding_parameters(model, 1) + head_parameters(model, 1, has_embedding=False)
    assert apart == 2 * model.vocabulary * model.hidden + model.hidden


def test_a_vocabulary_that_does_not_divide_is_padded(make_model: Callable[..., Model]) -> None:
    model = make_model(vocabulary=501)
    assert embedding_parameters(model, 4) == 126 * model.hidden


def test_an_update_moves_state_of_float32_even_of_a_bfloat16_model() -> None:
    assert update_work(1000, "bfloat16").nbytes == update_work(1000, "float32").nbytes
    assert update_work(1000, "float64").nbytes == 2 * update_work(1000, "float32").nbytes
