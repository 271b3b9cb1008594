"""Checkpoints: that transformers loads ours with the same logits, and that we load theirs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from antiphon.backend.model.huggingface import load_transformer, load_weights, pretrained_files
from antiphon.backend.model.initial import initialise
from antiphon.backend.model.llama import Transformer
from antiphon.backend.text.tokenizer import END_OF_TEXT, train_tokenizer
from antiphon.errors import RunError
from antiphon.spec.huggingface_config import config_from_model
from antiphon.spec.model import Model, RopeScaling

SHAPE = {
    "layers": 2,
    "hidden": 32,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 8,
    "feed_forward": 48,
    "vocabulary": 280,
    "context_length": 64,
}
SCALING = RopeScaling(
    factor=8.0, low_frequency_factor=1.0, high_frequency_factor=4.0, original_context_length=16
)
MODELS = {
    "llama": Model(**SHAPE),
    "llama-tied": Model(**SHAPE, tied_embeddings=True, norm_epsilon=1e-6),
    "llama3": Model(**SHAPE, rope_theta=500_000.0, rope_scaling=SCALING),
    "qwen2": Model(family="qwen2", **SHAPE, qkv_bias=True),
    "qwen2-tied": Model(family="qwen2", **SHAPE, qkv_bias=True, tied_embeddings=True),
    "qwen3": Model(family="qwen3", **{**SHAPE, "head_dim": 12}, query_key_norm=True),
    "qwen3-tied": Model(family="qwen3", **SHAPE, query_key_norm=True, tied_embeddings=True),
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Model:
    return MODELS[request.param]


def built(model: Model) -> Transformer:
    torch.manual_seed(0)
    transformer = Transformer(model)
    initialise(transformer, model, seed=3)
    with torch.no_grad():
        for parameter in transformer.parameters():  # so that no bias is 0 and no norm 1
            parameter.mul_(2.0).add_(torch.randn(parameter.shape) * 0.05)
    return transformer


def written(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def tokenizer_json() -> bytes:
    return train_tokenizer(iter(["some text to learn from"]), 280).to_str().encode()


def saved_by_transformers(model: Model, folder: Path, **options: object) -> torch.nn.Module:
    config = transformers.AutoConfig.for_model(**config_from_model(model))
    other = transformers.AutoModelForCausalLM.from_config(config)
    other.save_pretrained(folder, **options)
    return other


def test_transformers_loads_a_checkpoint_with_the_same_logits(model: Model, tmp_path: Path) -> None:
    transformer = built(model)
    written(tmp_path, pretrained_files(model, transformer.state_dict()))
    other, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert other.dtype == torch.float32
    tokens = torch.randint(0, model.vocabulary, (2, model.context_length))
    with torch.no_grad():
        ours, theirs = transformer(tokens), other(input_ids=tokens).logits
    assert ours.std() > 0.3  # so that 1e-5 means something
    assert (ours - theirs).abs().max() < 1e-5


def test_transformers_loads_the_tokenizer(tmp_path: Path) -> None:
    content = tokenizer_json()
    model = MODELS["llama"]
    written(tmp_path, pretrained_files(model, built(model).state_dict(), content))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "def f(x):\n    return 'žluť'  # text\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.eos_token == END_OF_TEXT
    assert tokenizer.model_max_length == model.context_length
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    assert config.eos_token_id == tokenizer.eos_token_id


def test_what_transformers_4_asks_for_is_there(tmp_path: Path) -> None:
    model = MODELS["llama"]
    files = pretrained_files(model, built(model).state_dict(), tokenizer_json())
    written(tmp_path, files)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert (
        json.loads(files["tokenizer_config.json"])["tokenizer_class"] == "PreTrainedTokenizerFast"
    )


def test_weights_of_transformers_give_the_same_logits_here(model: Model, tmp_path: Path) -> None:
    other = saved_by_transformers(model, tmp_path)
    transformer = load_transformer(tmp_path)
    assert transformer.shape == model
    tokens = torch.randint(0, model.vocabulary, (2, 16))
    with torch.no_grad():
        assert (transformer(tokens) - other(input_ids=tokens).logits).abs().max() < 1e-5


def test_weights_in_several_files_are_read(tmp_path: Path) -> None:
    model = MODELS["qwen2"]
    other = saved_by_transformers(model, tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    weights = load_weights(tmp_path, model)
    expected = other.state_dict()
    assert list(weights) == list(model.tensors())
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights.items())


def test_what_was_written_is_read_to_the_bit(model: Model, tmp_path: Path) -> None:
    expected = built(model).state_dict()
    weights = load_weights(written(tmp_path, pretrained_files(model, expected)), model)
    assert list(weights) == list(expected)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_weights_keep_the_precision_they_were_saved_in(tmp_path: Path) -> None:
    model = MODELS["llama"]
    half = {name: tensor.bfloat16() for name, tensor in built(model).state_dict().items()}
    written(tmp_path, pretrained_files(model, half))
    assert load_weights(tmp_path, model)["model.norm.weight"].dtype == torch.bfloat16
    assert transformers.AutoConfig.from_pretrained(tmp_path).dtype == torch.bfloat16
    transformer = load_transformer(tmp_path, torch.float64)
    assert {parameter.dtype for parameter in transformer.parameters()} == {torch.float64}


def test_a_tied_head_written_twice_and_old_rotary_tables_are_passed_over(tmp_path: Path) -> None:
    model = MODELS["llama-tied"]
    weights = dict(built(model).state_dict())
    extra = {
        "lm_head.weight": weights["model.embed_tokens.weight"].clone(),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
    }
    save_file(weights | extra, tmp_path / "model.safetensors")
    assert list(load_weights(tmp_path, model)) == list(model.tensors())


class TestWeightsThatDoNotFit:
    @pytest.fixture
    def model(self) -> Model:
        return MODELS["llama"]

    @pytest.fixture
    def folder(self, model: Model, tmp_path: Path) -> Path:
        return written(tmp_path, pretrained_files(model, built(model).state_dict()))

    def changed(self, folder: Path, model: Model, **changes: torch.Tensor | None) -> str:
        """The message once tensors (``__`` for a dot) were replaced, or taken away by None."""
        tensors = load_file(folder / "model.safetensors")
        for key, tensor in changes.items():
            name = key.replace("__", ".")
            tensors.pop(name, None)
            if tensor is not None:
                tensors[name] = tensor
        save_file(tensors, folder / "model.safetensors")
        with pytest.raises(RunError) as caught:
            load_weights(folder, model)
        assert caught.value.help
        return caught.value.problem

    def test_say_what_is_missing(self, folder: Path, model: Model) -> None:
        assert "1 missing: lm_head.weight" in self.changed(folder, model, lm_head__weight=None)

    def test_say_what_is_unknown(self, folder: Path, model: Model) -> None:
        shown = self.changed(folder, model, score__weight=torch.ones(1))
        assert "1 unknown: score.weight" in shown

    def test_say_what_has_another_shape(self, folder: Path, model: Model) -> None:
        shown = self.changed(folder, model, model__norm__weight=torch.ones(31))
        assert "1 of another shape: model.norm.weight (31,) instead of (32,)" in shown

    def test_name_a_few_of_many(self, folder: Path, model: Model) -> None:
        larger = model.model_copy(update={"layers": 4})
        with pytest.raises(RunError, match=r"18 missing: (model\.\S+, ){3}15 more"):
            load_weights(folder, larger)

    def test_are_not_written_either(self, model: Model) -> None:
        weights = built(model).state_dict()
        del weights["model.norm.weight"]
        with pytest.raises(RunError, match=r"1 missing: model\.norm\.weight"):
            pretrained_files(model, weights)


class TestAFolderThatIsNotWhole:
    def test_without_weights(self, tmp_path: Path) -> None:
        with pytest.raises(RunError, match=r"holds neither model\.safetensors nor"):
            load_weights(tmp_path, MODELS["llama"])

    def test_with_a_file_cut_short(self, tmp_path: Path) -> None:
        model = MODELS["llama"]
        files = pretrained_files(model, built(model).state_dict())
        (tmp_path / "model.safetensors").write_bytes(files["model.safetensors"][:-100])
        with pytest.raises(RunError, match=r"model\.safetensors cannot be read"):
            load_weights(tmp_path, model)

    def test_without_one_of_several_files(self, tmp_path: Path) -> None:
        model = MODELS["qwen2"]
        saved_by_transformers(model, tmp_path, max_shard_size="20KB")
        lost = sorted(tmp_path.glob("*.safetensors"))[1]
        lost.unlink()
        with pytest.raises(RunError, match=f"lacks {lost.name}, which"):
            load_weights(tmp_path, model)

    @pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": 1}'])
    def test_with_an_index_that_is_none(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "model.safetensors.index.json").write_text(content)
        with pytest.raises(RunError, match=r"index\.json cannot be read"):
            load_weights(tmp_path, MODELS["llama"])


def test_the_config_is_the_specs_own(model: Model) -> None:
    files = pretrained_files(model, built(model).state_dict())
    assert json.loads(files["config.json"]).items() >= config_from_model(model).items()
