"""Layers whose tensors several ranks share compute what one rank computes alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis.strategies import integers
from thread_peers import Call, ThreadPeers, on_ranks
from torch import Tensor

from antiphon.backend.model import tensor_parallel
from antiphon.backend.model.functions import cross_entropy_sum
from antiphon.backend.model.initial import initialise
from antiphon.backend.model.llama import Transformer
from antiphon.backend.model.tensor_parallel import (
    shard,
    square_norm,
    sum_replicated,
    unshard,
    vocabulary_cross_entropy_sum,
)
from antiphon.backend.model.weight_gradients import WeightGradients, compute
from antiphon.backend.runs.training import run_training
from antiphon.cost.rank_work import rank_work
from antiphon.cost.work import Kind, Operation, Work
from antiphon.errors import JobError
from antiphon.policy.layout.tensor import held_tensors
from antiphon.spec.job import Train
from antiphon.spec.model import Model
from antiphon.spec.plan import Plan, Recompute

SEQUENCES, LENGTH = 2, 8
SHAPE = {
    "layers": 2,
    "hidden": 48,
    "heads": 8,
    "kv_heads": 4,
    "head_dim": 6,
    "feed_forward": 32,
    "vocabulary": 97,  # does not divide
    "context_length": 64,
}
MODELS = {
    "llama": Model(**SHAPE),
    "llama-tied-biased": Model(
        **SHAPE, tied_embeddings=True, qkv_bias=True, output_bias=True, feed_forward_bias=True
    ),
    "qwen2-tied": Model(family="qwen2", **SHAPE, qkv_bias=True, tied_embeddings=True),
    "qwen3-biased": Model(
        family="qwen3", **SHAPE, query_key_norm=True, qkv_bias=True, output_bias=True
    ),
}
RECOMPUTES: tuple[Recompute, ...] = ("none", "selective", "full")


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Model:
    return MODELS[request.param]


@dataclass
class Result:
    """What one rank computed in a step, and the collectives that it called in each part of it."""

    loss: float
    gradients: dict[str, Tensor]
    square_norm: float
    forward: list[Call]
    backward: list[Call]
    norm: list[Call]


def whole_parameters(model: Model) -> dict[str, Tensor]:
    """None of them as it starts: biases and norms matter, too."""
    generator = torch.Generator().manual_seed(1)
    parameters = {}
    for name, shape in model.tensors().items():
        noise = torch.empty(shape, dtype=torch.float64).normal_(0.0, 0.1, generator=generator)
        parameters[name] = noise + 1.0 if name.endswith("norm.weight") else noise
    return parameters


def batch(model: Model) -> tuple[Tensor, Tensor]:
    shape = (SEQUENCES, LENGTH + 1)
    generator = torch.Generator().manual_seed(2)
    drawn = torch.randint(0, model.vocabulary, shape, generator=generator)
    return drawn[:, :-1], drawn[:, 1:]


def loaded(model: Model, dtype: torch.dtype, peers: ThreadPeers | None, **options) -> Transformer:
    transformer = Transformer(model, dtype, peers=peers, **options)
    rank, ranks = (peers.rank, peers.ranks) if peers else (0, 1)
    whole = whole_parameters(model)
    own = {n: shard(n, whole[n], rank, ranks) for n, _ in transformer.named_parameters()}
    transformer.load_state_dict(own)
    return transformer


def step(
    model: Model, dtype: torch.dtype, peers: ThreadPeers | None, recompute: Recompute = "none"
) -> Result:
    """Forward, backward and the gradients' norm."""
    keep = torch.float64 if dtype == torch.float64 else torch.float32
    transformer = loaded(model, keep, peers, compute_dtype=dtype, recompute=recompute)
    tokens, targets = batch(model)
    loss = transformer.loss(transformer(tokens), targets) / targets.numel()
    forward = list(peers.calls) if peers else []
    with torch.autograd.set_multithreading_enabled(False):
        loss.backward()
    backward = peers.calls[len(forward) :] if peers else []
    gradients = {name: p.grad for name, p in transformer.named_parameters()}
    if peers:
        sum_replicated(gradients, peers)
    total = square_norm(gradients, peers.rank if peers else 0)
    norm = peers.calls[len(forward) + len(backward) :] if peers else []
    return Result(loss.item(), gradients, total.item(), forward, backward, norm)


def gathered(results: list[Result]) -> dict[str, Tensor]:
    return {n: unshard(n, [r.gradients[n] for r in results]) for n in results[0].gradients}


