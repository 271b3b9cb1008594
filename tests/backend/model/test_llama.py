"""The transformer: its names, that it computes what others compute, and in what precision."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
import transformers
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from antiphon.backend.model.functions import cross_entropy_sum, rms_norm
from antiphon.backend.model.initial import DEVIATION, initial_value, initialise
from antiphon.backend.model.llama import LayerCache, Transformer
from antiphon.backend.model.rotary import rotary_tables, rotate
from antiphon.errors import JobError
from antiphon.spec.huggingface_config import config_from_model, model_from_config
from antiphon.spec.model import Model, RopeScaling

SHAPE = {
    "layers": 3,
    "hidden": 48,
    "heads": 6,
    "kv_heads": 2,
    "head_dim": 8,
    "feed_forward": 64,
    "vocabulary": 97,
    "context_length": 64,
}
MODELS = {
    "llama": Model(**SHAPE),
    "llama-tied-biased": Model(
        **SHAPE, tied_embeddings=True, qkv_bias=True, output_bias=True, feed_forward_bias=True
    ),
    "llama3-long": Model(
        **{**SHAPE, "context_length": 256},
        rope_theta=500.0,
        rope_scaling=RopeScaling(
            factor=8.0,
            low_frequency_factor=1.0,
            high_frequency_factor=4.0,
            original_context_length=64,
        ),
    ),
    "qwen2": Model(family="qwen2", **SHAPE, qkv_bias=True),
    "qwen3": Model(family="qwen3", **{**SHAPE, "head_dim": 12}, query_key_norm=True),
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Model:
    return MODELS[request.param]


def built(model: Model, dtype: torch.dtype = torch.float32, **options: object) -> Transformer:
    """A transformer none of whose parameters is as it starts: biases and norms matter, too."""
    transformer = Transformer(model, dtype, **options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in transformer.named_parameters():
            noise = torch.empty(parameter.shape).normal_(0.0, 0.1, generator=generator)
            parameter.copy_(noise + 1.0 if name.endswith("norm.weight") else noise)
    return transformer


def reference(model: Model, transformer: Transformer) -> transformers.PreTrainedModel:
    config = transformers.AutoConfig.for_model(**config_from_model(model))
    other = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    other.load_state_dict(transformer.state_dict(), strict=not model.tied_embeddings)
    other.tie_weights()
    return other


def batch(model: Model, length: int = 16) -> tuple[Tensor, Tensor]:
    drawn = torch.randint(
        0, model.vocabulary, (2, length + 1), generator=torch.Generator().manual_seed(2)
    )
    return drawn[:, :-1], drawn[:, 1:]


def gradients(transformer: Transformer) -> dict[str, Tensor]:
    tokens, targets = batch(transformer.shape)
    transformer.zero_grad()
    cross_entropy_sum(transformer(tokens), targets).backward()
    return {name: parameter.grad for name, parameter in transformer.named_parameters()}


def relative(ours: Tensor, theirs: Tensor) -> float:
    ours, theirs = ours.detach().double(), theirs.detach().double()
    return float((ours - theirs).norm() / theirs.norm())


def test_parameters_have_the_names_shapes_and_order_that_the_spec_says(model: Model) -> None:
    transformer = Transformer(model, device="meta")
    named = {name: tuple(tensor.shape) for name, tensor in transformer.named_parameters()}
    assert list(named.items()) == list(model.tensors().items())
    assert list(transformer.state_dict()) == list(named)


def test_logits_and_gradients_are_those_of_transformers(model: Model) -> None:
    transformer = built(model)
    other = reference(model, transformer)
    tokens, targets = batch(model, model.context_length)
    ours, theirs = transformer(tokens), other(input_ids=tokens, use_cache=False).logits
    assert relative(ours, theirs) < 1e-5
    cross_entropy_sum(ours, targets).backward()
    F.cross_entropy(theirs.flatten(0, 1), targets.flatten(), reduction="sum").backward()
    expected = dict(other.named_parameters())
    for name, parameter in transformer.named_parameters():
        assert relative(parameter.grad, expected[name].grad) < 1e-4, name


@pytest.mark.parametrize("recompute", ["selective", "full"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_recomputation_leaves_every_gradient_as_it_is_to_the_bit(
    model: Model, dtype: torch.dtype, recompute: str
) -> None:
    keep = torch.float64 if dtype == torch.float64 else torch.float32
    expected = gradients(built(model, keep, compute_dtype=dtype))
    found = gradients(built(model, keep, compute_dtype=dtype, recompute=recompute))
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient), name


@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_recomputation_keeps_less_for_backward(recompute: str) -> None:
    model = MODELS["llama"]
    kept = {}
    for mode in ("none", recompute):
        transformer = built(model, recompute=mode)
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        hidden = transformer.embed(batch(model)[0])
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            transformer.run_layers(hidden)
        kept[mode] = sum(sizes.values())
    assert kept[recompute] < 0.8 * kept["none"]


class _Observed(TorchDispatchMode):
    """What is carried out, and in what precision; what was kept for backward never comes here."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls[function.name()] += 1
        made = function(*args, **(kwargs or {}))
        self.dtypes |= {part.dtype for part in tree_leaves(made) if isinstance(part, Tensor)}
        return made