def worst(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Greatest relative difference of any gradient."""
    assert found.keys() == expected.keys()
    return max(
        float((found[n].double() - g.double()).norm() / g.double().norm())
        for n, g in expected.items()
    )


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4), (torch.bfloat16, 0.1)]
)
def test_loss_and_every_gradient_are_those_of_one_rank_alone(
    model: Model, dtype: torch.dtype, tolerance: float, ranks: int
) -> None:
    alone = step(model, dtype, None)
    results = on_ranks(ranks, lambda peers: step(model, dtype, peers))
    for result in results:
        assert result.loss == pytest.approx(alone.loss, rel=tolerance)
    assert worst(gathered(results), alone.gradients) < tolerance


@pytest.mark.parametrize("ranks", [2, 4])
def test_the_ranks_square_norms_add_up_to_the_models(model: Model, ranks: int) -> None:
    alone = step(model, torch.float64, None)
    results = on_ranks(ranks, lambda peers: step(model, torch.float64, peers))
    total = sum(result.square_norm for result in results)
    assert total == pytest.approx(alone.square_norm, rel=1e-12)
    expected = sum(float(g.square().sum()) for g in alone.gradients.values())
    assert alone.square_norm == pytest.approx(expected, rel=1e-12)
    assert all(result.square_norm < total for result in results)  # none is the model's by itself


def test_without_the_sum_gradients_of_norms_and_biases_are_wrong(model: Model) -> None:
    """What `sum_replicated` is for: these and no others lack what other ranks have seen."""

    def unsummed(peers: ThreadPeers) -> Result:
        peers.all_reduce = lambda tensor: None
        return step(model, torch.float64, peers)

    alone = step(model, torch.float64, None).gradients
    found = gathered(on_ranks(2, unsummed))
    for name, gradient in alone.items():
        is_wrong = not torch.allclose(found[name], gradient, rtol=1e-9, atol=0)
        is_split = tensor_parallel.split_axis(name) is not None
        assert is_wrong != is_split, name


@pytest.mark.parametrize("recompute", ["selective", "full"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_recomputation_leaves_every_gradient_of_a_rank_as_it_is_to_the_bit(
    model: Model, dtype: torch.dtype, recompute: Recompute
) -> None:
    plain = on_ranks(2, lambda peers: step(model, dtype, peers))
    again = on_ranks(2, lambda peers: step(model, dtype, peers, recompute))
    for one, other in zip(plain, again, strict=True):
        for name, gradient in one.gradients.items():
            assert torch.equal(other.gradients[name], gradient), name


def named(work: Work) -> list[Call]:
    """The collectives that ``work`` says are called."""
    return [
        (Operation(int(shape[0])), int(shape[1]), int(nbytes))
        for kind, nbytes, shape in zip(work.kind, work.nbytes, work.shape, strict=True)
        if kind == Kind.COLLECTIVE
    ]


@pytest.mark.parametrize("precision", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("recompute", RECOMPUTES)
@pytest.mark.parametrize("ranks", [2, 4])
def test_collectives_are_those_that_the_cost_model_names_in_kind_ranks_bytes_and_order(
    model: Model, ranks: int, recompute: Recompute, precision: str
) -> None:
    plan = Plan(
        tensor=ranks,
        micro_batch=SEQUENCES,
        micro_batches=1,
        precision=precision,
        recompute=recompute,
    )
    work = rank_work(model, plan, Train(sequence_length=LENGTH, global_batch=2, steps=1), [])
    dtype = getattr(torch, precision)
    for result in on_ranks(ranks, lambda peers: step(model, dtype, peers, recompute)):
        assert result.forward == named(work.forward)
        assert result.backward == named(work.backward)
        assert result.norm == named(work.norm)


def test_weights_left_for_later_call_no_collective_and_have_the_same_gradients(
    model: Model,
) -> None:
    def split(peers: ThreadPeers) -> tuple[dict[str, Tensor], list[Call], int]:
        transformer = loaded(model, torch.float64, peers)
        for parameter in transformer.parameters():
            parameter.grad = torch.zeros_like(parameter)
        deferred = WeightGradients()
        deferred.hand_to(transformer)
        tokens, targets = batch(model)
        loss = transformer.loss(transformer(tokens), targets) / targets.numel()
        called = len(peers.calls)
        with torch.autograd.set_multithreading_enabled(False), deferred.left_out() as left:
            loss.backward()
        during = list(peers.calls[called:])
        compute(left, lambda _: None)
        after = len(peers.calls) - called - len(during)
        gradients = {name: p.grad for name, p in transformer.named_parameters()}
        sum_replicated(gradients, peers)
        return gradients, during, after

    whole = on_ranks(2, lambda peers: step(model, torch.float64, peers))
    for (gradients, during, after), expected in zip(on_ranks(2, split), whole, strict=True):
        assert worst(gradients, expected.gradients) < 1e-12
        assert during == expected.backward
        assert after == 0


@pytest.mark.parametrize("layers", [range(2), range(1), range(1, 2)])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_a_rank_holds_what_the_policy_says(model: Model, ranks: int, layers: range) -> None:
    for rank in range(ranks):
        peers = None if ranks == 1 else ThreadPeers(rank, [None] * ranks, None)
        transformer = Transformer(model, peers=peers, layers=layers, device="meta")
        held = {name: tuple(tensor.shape) for name, tensor in transformer.named_parameters()}
        assert list(held.items()) == list(held_tensors(model, layers, rank, ranks).items())


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_a_parameter_that_was_cut_is_put_together_as_it_was(model: Model, ranks: int) -> None:
    for name, tensor in whole_parameters(model).items():
        parts = [shard(name, tensor, rank, ranks) for rank in range(ranks)]
        assert torch.equal(unshard(name, parts), tensor)
        assert all(part.is_contiguous() for part in parts)
        if tensor_parallel.split_axis(name) is not None:
            assert sum(part.numel() for part in parts) == tensor.numel()


@pytest.mark.parametrize("ranks", [2, 4])
def test_all_layouts_start_from_the_same_parameters(model: Model, ranks: int) -> None:
    alone = Transformer(model)
    initialise(alone, model, seed=3)

    def start(peers: ThreadPeers) -> dict[str, Tensor]:
        transformer = Transformer(model, peers=peers)
        initialise(transformer, model, 3, peers.rank, peers.ranks)
        return transformer.state_dict()

    parts = on_ranks(ranks, start)
    for name, tensor in alone.state_dict().items():
        assert torch.equal(unshard(name, [part[name] for part in parts]), tensor), name


def test_stages_one_after_the_other_are_the_whole_model(model: Model) -> None:
    """Between stages goes each rank's own part of the tokens."""

    def cut(peers: ThreadPeers) -> float:
        first, last = (
            loaded(model, torch.float64, peers, layers=layers) for layers in (range(1), range(1, 2))
        )
        tokens, targets = batch(model)
        hidden = first.run_layers(first.embed(tokens))
        assert tuple(hidden.shape) == first.hidden_shape(SEQUENCES, LENGTH)
        return last.loss(last.head(last.run_layers(hidden)), targets).item() / targets.numel()

    alone = step(model, torch.float64, None).loss
    assert on_ranks(2, cut) == pytest.approx([alone] * 2, rel=1e-12)


@given(
    ranks=integers(1, 5),
    rows=integers(1, 6),
    extra=integers(0, 20),
    shift=integers(-300, 300),
    seed=integers(0, 99),
)
@settings(max_examples=30, deadline=None)
def test_a_loss_over_parts_of_the_vocabulary_is_that_over_all_of_it(
    ranks: int, rows: int, extra: int, shift: int, seed: int
) -> None:
    """Also where one rank's logits are so great that the exponentials of others vanish."""
    vocabulary = ranks + extra
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, vocabulary, dtype=torch.float64, generator=generator)
    targets = torch.randint(0, vocabulary, (rows,), generator=generator)
    logits[:, 0] += shift
    logits.requires_grad_()
    expected = cross_entropy_sum(logits, targets)
    (expected_gradient,) = torch.autograd.grad(expected * 0.5, logits)

    def part(peers: ThreadPeers) -> tuple[float, Tensor]:
        own = shard("lm_head.weight", logits.detach().t(), peers.rank, ranks).t()
        own = own.requires_grad_()
        total = vocabulary_cross_entropy_sum(own, targets, vocabulary, peers)
        return total.item(), torch.autograd.grad(total * 0.5, own)[0]

    results = on_ranks(ranks, part)
    assert all(total == pytest.approx(expected.item(), rel=1e-12) for total, _ in results)
    whole = torch.cat([gradient for _, gradient in results], dim=1)
    # A probability less one: of what is left of it some last digits are rounding.
    assert torch.allclose(whole, expected_gradient, rtol=1e-10, atol=1e-14)


def test_ranks_that_cannot_share_a_model_are_refused_before_any_process_starts(
    tmp_path: Path,
) -> None:
    plan = Plan(tensor=8, micro_batch=1, micro_batches=1, precision="float32")
    train = Train(sequence_length=LENGTH, global_batch=1, steps=1)
    with pytest.raises(JobError, match="tensor = 8 does not divide the 4 key/value heads"):
        run_training(MODELS["llama"], plan, train, tmp_path, tmp_path)
    assert not list(tmp_path.iterdir())