def test_selective_recomputation_repeats_no_matrix_product_and_no_attention() -> None:
    calls = {}
    for mode in ("none", "selective", "full"):
        with _Observed() as observed:
            gradients(built(MODELS["llama"], recompute=mode))
        calls[mode] = observed.calls
    for dear in ("aten::mm", "aten::_scaled_dot_product_flash_attention_for_cpu"):
        assert calls["none"][dear] == calls["selective"][dear] < calls["full"][dear]
    assert calls["none"]["aten::silu"] < calls["selective"]["aten::silu"]


def test_float64_is_float64_throughout(model: Model) -> None:
    transformer = built(model, torch.float64)
    with _Observed() as observed:
        gradients(transformer)
    assert observed.dtypes <= {torch.float64, torch.int64, torch.bool}


def test_float64_gradients_are_the_derivatives() -> None:
    hidden = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda h, w: rms_norm(h, w, 1e-5), (hidden, weight))
    targets = torch.randint(0, 5, (2, 3))
    assert torch.autograd.gradcheck(lambda h: 0.5 * cross_entropy_sum(h, targets), (hidden,))


def test_bfloat16_compute_keeps_float32_state_and_comes_close(model: Model) -> None:
    expected = gradients(built(model, torch.float64))
    transformer = built(model, torch.float32, compute_dtype=torch.bfloat16)
    found = gradients(transformer)
    whole = torch.cat([gradient.flatten() for gradient in found.values()])
    assert whole.dtype == torch.float32
    assert transformer(batch(model)[0]).dtype == torch.bfloat16
    assert relative(whole, torch.cat([g.flatten() for g in expected.values()])) < 0.05


def test_norm_and_loss_are_computed_in_float32_for_bfloat16() -> None:
    hidden = torch.randn(4, 300).bfloat16()
    weight = torch.rand(300)
    expected = F.rms_norm(hidden.double(), (300,), weight.double(), 1e-5)
    assert torch.equal(rms_norm(hidden, weight, 1e-5), expected.float().bfloat16())
    targets = torch.randint(0, 300, (4,))
    expected_loss = F.cross_entropy(hidden.double(), targets, reduction="sum")
    assert relative(cross_entropy_sum(hidden, targets), expected_loss) < 1e-6


def test_the_parts_of_a_forward_are_the_forward(model: Model) -> None:
    transformer = built(model)
    tokens, _ = batch(model)
    hidden = transformer.run_layers(transformer.embed(tokens))
    assert torch.equal(transformer.head(hidden), transformer(tokens))


def test_a_cache_answers_as_the_whole_sequence_does(model: Model) -> None:
    transformer = built(model, torch.float64)
    tokens, _ = batch(model)
    past = [LayerCache() for _ in range(model.layers)]
    with torch.no_grad():
        parts = [transformer(tokens[:, :7], past)]
        parts += [transformer(tokens[:, [at]], past) for at in range(7, tokens.shape[1])]
        assert relative(torch.cat(parts, dim=1), transformer(tokens)) < 1e-12


def test_rotation_depends_on_distance_alone() -> None:
    model = MODELS["llama3-long"]
    query, key = torch.randn(2, 1, 1, 1, model.head_dim, dtype=torch.float64)
    products = []
    for start in (0, 100):
        tables = rotary_tables(model, start, start + 8, query)
        turned = [rotate(x.expand(1, 8, 1, -1), tables) for x in (query, key)]
        products.append(torch.einsum("bqhd,bkhd->qk", *turned))
    assert torch.allclose(*products, rtol=0, atol=1e-12)


def test_a_parameter_starts_the_same_in_any_precision_and_any_model_that_has_it() -> None:
    small, large = MODELS["llama"], MODELS["llama"].model_copy(update={"vocabulary": 111})
    single, double = Transformer(small), Transformer(large, torch.float64)
    initialise(single, small, seed=5)
    initialise(double, large, seed=5)
    names = [name for name in small.tensors() if name.startswith("model.layers")]
    for name in names:
        ours, theirs = single.get_parameter(name), double.get_parameter(name)
        assert torch.equal(ours.double(), theirs), name
    initialise(double, large, seed=6)
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(single.get_parameter(name).double(), double.get_parameter(name))


def test_what_writes_to_the_residual_stream_starts_smaller_and_no_two_start_alike() -> None:
    model = MODELS["llama-tied-biased"].model_copy(update={"hidden": 384, "layers": 8})
    values = {n: initial_value(model, n, s, seed=0) for n, s in model.tensors().items()}
    for name, value in values.items():
        if name.endswith("norm.weight"):
            assert bool((value == 1).all())
        elif name.endswith("bias"):
            assert bool((value == 0).all())
        else:
            writes = name.endswith(("o_proj.weight", "down_proj.weight"))
            expected = DEVIATION / 4 if writes else DEVIATION
            assert float(value.std()) == pytest.approx(expected, rel=0.03), name
    first, second = (values[f"model.layers.{layer}.mlp.up_proj.weight"] for layer in (0, 1))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("family", ["gpt2", "mixtral"])
def test_a_family_that_is_only_planned_for_is_not_built(family: str) -> None:
    with pytest.raises(JobError, match=f"family `{family}` can be planned for"):
        Transformer(model_from_config({"model_type": family}), device="meta")


def test_a_tied_head_is_the_embedding() -> None:
    transformer = built(MODELS["llama-tied-biased"])
    hidden = torch.randn(1, 1, 48)
    expected = F.linear(transformer.model.norm(hidden), transformer.model.embed_tokens.weight)
    assert torch.equal(transformer.head(hidden), expected)
